#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

struct Case {
  std::vector<int64_t> lengths;
  int64_t heads, head_size;
  bool causal = false;
  float dropout = 0;
  std::vector<int64_t> query_rows = {};  // all rows when empty
  bool aligned = false;                  // buffers begin at cache lines
};

std::string describe(const Case& c) {
  std::string text = join_message("heads ", c.heads, ", head size ", c.head_size, ", causal ", c.causal, ", dropout ",
                                  c.dropout, ", lengths");
  for (int64_t length : c.lengths) text = join_message(text, " ", length);
  return text;
}

// Inputs and outputs of one attention, each between guards and, if not to be aligned, off the vector grid.
struct Attention {
  Attention(Device& device, const Case& c, float spread = 1.0f)
      : device(device),
        setup(c),
        rows(std::accumulate(c.lengths.begin(), c.lengths.end(), int64_t{0})),
        hidden(c.heads * c.head_size),
        outputs(c.query_rows.empty() ? rows : static_cast<int64_t>(c.query_rows.size())),
        offsets(static_cast<int64_t>(c.lengths.size()) + 1),
        row_ids(rows, 1),
        qkv(rows * 3 * hidden, c.aligned ? 0 : 1),
        y(outputs * hidden, c.aligned ? 0 : 3),
        log_sum_exp(c.heads * outputs, 1),
        dy(outputs * hidden, c.aligned ? 0 : 5),
        dqkv(rows * 3 * hidden, c.aligned ? 0 : 7) {
    for (size_t s = 0; s < c.lengths.size(); ++s)
      offsets[static_cast<int64_t>(s) + 1] = offsets[static_cast<int64_t>(s)] + c.lengths[s];
    for (int64_t r = 0; r < rows; ++r) row_ids[r] = static_cast<uint32_t>(1000 + 7 * r);
    test::fill_random(qkv, 1, -spread, spread);
    test::fill_random(dy, 2);
    test::fill_random(dqkv, 3);
  }

  void forward() {
    test::run_from_host(device, AttentionForward<float>{.qkv = qkv.matrix(rows, 3 * hidden),
                                                        .sequence_offsets = offsets.vector(),
                                                        .query_rows = query_rows(),
                                                        .row_ids = row_ids_view,
                                                        .heads = setup.heads,
                                                        .causal = setup.causal,
                                                        .dropout = setup.dropout,
                                                        .key = key,
                                                        .y = y.matrix(outputs, hidden),
                                                        .log_sum_exp = log_sum_exp.matrix(setup.heads, outputs)});
  }
  void backward() {
    test::run_from_host(device, AttentionBackward<float>{.qkv = qkv.matrix(rows, 3 * hidden),
                                                         .sequence_offsets = offsets.vector(),
                                                         .query_rows = query_rows(),
                                                         .row_ids = row_ids_view,
                                                         .heads = setup.heads,
                                                         .causal = setup.causal,
                                                         .dropout = setup.dropout,
                                                         .key = key,
                                                         .y = y.matrix(outputs, hidden),
                                                         .log_sum_exp = log_sum_exp.matrix(setup.heads, outputs),
                                                         .dy = dy.matrix(outputs, hidden),
                                                         .dqkv = dqkv.matrix(rows, 3 * hidden)});
  }
  bool intact() const {
    return offsets.intact() && row_ids.intact() && qkv.intact() && y.intact() && log_sum_exp.intact() && dy.intact() &&
           dqkv.intact();
  }

  Vector<const int64_t> query_rows() const {
    if (setup.query_rows.empty()) return Vector<const int64_t>::none();
    return Vector<const int64_t>(setup.query_rows.data(), outputs);
  }
  // The row of y that belongs to a row of qkv, or -1.
  int64_t output_row(int64_t row) const {
    if (setup.query_rows.empty()) return row;
    const auto place = std::lower_bound(setup.query_rows.begin(), setup.query_rows.end(), row);
    return place != setup.query_rows.end() && *place == row ? place - setup.query_rows.begin() : -1;
  }

  Device& device;
  Case setup;
  int64_t rows, hidden, outputs;
  DropoutKey key{0x123456789abcdef0, 17, 40};
  test::Guarded<int64_t> offsets;
  test::Guarded<uint32_t> row_ids;
  Vector<const uint32_t> row_ids_view = row_ids.vector();
  test::Guarded<float> qkv, y, log_sum_exp, dy, dqkv;
};

