#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/attention.h"

namespace itemloom {
namespace {

using test::attention::Case;
using test::attention::require_rows_of;
using test::attention::some_rows;
using Attention = test::attention::Attention<float>;
using Reference = test::attention::Reference<>;

void require_correct(Device& device, const Case& c, double tolerance = 2e-6) {
  INFO(test::attention::describe(c));
  Attention a(device, c);
  const Reference expected(a);
  a.forward();
  REQUIRE(test::worst_error(a.y.copy(), expected.y) < tolerance);
  REQUIRE(test::worst_error(a.log_sum_exp.copy(), expected.log_sum_exp) < tolerance);
  a.backward();
  REQUIRE(test::worst_error(a.dqkv.copy(), expected.dqkv) < 2 * tolerance);
  REQUIRE(a.intact());
}

// Every output of the sequence at `index`, head by head.
std::vector<float> outputs_of(Attention& a, size_t index) {
  const int64_t begin = a.offsets[static_cast<int64_t>(index)], length = a.setup.lengths[index];
  std::vector<float> result(a.y.begin() + begin * a.hidden, a.y.begin() + (begin + length) * a.hidden);
  for (int64_t head = 0; head < a.setup.heads; ++head) {
    const float* row = a.log_sum_exp.begin() + head * a.rows + begin;
    result.insert(result.end(), row, row + length);
  }
  result.insert(result.end(), a.dqkv.begin() + begin * 3 * a.hidden, a.dqkv.begin() + (begin + length) * 3 * a.hidden);
  return result;
}

void attend_to_no_query(Device& device) {
  Attention none(device, {{70, 9}, 2, 16});
  test::run_from_host(device, AttentionForward<float>{.qkv = none.qkv.matrix(none.rows, 3 * none.hidden),
                                                      .sequence_offsets = none.offsets.vector(),
                                                      .query_rows = Vector<const int64_t>(nullptr, 0),
                                                      .row_ids = none.row_ids.vector(),
                                                      .heads = 2,
                                                      .causal = false,
                                                      .dropout = 0,
                                                      .key = none.key,
                                                      .y = Matrix<float>(nullptr, 0, none.hidden),
                                                      .log_sum_exp = Matrix<float>(nullptr, 2, 0)});
}

// Equal scores and values that are unit vectors: y[i][j] is 1 / length times the scale where (i, j) is kept.
int64_t wrongly_dropped(Device& device, float dropout) {
  const int64_t length = 128;
  Attention a(device, {{3, length}, 2, length, false, dropout});
  std::fill(a.qkv.begin(), a.qkv.end(), 0.0f);
  for (int64_t j = 0; j < length; ++j) {
    for (int64_t head = 0; head < 2; ++head) a.qkv[(3 + j) * 3 * a.hidden + 2 * a.hidden + head * length + j] = 1;
  }
  a.forward();
  int64_t wrong = 0;
  for (int64_t i = 0; i < length; ++i) {
    for (uint32_t head = 0; head < 2; ++head) {
      DropoutKey key = a.key;
      key.stream += head;
      for (int64_t j = 0; j < length; ++j) {
        const bool kept = dropout_keeps(key, a.row_ids[3 + i], static_cast<uint32_t>(j), dropout_threshold(dropout));
        const float expected = kept ? dropout_scale(dropout) / float(length) : 0.0f;
        wrong += a.y[(3 + i) * a.hidden + head * length + j] != expected;
      }
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("attention equals its definition for odd lengths and every kind of head size", "[attention][device]") {
  const std::vector<int64_t> lengths = {0, 1, 3, 0, 31, 33, 65, 2, 0};
  test::on_every_device([&](Device& device) {
    const auto head_sizes = test::by_device<std::vector<int64_t>>(device, {1, 3, 4, 7, 8, 12, 16, 20, 32, 48, 64, 128},
                                                                  {3, 12, 16, 20, 64, 128});
    for (int64_t head_size : head_sizes) {
      for (bool causal : {false, true}) {
        for (float dropout : {0.0f, 0.2f}) {
          const bool aligned = causal == (dropout > 0);
          if (device.kind() == DeviceKind::kCuda && head_size > 16 && !aligned) continue;
          require_correct(device, {lengths, 2, head_size, causal, dropout, {}, aligned});
        }
      }
    }
  });
}

TEST_CASE("attention equals its definition for every length around its block edges", "[attention][device]") {
  test::on_every_device([&](Device& device) {
    std::vector<int64_t> lengths;
    const int64_t step = test::by_device<int64_t>(device, 1, 3);
    for (int64_t length = 1; length <= 70; length += step) lengths.push_back(length);
    for (int64_t length : {95, 96, 97, 127, 128, 129, 193, 200}) lengths.push_back(length);
    for (bool causal : {false, true}) require_correct(device, {lengths, 1, 16, causal, 0.1f});
  });
}

TEST_CASE("attention equals its definition for a long sequence", "[attention][device]") {
  test::on_every_device([](Device& device) {
    for (bool causal : {false, true}) {
      require_correct(device, {{test::by_device<int64_t>(device, 500, 200), 5}, 1, 32, causal, 0.3f}, 4e-6);
    }
  });
}

TEST_CASE("attention of some query rows equals its definition and the same rows of the whole", "[attention][device]") {
  const std::vector<int64_t> lengths = {70, 9, 33, 0, 200, 1, 130, 2};
  test::on_every_device([&](Device& device) {
    for (bool causal : {false, true}) {
      for (float dropout : {0.0f, 0.2f}) {
        const Case setup{lengths, 2, 20, causal, dropout, some_rows(lengths)};
        require_correct(device, setup);
        Attention some(device, setup), whole(device, {lengths, 2, 20, causal, dropout});
        some.forward();
        whole.forward();
        require_rows_of(some, whole);
      }
    }
    // The last row of each sequence, as in evaluation; and no row at all.
    require_correct(device, {lengths, 2, 32, false, 0, {69, 78, 111, 311, 312, 442, 444}});
    attend_to_no_query(device);
  });
}

TEST_CASE("attention with no sequence, no row or empty sequences only writes nothing", "[attention][device]") {
  test::on_every_device([](Device& device) {
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{}, {0}, {0, 0, 0}}) {
      Attention a(device, {lengths, 2, 8});
      a.forward();
      a.backward();
      REQUIRE(a.intact());
    }
  });
}

TEST_CASE("dropout drops exactly the pairs that the rule names", "[attention][device]") {
  test::on_every_device([](Device& device) {
    for (float dropout : {0.1f, 0.5f, 0.9f}) REQUIRE(wrongly_dropped(device, dropout) == 0);
  });
}

TEST_CASE("without dropout the key does not matter and row ids are not needed", "[attention][device]") {
  test::on_every_device([](Device& device) {
    Attention a(device, {{5, 40}, 2, 16}), b(device, {{5, 40}, 2, 16});
    b.key = {1, 2, 3};
    b.row_ids_view = Vector<const uint32_t>::none();
    for (Attention* attention : {&a, &b}) {
      attention->forward();
      attention->backward();
    }
    REQUIRE(test::same_bits(a.y.copy(), b.y.copy()));
    REQUIRE(test::same_bits(a.dqkv.copy(), b.dqkv.copy()));
  });
}

TEST_CASE("attention gives the same bits in every run and for any number of threads", "[attention][device]") {
  test::on_every_device([](Device& device) {
    const int64_t longest = test::by_device<int64_t>(device, 200, 100);
    const Case setup{{7, 65, 0, longest, 3, 3, 9, 130, 1}, 3, 32, false, 0.2f};
    Attention expected(device, setup);
    expected.forward();
    expected.backward();
    for (int threads : test::thread_counts(device)) {
      test::Threads scope(threads);
      Attention a(device, setup);
      a.forward();
      a.backward();
      REQUIRE(test::same_bits(a.y.copy(), expected.y.copy()));
      REQUIRE(test::same_bits(a.log_sum_exp.copy(), expected.log_sum_exp.copy()));
      REQUIRE(test::same_bits(a.dqkv.copy(), expected.dqkv.copy()));
    }
  });
}

TEST_CASE("a sequence gives the same bits alone and in any batch", "[attention]") {
  Device device;
  for (bool causal : {false, true}) {
    Attention batch(device, {{7, 65, 0, 200, 3}, 2, 20, causal, 0.2f});
    batch.forward();
    batch.backward();
    Attention again(device, {{7, 65, 0, 200, 3}, 2, 20, causal, 0.2f});
    for (size_t s = 0; s < batch.setup.lengths.size(); ++s) {
      const int64_t begin = batch.offsets[static_cast<int64_t>(s)], length = batch.setup.lengths[s];
      Attention alone(device, {{length}, 2, 20, causal, 0.2f});
      std::copy_n(again.row_ids.begin() + begin, length, alone.row_ids.begin());
      std::copy_n(again.qkv.begin() + begin * 3 * again.hidden, alone.qkv.size(), alone.qkv.begin());
      std::copy_n(again.dqkv.begin() + begin * 3 * again.hidden, alone.dqkv.size(), alone.dqkv.begin());
      std::copy_n(again.dy.begin() + begin * again.hidden, alone.dy.size(), alone.dy.begin());
      alone.forward();
      alone.backward();
      REQUIRE(test::same_bits(outputs_of(alone, 0), outputs_of(batch, s)));
    }
  }
}

TEST_CASE("attention survives scores far from zero and shows what is not finite", "[attention][device]") {
  test::on_every_device([](Device& device) {
    // Scores reach +-3000: exp of anything but a difference to the maximum would overflow.
    Attention a(device, {{150}, 1, 32}, 30.0f);
    const Reference expected(a);
    a.forward();
    REQUIRE(test::worst_error(a.log_sum_exp.copy(), expected.log_sum_exp) < 2e-6);
    REQUIRE(test::worst_error(a.y.copy(), expected.y, 30.0) < 1e-4);
    a.backward();
    for (float value : a.dqkv) REQUIRE(std::isfinite(value));

    Attention b(device, {{3, 70}, 1, 16});
    b.qkv[5 * 3 * 16] = NAN;  // q of the third row of the second sequence
    b.forward();
    for (int64_t row = 0; row < b.rows; ++row) REQUIRE(std::isnan(b.y[row * 16]) == (row == 5));
  });
}

TEST_CASE("attention on a GPU refuses heads that are too large for it", "[attention][device]") {
  test::on_every_device([](Device& device) {
    if (device.kind() == DeviceKind::kCpu) return;
    Attention a(device, {{5}, 1, 129});
    REQUIRE_THROWS_WITH(a.forward(), Catch::Contains("at most 128 columns, not 129"));
  });
}

TEST_CASE("attention takes the step of its dropout from memory where it is said to be there", "[attention][device]") {
  test::on_every_device([](Device& device) {
    Attention told(device, {{3, 40}, 2, 16, false, 0.3f}), read(device, {{3, 40}, 2, 16, false, 0.3f});
    const DeviceBlock step = device.allocate(sizeof(uint32_t));
    device.copy_from_host(&told.key.told_step, step.as<uint32_t>(1).data(), 1);
    read.key = {told.key.seed, 7, told.key.stream, step.as<uint32_t>(1).data()};
    for (Attention* each : {&told, &read}) {
      each->forward();
      each->backward();
    }
    REQUIRE(test::same_bits(told.y.copy(), read.y.copy()));
    REQUIRE(test::same_bits(told.dqkv.copy(), read.dqkv.copy()));
  });
}

}  // namespace itemloom
