#include "layers/modules.h"

#include <utility>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/kernels.h"

namespace itemloom {

TEST_CASE("a block gives selected rows the bits they have in the whole", "[modules]") {
  const std::vector<int64_t> offsets = {0, 5, 6, 13};
  const std::vector<uint32_t> row_ids = {10, 11, 12, 13, 14, 20, 30, 31, 32, 33, 34, 35, 36};
  const std::vector<int64_t> indices = {1, 5, 6, 12};
  const std::vector<uint32_t> selected_ids = {11, 20, 30, 36};
  for (bool pre_norm : {true, false}) {
    ParameterStore store;
    const Block block(Scope(store), {.hidden_size = 16,
                                     .heads = 2,
                                     .inner_size = 32,
                                     .dropout = 0.2f,
                                     .attention_dropout = 0.3f,
                                     .causal = false,
                                     .pre_norm = pre_norm,
                                     .activation = Activation::kGeluErf,
                                     .norm_epsilon = 1e-5f,
                                     .deviation = 0.3f,
                                     .residual_deviation = 0.3f});
    Device device;
    store.allocate(device, 4);
    Arena arena;
    Tape tape(device, arena, Mode::kTraining, 1, 2);
    Tape again(device, arena, Mode::kTraining, 1, 2);
    const Tensor x = tape.matrix(13, 16);
    test::fill_random(x.flat(), 9);
    const PackedRows rows{.sequence_offsets = Vector<const int64_t>(offsets.data(), 4),
                          .row_ids = Vector<const uint32_t>(row_ids.data(), 13)};
    const SelectedRows selected{.indices = Vector<const int64_t>(indices.data(), 4),
                                .row_ids = Vector<const uint32_t>(selected_ids.data(), 4)};
    const SublayerInput input{.x = x, .residual = x};
    const SublayerInput whole = block(tape, input, rows, block.first_norm());
    const SublayerInput part = block(again, input, rows, block.first_norm(), &selected);
    for (const auto& [all, some] : {std::pair{whole.x, part.x}, {whole.residual, part.residual}}) {
      REQUIRE(some.rows() == 4);
      for (int64_t index = 0; index < 4; ++index) {
        const float* expected = all.matrix().row(indices[static_cast<size_t>(index)]);
        REQUIRE(std::memcmp(some.matrix().row(index), expected, 16 * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace itemloom
