#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "tests/support/attention.h"

namespace itemloom {
namespace {

using test::attention::AsBf16;
using test::attention::Case;
using test::attention::Reference;
using Attention = test::attention::Attention<Bf16>;

// bf16 kernels are a GPU's alone.
template <class Body>
void on_a_gpu(Body body) {
  test::on_every_device([&](Device& device) {
    if (device.kind() == DeviceKind::kCuda) body(device);
  });
}

// The root of the mean square.
double size_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum / double(std::max<size_t>(values.size(), 1)));
}

// The worst error may be twice that of an implementation in double precision that only stores as bf16 what a plain one
// would store (scores, weights, their gradients, results), and half a unit in the last place.
void require_as_good_as_plain(const std::vector<double>& actual, const std::vector<double>& exact,
                              const std::vector<double>& plain) {
  const double size = size_of(exact);
  REQUIRE(test::worst_error(actual, exact, size) <= 2 * test::worst_error(plain, exact, size) + 0x1p-9);
}

void require_correct(Device& device, const Case& c) {
  INFO(test::attention::describe(c));
  Attention a(device, c);
  const Reference<> exact(a);
  const Reference<AsBf16> plain(a);
  a.forward();
  require_as_good_as_plain(test::numbers(a.y), exact.y, plain.y);
  REQUIRE(test::worst_error(a.log_sum_exp.copy(), exact.log_sum_exp) < 4e-6);
  a.backward();
  require_as_good_as_plain(test::numbers(a.dqkv), exact.dqkv, plain.dqkv);
  REQUIRE(a.intact());
}

// Pairs (i, j) of which `says_kept` and the dropout's rule disagree, for 128 queries and keys of two heads.
constexpr int64_t kBefore = 3, kLength = 128;
template <class SaysKept>
int64_t wrongly_dropped(Attention& a, SaysKept says_kept) {
  int64_t wrong = 0;
  for (int64_t head = 0; head < 2; ++head) {
    DropoutKey key = a.key;
    key.stream += static_cast<uint32_t>(head);
    for (int64_t i = 0; i < kLength; ++i) {
      for (int64_t j = 0; j < kLength; ++j) {
        const bool kept =
            dropout_keeps(key, a.row_ids[kBefore + i], static_cast<uint32_t>(j), dropout_threshold(a.setup.dropout));
        wrong += says_kept(head, i, j) != kept;
      }
    }
  }
  return wrong;
}

// Queries are zero, so all weights are 1 / 128; key and value j are the j-th unit vector; dqkv starts at zero.
struct Masks : Attention {
  explicit Masks(Device& device, float dropout)
      : Attention(device, {{kBefore, kLength}, 2, kLength, false, dropout, {}, true}) {
    std::fill(qkv.begin(), qkv.end(), Bf16{});
    std::fill(dqkv.begin(), dqkv.end(), Bf16{});
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t j = 0; j < kLength; ++j) qkv[at(1, head, j, j)] = qkv[at(2, head, j, j)] = to_bf16(1);
    }
  }
  int64_t at(int64_t part, int64_t head, int64_t row, int64_t column) const {
    return (kBefore + row) * 3 * hidden + part * hidden + head * kLength + column;
  }
  int64_t at_output(int64_t head, int64_t row, int64_t column) const {
    return (kBefore + row) * hidden + head * kLength + column;
  }
};

}  // namespace

TEST_CASE("bf16 attention is as good as a plain one for odd lengths and every kind of head size",
          "[attention][bf16][device]") {
  const std::vector<int64_t> lengths = {0, 1, 3, 0, 31, 33, 65, 2, 0};
  on_a_gpu([&](Device& device) {
    for (int64_t head_size : {5, 16, 32, 48, 64, 128}) {
      const bool causal = head_size % 32 != 0;
      require_correct(device, {lengths, 2, head_size, causal, 0.2f, {}, true});
      require_correct(device, {lengths, head_size < 64 ? 2 : 1, head_size, !causal, 0, {}, false});
    }
  });
}

TEST_CASE("bf16 attention is as good as a plain one for many short sequences", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    std::vector<int64_t> lengths;
    for (int64_t s = 0; s < 24; ++s) lengths.push_back(7 + test::random_int(9, s, 8));
    for (int64_t head_size : {16, 32, 64, 128}) {
      require_correct(device, {lengths, 2, head_size, head_size == 32, 0.1f, {}, true});
    }
  });
}

TEST_CASE("bf16 attention is as good as a plain one for a long sequence", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    for (bool causal : {false, true}) require_correct(device, {{210, 5}, 1, 64, causal, 0.3f, {}, true});
  });
}

