// Attention's inputs and outputs between guards, and its definition in double precision, for tests of every storage
// type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "tests/support/bf16.h"
#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom::test::attention {

struct Case {
  std::vector<int64_t> lengths;
  int64_t heads, head_size;
  bool causal = false;
  float dropout = 0;
  std::vector<int64_t> query_rows = {};  // all rows when empty
  bool aligned = false;                  // buffers begin at cache lines
};

inline std::string describe(const Case& c) {
  std::string text = join_message("heads ", c.heads, ", head size ", c.head_size, ", causal ", c.causal, ", dropout ",
                                  c.dropout, ", lengths");
  for (int64_t length : c.lengths) text = join_message(text, " ", length);
  return text;
}

// Inputs and outputs of one attention, each between guards and, if not to be aligned, off the vector grid.
template <class T>
struct Attention {
  Attention(Device& device, const Case& c, float spread = 1.0f)
      : device(device),
        setup(c),
        rows(std::accumulate(c.lengths.begin(), c.lengths.end(), int64_t{0})),
        hidden(c.heads * c.head_size),
        outputs(c.query_rows.empty() ? rows : static_cast<int64_t>(c.query_rows.size())),
        offsets(static_cast<int64_t>(c.lengths.size()) + 1),
        row_ids(rows, c.aligned ? 0 : 1),
        qkv(rows * 3 * hidden, c.aligned ? 0 : 1),
        y(outputs * hidden, c.aligned ? 0 : 3),
        log_sum_exp(c.heads * outputs, c.aligned ? 0 : 1),
        dy(outputs * hidden, c.aligned ? 0 : 5),
        dqkv(rows * 3 * hidden, c.aligned ? 0 : 7) {
    for (size_t s = 0; s < c.lengths.size(); ++s)
      offsets[static_cast<int64_t>(s) + 1] = offsets[static_cast<int64_t>(s)] + c.lengths[s];
    for (int64_t r = 0; r < rows; ++r) row_ids[r] = static_cast<uint32_t>(1000 + 7 * r);
    fill_random(qkv, 1, -spread, spread);
    fill_random(dy, 2);
    fill_random(dqkv, 3);
  }

  void forward() {
    run_from_host(device, AttentionForward<T>{.qkv = qkv.matrix(rows, 3 * hidden),
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
    run_from_host(device, AttentionBackward<T>{.qkv = qkv.matrix(rows, 3 * hidden),
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
  Guarded<int64_t> offsets;
  Guarded<uint32_t> row_ids;
  Vector<const uint32_t> row_ids_view = row_ids.vector();
  Guarded<T> qkv, y;
  Guarded<float> log_sum_exp;
  Guarded<T> dy, dqkv;
};

// The definition, in double precision; dqkv starts from what is in `a.dqkv`. `Store` is what happens to a number that a
// plain implementation would keep in memory: nothing, for the exact values.
struct Exactly {
  double operator()(double value) const { return value; }
};
struct AsBf16 {
  double operator()(double value) const { return rounded_to_bf16(value); }
};
template <class Store = Exactly>
struct Reference {
  template <class T>
  explicit Reference(Attention<T>& a)
      : y(static_cast<size_t>(a.outputs * a.hidden)),
        log_sum_exp(static_cast<size_t>(a.setup.heads * a.outputs)),
        dqkv(static_cast<size_t>(a.rows * 3 * a.hidden)) {
    for (size_t s = 0; s < a.setup.lengths.size(); ++s) {
      for (int64_t head = 0; head < a.setup.heads; ++head)
        attend(a, a.offsets[static_cast<int64_t>(s)], a.setup.lengths[s], head);
    }
    for (double& value : y) value = store(value);
    const std::vector<double> before = numbers(a.dqkv);
    for (size_t i = 0; i < dqkv.size(); ++i) dqkv[i] = store(before[i] + store(dqkv[i]));
  }

  template <class T>
  void attend(Attention<T>& a, int64_t begin, int64_t length, int64_t head) {
    const int64_t size = a.setup.head_size, width = 3 * a.hidden;
    const double scale = 1 / std::sqrt(double(size));
    DropoutKey key = a.key;
    key.stream += static_cast<uint32_t>(head);
    const auto at = [&](int64_t part, int64_t i, int64_t d) {
      return static_cast<size_t>((begin + i) * width + part * a.hidden + head * size + d);
    };
    const auto value = [&](int64_t part, int64_t i, int64_t d) {
      return number(a.qkv[static_cast<int64_t>(at(part, i, d))]);
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
        p[static_cast<size_t>(j)] = store(scale * score);
        maximum = std::max(maximum, p[static_cast<size_t>(j)]);
      }
      for (double& score : p) total += score = std::exp(score - maximum);
      log_sum_exp[static_cast<size_t>(head * a.outputs + output)] = maximum + std::log(total);
      for (int64_t j = 0; j < seen; ++j) {
        const size_t k = static_cast<size_t>(j);
        p[k] = store(p[k] / total);
        keep[k] = 1;
        if (a.setup.dropout > 0) {
          const bool kept =
              dropout_keeps(key, a.row_ids[row], static_cast<uint32_t>(j), dropout_threshold(a.setup.dropout));
          keep[k] = kept ? dropout_scale(a.setup.dropout) : 0.0;
        }
        const double weight = store(keep[k] * p[k]);
        for (int64_t d = 0; d < size; ++d) {
          const int64_t place = output * a.hidden + head * size + d;
          const double dy = number(a.dy[place]);
          y[static_cast<size_t>(place)] += weight * value(2, j, d);
          dp[k] += keep[k] * dy * value(2, j, d);
          dqkv[at(2, j, d)] += weight * dy;
        }
        dp[k] = store(dp[k]);
        delta += p[k] * dp[k];
      }
      for (int64_t j = 0; j < seen; ++j) {
        const double ds = scale * store(p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta));
        for (int64_t d = 0; d < size; ++d) {
          dqkv[at(0, i, d)] += ds * value(1, j, d);
          dqkv[at(1, j, d)] += ds * value(0, i, d);
        }
      }
    }
  }

  static double number(float value) { return value; }
  static double number(Bf16 value) { return to_float(value); }

  Store store;
  std::vector<double> y, log_sum_exp, dqkv;
};

// About one row in five; none of the second sequence, every row of the third.
inline std::vector<int64_t> some_rows(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> rows;
  int64_t row = 0;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int64_t i = 0; i < lengths[s]; ++i, ++row) {
      if (s == 2 || (s != 1 && random_int(5, row, 5) == 0)) rows.push_back(row);
    }
  }
  return rows;
}

// That the wanted rows of y are those that all rows together give.
template <class T>
void require_rows_of(Attention<T>& some, Attention<T>& whole) {
  for (int64_t row = 0; row < whole.rows; ++row) {
    const int64_t output = some.output_row(row);
    if (output < 0) continue;
    REQUIRE(std::memcmp(some.y.begin() + output * some.hidden, whole.y.begin() + row * whole.hidden,
                        static_cast<size_t>(some.hidden) * sizeof(T)) == 0);
    for (int64_t head = 0; head < whole.setup.heads; ++head)
      REQUIRE(some.log_sum_exp[head * some.outputs + output] == whole.log_sum_exp[head * whole.rows + row]);
  }
}

}  // namespace itemloom::test::attention
