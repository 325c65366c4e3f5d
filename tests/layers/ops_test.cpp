#include "layers/ops.h"

#include <optional>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/gradcheck.h"

namespace itemloom {
TEST_CASE("gradients of the ops agree with central differences", "[ops][device]") {
  const std::vector<uint32_t> row_ids = {3, 1, 4, 15, 9, 2, 6};
  SECTION("embedding with repeated ids") {
    const std::vector<int32_t> ids = {4, 0, 4, 2, 4};
    test::gradcheck({{5, 3}}, [&](Tape& tape, auto& in) { return ops::embedding(tape, in[0], tape.on_device(ids)); });
  }
  SECTION("embedding_bag, mean with weights, an empty bag") {
    const std::vector<int32_t> ids = {4, 0, 4, 2, 1};
    const std::vector<int64_t> offsets = {0, 2, 2, 5};
    const std::vector<float> weights = {0.5f, -1, 2, 1, 0.25f};
    for (BagMode mode : {BagMode::kSum, BagMode::kMean}) {
      test::gradcheck({{5, 3}}, [&](Tape& tape, auto& in) {
        return ops::embedding_bag(tape, in[0], tape.on_device(ids), tape.on_device(offsets), tape.on_device(weights),
                                  mode);
      });
    }
  }
  SECTION("linear") {
    test::gradcheck({{7, 5}, {3, 5}, {3, 0}}, [&](Tape& tape, auto& in) {
      return ops::linear(tape, in[0], {in[1], in[2]});
    });
  }
  SECTION("layer_norm") {
    test::gradcheck({{4, 9}, {9, 0}, {9, 0}}, [&](Tape& tape, auto& in) {
      return ops::layer_norm(tape, in[0], {in[1], in[2], 1e-5f});
    });
  }
  SECTION("dropout_add_norm: the norm alone, the sum alone, and both, with and without a residual") {
    const auto op = [&](Tape& tape, const Tensor& x, std::optional<Tensor> residual, const Tensor& gamma,
                        const Tensor& beta) {
      return ops::dropout_add_norm(tape, x, {residual, tape.on_device(row_ids), 0.4f}, {gamma, beta, 1e-5f});
    };
    const std::vector<test::OpInput> inputs = {{7, 10}, {7, 10}, {10, 0}, {10, 0}};
    test::gradcheck(inputs, [&](Tape& tape, auto& in) { return op(tape, in[0], in[1], in[2], in[3]).norm; });
    test::gradcheck(inputs, [&](Tape& tape, auto& in) { return op(tape, in[0], in[1], in[2], in[3]).sum; });
    test::gradcheck({{7, 10}, {10, 0}, {10, 0}}, [&](Tape& tape, auto& in) {
      const auto [sum, norm] = op(tape, in[0], std::nullopt, in[1], in[2]);
      return ops::add(tape, norm, sum);
    });
  }
  SECTION("linear_dropout_add_norm, with and without a gradient of the sum") {
    for (bool both : {false, true}) {
      test::gradcheck({{7, 3}, {10, 3}, {10, 0}, {7, 10}, {10, 0}, {10, 0}}, [&](Tape& tape, auto& in) {
        const auto [sum, norm] = ops::linear_dropout_add_norm(
            tape, in[0], {in[1], in[2]}, {in[3], tape.on_device(row_ids), 0.4f}, {in[4], in[5], 1e-5f});
        return both ? ops::add(tape, sum, norm) : norm;
      });
    }
  }
  SECTION("linear_activation") {
    for (Activation kind : {Activation::kGeluErf, Activation::kGeluTanh}) {
      test::gradcheck({{7, 5}, {3, 5}, {3, 0}}, [&](Tape& tape, auto& in) {
        return ops::linear_activation(tape, in[0], {in[1], in[2]}, kind);
      });
    }
    // ReLU's kink would spoil a difference quotient: products of positive numbers stay away from it.
    test::gradcheck(
        {{7, 5}, {3, 5}, {3, 0}},
        [&](Tape& tape, auto& in) {
          return ops::linear_activation(tape, in[0], {in[1], in[2]}, Activation::kRelu);
        },
        0.1f, 1);
  }
  SECTION("add, also of a tensor to itself") {
    test::gradcheck({{3, 4}, {3, 4}}, [&](Tape& tape, auto& in) { return ops::add(tape, in[0], in[1]); });
    test::gradcheck({{3, 4}}, [&](Tape& tape, auto& in) { return ops::add(tape, in[0], in[0]); });
  }
  SECTION("dropout") {
    test::gradcheck({{7, 10}},
                    [&](Tape& tape, auto& in) { return ops::dropout(tape, in[0], tape.on_device(row_ids), 0.4f); });
  }
  SECTION("self_attention, with and without dropout, both directions") {
    const std::vector<int64_t> offsets = {0, 3, 3, 7};
    for (float dropout : {0.0f, 0.3f}) {
      for (bool causal : {false, true}) {
        test::gradcheck({{7, 24}}, [&](Tape& tape, auto& in) {
          return ops::self_attention(tape, in[0], tape.on_device(offsets), Vector<const int64_t>::none(),
                                     tape.on_device(row_ids), {.heads = 2, .causal = causal, .dropout = dropout});
        });
        const std::vector<int64_t> queries = {1, 2, 6};
        test::gradcheck({{7, 24}}, [&](Tape& tape, auto& in) {
          return ops::self_attention(tape, in[0], tape.on_device(offsets), tape.on_device(queries),
                                     tape.on_device(row_ids), {.heads = 2, .causal = causal, .dropout = dropout});
        });
      }
    }
  }
  SECTION("gather_rows") {
    const std::vector<int64_t> indices = {0, 3, 6};
    test::gradcheck({{7, 3}},
                    [&](Tape& tape, auto& in) { return ops::gather_rows(tape, in[0], tape.on_device(indices)); });
  }
}

TEST_CASE("the gradient of a chain in which a tensor is used twice adds up", "[ops][device]") {
  test::gradcheck({{5, 6}, {6, 6}, {6, 0}}, [&](Tape& tape, auto& in) {
    const Tensor x = ops::linear_activation(tape, in[0], {in[1], in[2]}, Activation::kGeluErf);
    return ops::add(tape, ops::linear(tape, x, {in[1], in[2]}), x);
  });
}

TEST_CASE("masked_item_loss puts its gradients in place and they agree with central differences", "[ops][device]") {
  test::on_every_device([](Device& device) {
    ParameterStore store;
    store.add("hidden", 4, 3, {});
    store.add("table", 6, 3, {});
    store.add("bias", 5, 0, {});
    store.allocate(device, 1);
    device.copy_from_host(test::random_floats(store.size(), 3).data(), store.values().data(), store.size());
    const std::vector<int32_t> targets = {0, 4, 2, 2};
    Arena arena(device.kind());
    auto loss = [&](Mode mode) {
      arena.reset();
      Tape tape(device, arena, mode);
      const Tensor bias = store.tensor(2);
      return test::on_host(
          device, ops::masked_item_loss(tape, store.tensor(0), store.tensor(1), &bias, 5, tape.on_device(targets)))[0];
    };
    loss(Mode::kTraining);
    const std::vector<float> gradients = test::on_host(device, store.gradients());
    test::check_differences(
        device, store, gradients, 0, [&] { return loss(Mode::kInference); }, 1e-2f, 2e-3);
    // Row 5 of the table is [MASK]: no item, never a candidate.
    const ParameterInfo& table = store.infos()[1];
    for (int64_t column = 0; column < 3; ++column) {
      REQUIRE(gradients[static_cast<size_t>(table.offset + 5 * 3 + column)] == 0);
    }
  });
}

TEST_CASE("ops refuse shapes that do not fit and name them", "[ops]") {
  ParameterStore store;
  store.add("x", 7, 5, {});
  store.add("weight", 3, 4, {});
  store.add("bias", 3, 0, {});
  store.add("gamma", 5, 0, {});
  Device device;
  store.allocate(device, 1);
  Arena arena;
  Tape tape(device, arena, Mode::kInference);
  REQUIRE_THROWS_WITH(ops::linear(tape, store.tensor(0), {store.tensor(1), store.tensor(2)}),
                      "linear: x is (7, 5), the weight is (3, 4)");
  const ops::NormParameters norm{store.tensor(2), store.tensor(2), 1e-5f};
  const auto add_norm = [&](std::optional<Tensor> residual, float dropout) {
    return ops::dropout_add_norm(tape, store.tensor(0), {residual, Vector<const uint32_t>::none(), dropout}, norm);
  };
  REQUIRE_THROWS_WITH(add_norm(std::nullopt, 0), "layer_norm: x is (7, 5), gamma (3), beta (3)");
  REQUIRE_THROWS_WITH(add_norm(store.tensor(0), 0), "dropout_add_norm: x is (7, 5), gamma (3), beta (3)");
  const ops::NormParameters fitting{store.tensor(3), store.tensor(3), 1e-5f};
  REQUIRE_THROWS_WITH(
      ops::dropout_add_norm(tape, store.tensor(0), {store.tensor(1), Vector<const uint32_t>::none(), 0}, fitting),
      "dropout_add_norm: x is (7, 5), the residual is (3, 4)");
}

}  // namespace itemloom