TEST_CASE("bf16 attention of some query rows equals the same rows of the whole", "[attention][bf16][device]") {
  const std::vector<int64_t> lengths = {70, 9, 33, 0, 120, 1, 130, 2};
  on_a_gpu([&](Device& device) {
    for (bool causal : {false, true}) {
      const Case setup{lengths, 2, 16, causal, 0.2f, test::attention::some_rows(lengths)};
      require_correct(device, setup);
      Attention some(device, setup), whole(device, {lengths, 2, 16, causal, 0.2f});
      some.forward();
      whole.forward();
      test::attention::require_rows_of(some, whole);
    }
    // The last row of each sequence but one, whose keys no query meets.
    require_correct(device, {{70, 9, 300, 2}, 1, 32, false, 0, {69, 78, 380}, true});
  });
}

TEST_CASE("bf16 attention with no sequence or empty sequences only writes nothing", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{}, {0}, {0, 0, 0}}) {
      Attention a(device, {lengths, 2, 16});
      a.forward();
      a.backward();
      REQUIRE(a.intact());
    }
  });
}

TEST_CASE("bf16 attention drops exactly the pairs that the rule names in every pass", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    for (float dropout : {0.1f, 0.5f}) {
      Masks a(device, dropout);
      a.forward();
      const Bf16 kept = to_bf16(dropout_scale(dropout) / float(kLength));
      for (int64_t row = 0; row < kLength; ++row) {
        for (int64_t column = 0; column < 2 * kLength; ++column) {
          const uint16_t bits = a.y[a.at_output(0, row, column)].bits;
          REQUIRE((bits == 0 || bits == kept.bits));
        }
      }
      REQUIRE(wrongly_dropped(
                  a, [&](int64_t head, int64_t i, int64_t j) { return a.y[a.at_output(head, i, j)].bits != 0; }) == 0);

      // Column i of dv_j is the weight of (i, j) where dy_i is the i-th unit vector.
      std::fill(a.dy.begin(), a.dy.end(), Bf16{});
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t i = 0; i < kLength; ++i) a.dy[a.at_output(head, i, i)] = to_bf16(1);
      }
      a.backward();
      REQUIRE(wrongly_dropped(
                  a, [&](int64_t head, int64_t i, int64_t j) { return a.dqkv[a.at(2, head, j, i)].bits != 0; }) == 0);

      // Column j of dq_i is the gradient of score (i, j), which with dy of ones is positive where the pair is kept.
      std::fill(a.dy.begin(), a.dy.end(), to_bf16(1));
      std::fill(a.dqkv.begin(), a.dqkv.end(), Bf16{});
      a.backward();
      REQUIRE(wrongly_dropped(a, [&](int64_t head, int64_t i, int64_t j) {
                return to_float(a.dqkv[a.at(0, head, i, j)]) > 0;
              }) == 0);
    }
  });
}

TEST_CASE("bf16 attention gives the same bits in every run", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    const Case setup{{7, 65, 0, 100, 3, 3, 9, 1}, 3, 32, false, 0.2f};
    Attention first(device, setup), second(device, setup);
    for (Attention* a : {&first, &second}) {
      a->forward();
      a->backward();
    }
    const auto same = [](auto& a, auto& b) { return test::same_bits(a.copy(), b.copy()); };
    REQUIRE(same(first.y, second.y));
    REQUIRE(same(first.log_sum_exp, second.log_sum_exp));
    REQUIRE(same(first.dqkv, second.dqkv));
  });
}

TEST_CASE("bf16 attention survives scores far from zero and shows what is not finite", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    // Scores reach +-3000: exp of anything but a difference to the maximum would overflow.
    Attention a(device, {{150}, 1, 32}, 30.0f);
    const Reference<> exact(a);
    a.forward();
    REQUIRE(test::worst_error(a.log_sum_exp.copy(), exact.log_sum_exp) < 2e-6);
    REQUIRE(test::worst_error(test::numbers(a.y), exact.y, 30.0) < 0x1p-7);
    a.backward();
    for (Bf16 value : a.dqkv) REQUIRE(std::isfinite(to_float(value)));

    Attention b(device, {{3, 70}, 1, 16});
    b.qkv[5 * 3 * 16] = to_bf16(NAN);  // q of the third row of the second sequence
    b.forward();
    for (int64_t row = 0; row < b.rows; ++row) REQUIRE(std::isnan(to_float(b.y[row * 16])) == (row == 5));
  });
}

TEST_CASE("bf16 attention refuses heads that are too large", "[attention][bf16][device]") {
  on_a_gpu([](Device& device) {
    Attention a(device, {{5}, 1, 129});
    REQUIRE_THROWS_WITH(a.forward(), Catch::Contains("at most 128 columns, not 129"));
  });
}

}  // namespace itemloom
