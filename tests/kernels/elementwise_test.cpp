#include "kernels/elementwise.h"

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

TEST_CASE("fill and add touch every element once and nothing else", "[elementwise][device]") {
  test::on_every_device([](Device& device) {
    for (int threads : test::thread_counts(device)) {
      test::Threads scope(threads);
      for (int64_t count : {0, 1, 3, 15, 16, 17, 31, 33, 65, 16384, 50001}) {
        const int64_t odd = count % 2;
        Guarded<float> x(count, odd), y(count, 3 * odd), filled(count, odd);
        test::fill_random(x, 1);
        test::fill_random(y, 2);
        const std::vector<float> before = y.copy(), x_before = x.copy();
        test::run_from_host(device, Fill{.value = -2.5f, .y = filled.vector()});
        test::run_from_host(device, AddScaled{.scale = 0.3f, .x = x.vector(), .y = y.vector()});
        for (int64_t i = 0; i < count; ++i) {
          REQUIRE(filled[i] == -2.5f);
          REQUIRE(y[i] == static_cast<float>(double{before[i]} + double{0.3f} * x[i]));
        }
        REQUIRE(test::same_bits(x_before, x.copy()));
        for (const Guarded<float>* buffer : {&x, &y, &filled}) REQUIRE(buffer->intact());
      }
    }
  });
}

}  // namespace itemloom
