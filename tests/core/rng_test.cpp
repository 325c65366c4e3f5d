#include "core/rng.h"

#include "tests/support/catch.h"

namespace itemloom {

TEST_CASE("Philox4x32-10 gives the published known answers", "[rng]") {
  // Random123's kat_vectors for philox4x32-10.
  REQUIRE(philox({0, 0, 0, 0}, 0, 0) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  REQUIRE(philox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) == PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  REQUIRE(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
          PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the dropout threshold and scale match the probability", "[rng]") {
  REQUIRE(dropout_threshold(0.0f) == 0);
  REQUIRE(dropout_scale(0.0f) == 1.0f);
  REQUIRE(dropout_threshold(0.5f) == 32768);
  REQUIRE(dropout_scale(0.5f) == 2.0f);
  const DropoutKey key{7, 3, 1};
  int64_t dropped = 0;
  for (uint32_t row = 0; row < 1000; ++row) {
    for (uint32_t column = 0; column < 64; ++column)
      dropped += !dropout_keeps(key, row, column, dropout_threshold(0.2f));
  }
  REQUIRE(dropped > 12400);
  REQUIRE(dropped < 13200);
}

}  // namespace itemloom