// The definition, in double precision. dqkv starts from what is in `a.dqkv`.
struct Reference {
  explicit Reference(Attention& a)
      : y(static_cast<size_t>(a.outputs * a.hidden)),
        log_sum_exp(static_cast<size_t>(a.setup.heads * a.outputs)),
        dqkv(a.dqkv.begin(), a.dqkv.end()) {
    for (size_t s = 0; s < a.setup.lengths.size(); ++s) {
      for (int64_t head = 0; head < a.setup.heads; ++head)
        attend(a, a.offsets[static_cast<int64_t>(s)], a.setup.lengths[s], head);
    }
  }

  void attend(Attention& a, int64_t begin, int64_t length, int64_t head) {
    const int64_t size = a.setup.head_size, width = 3 * a.hidden;
    const double scale = 1 / std::sqrt(double(size));
    DropoutKey key = a.key;
    key.stream += static_cast<uint32_t>(head);
    const auto at = [&](int64_t part, int64_t i, int64_t d) {
      return static_cast<size_t>((begin + i) * width + part * a.hidden + head * size + d);
    };
    const auto value = [&](int64_t part, int64_t i, int64_t d) {
      return double(a.qkv[static_cast<int64_t>(at(part, i, d))]);
    };
    for (int64_t i = 0; i < length; ++i) {
      const int64_t row = begin + i, output = a.output_row(row);
      if (output < 0) continue;
      const int64_t seen = a.setup.causal ? i + 1 : length;
      std::vector<double> p(static_cast<size_t>(seen)), keep(p.size()), dp(p.size(), 0.0);
      double maximum = -INFINITY, total = 0, delta = 0;
      for (int64_t j = 0; j < seen; ++j) {
        double score = 0;
        for (int64_t d = 0; d < size; ++d) score += value(0, i, d) * value(1, j, d);
        p[static_cast<size_t>(j)] = scale * score;
        maximum = std::max(maximum, scale * score);
      }
      for (double& score : p) total += score = std::exp(score - maximum);
      log_sum_exp[static_cast<size_t>(head * a.outputs + output)] = maximum + std::log(total);
      for (int64_t j = 0; j < seen; ++j) {
        const size_t k = static_cast<size_t>(j);
        p[k] /= total;
        keep[k] = 1;
        if (a.setup.dropout > 0) {
          const bool kept =
              dropout_keeps(key, a.row_ids[row], static_cast<uint32_t>(j), dropout_threshold(a.setup.dropout));
          keep[k] = kept ? dropout_scale(a.setup.dropout) : 0.0;
        }
        for (int64_t d = 0; d < size; ++d) {
          const int64_t place = output * a.hidden + head * size + d;
          y[static_cast<size_t>(place)] += keep[k] * p[k] * value(2, j, d);
          dp[k] += keep[k] * a.dy[place] * value(2, j, d);
          dqkv[at(2, j, d)] += keep[k] * p[k] * a.dy[place];
        }
        delta += p[k] * dp[k];
      }
      for (int64_t j = 0; j < seen; ++j) {
        const double ds = scale * p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta);
        for (int64_t d = 0; d < size; ++d) {
          dqkv[at(0, i, d)] += ds * value(1, j, d);
          dqkv[at(1, j, d)] += ds * value(0, i, d);
        }
      }
    }
  }

  std::vector<double> y, log_sum_exp, dqkv;
};

void require_correct(Device& device, const Case& c, double tolerance = 2e-6) {
  INFO(describe(c));
  Attention a(device, c);
  const Reference expected(a);
  a.forward();
  REQUIRE(test::worst_error(a.y.copy(), expected.y) < tolerance);
  REQUIRE(test::worst_error(a.log_sum_exp.copy(), expected.log_sum_exp) < tolerance);
  a.backward();
  REQUIRE(test::worst_error(a.dqkv.copy(), expected.dqkv) < 2 * tolerance);
  REQUIRE(a.intact());
}

// About one row in five; none of the second sequence, every row of the third.
std::vector<int64_t> some_rows(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> rows;
  int64_t row = 0;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int64_t i = 0; i < lengths[s]; ++i, ++row) {
      if (s == 2 || (s != 1 && test::random_int(5, row, 5) == 0)) rows.push_back(row);
    }
  }
  return rows;
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

void require_rows_of(Attention& some, Attention& whole) {
  for (int64_t row = 0; row < whole.rows; ++row) {
    const int64_t output = some.output_row(row);
    if (output < 0) continue;
    REQUIRE(std::equal(some.y.begin() + output * some.hidden, some.y.begin() + (output + 1) * some.hidden,
                       whole.y.begin() + row * whole.hidden));
    for (int64_t head = 0; head < whole.setup.heads; ++head)
      REQUIRE(some.log_sum_exp[head * some.outputs + output] == whole.log_sum_exp[head * whole.rows + row]);
  }
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

}  // namespace itemloom
