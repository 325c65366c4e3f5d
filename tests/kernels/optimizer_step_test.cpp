#include "kernels/optimizer_step.h"

#include <algorithm>
#include <cmath>

#include "core/communicator.h"
#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

// A parameter range with up to two moments, and the same in T for the header's formulas.
struct Buffers {
  Guarded<float> value, gradient, first, second;
  // `odd`: every buffer begins at another distance from a cache line.
  Buffers(int64_t count, bool odd) : value(count, odd), gradient(count, 2 * odd), first(count, 3 * odd), second(count) {
    test::fill_random(value, 1);
    test::fill_random(gradient, 2, -100, 100);
    test::fill_random(first, 3);
    test::fill_random(second, 4, 0, 1);
  }
  void require_stepped() {
    for (const Guarded<float>* buffer : {&value, &gradient, &first, &second}) REQUIRE(buffer->intact());
    for (float value : gradient) REQUIRE(value == 0);
  }
};

template <class T>
struct Parameter {
  T value, gradient, first, second;
};

// A decision as a kernel reads it.
struct Decided {
  StepDecision decision{};
  Vector<const StepDecision> vector() const { return {&decision, 1}; }
};

constexpr float kScale = 0.01f, kRate = 0.02f, kEpsilon = 1e-8f, kDecay = 0.1f;

// Some elements decay: the first four do not, some parts are longer than what a thread takes at a time, and two
// switches at one place are none.
const std::vector<int64_t> kSwitches = {4, 8, 12, 24, 24, 24, 32, 20000, 33000};
bool decays(int64_t i) {
  return std::count_if(kSwitches.begin(), kSwitches.end(), [=](int64_t at) { return at <= i; }) % 2 == 1;
}
// Those within so many elements.
Vector<const int64_t> switches_within(int64_t count) {
  const auto end = std::lower_bound(kSwitches.begin(), kSwitches.end(), count);
  return {kSwitches.data(), end - kSwitches.begin()};
}

// Steps `buffers` by `step` and each element by `naive`, in double and in float, and compares all three.
template <class Step, class Naive>
void compare(Device& device, int64_t count, const Decided& decision, Step step, Naive naive) {
  CAPTURE(count, cpu_kernels(), device.kind());
  const bool odd = count % 2 == 1;
  Buffers buffers(count, odd);
  std::vector<double> expected[3];
  std::vector<float> plain[3];
  for (int64_t i = 0; i < count; ++i) {
    const auto element = [&](auto zero, auto& into) {
      using T = decltype(zero);
      Parameter<T> p{T(buffers.value[i]), T(buffers.gradient[i]), T(buffers.first[i]), T(buffers.second[i])};
      naive(p, decays(i) ? T(kDecay) : T(0));
      into[0].push_back(p.value);
      into[1].push_back(p.first);
      into[2].push_back(p.second);
    };
    element(0.0, expected);
    element(0.0f, plain);
  }
  step(device, buffers, decision);
  buffers.require_stepped();
  Guarded<float>* actual[] = {&buffers.value, &buffers.first, &buffers.second};
  for (int part = 0; part < 3; ++part) {
    REQUIRE(test::worst_error(actual[part]->copy(), expected[part]) <=
            2 * test::worst_error(plain[part], expected[part]) + 1.2e-7);
  }
  for (int threads : test::thread_counts(device)) {
    test::Threads scope(threads);
    Buffers again(count, odd);
    step(device, again, decision);
    REQUIRE(test::same_bits(again.value.copy(), buffers.value.copy()));
    REQUIRE(test::same_bits(again.first.copy(), buffers.first.copy()));
    REQUIRE(test::same_bits(again.second.copy(), buffers.second.copy()));
  }
}

constexpr int64_t kCounts[] = {0, 1, 3, 15, 16, 17, 31, 32, 33, 65, 40001, 40002};
// Fewer without momentum, where a step is the same but for the velocity.
std::vector<int64_t> counts(float momentum) {
  if (momentum == 0) return {1, 33, 40001};
  return {std::begin(kCounts), std::end(kCounts)};
}

const Decided kTaken{{.gradient_scale = kScale}};
// Nothing of it may be used.
const Decided kSkipped{{.loss_sum = NAN,
                        .gradient_norm = NAN,
                        .gradient_scale = NAN,
                        .inverse_correction1 = NAN,
                        .inverse_correction2 = NAN,
                        .skipped = true}};

// That a step which is skipped keeps every bit and zeroes a gradient of any kind.
template <class Step>
void require_skipped(Device& device, Step step) {
  for (const int64_t count : {1, 33, 40001}) {
    CAPTURE(count, cpu_kernels(), device.kind());
    Buffers buffers(count, true), before(count, true);
    buffers.gradient[count / 2] = NAN;
    step(device, buffers, kSkipped);
    buffers.require_stepped();
    REQUIRE(test::same_bits(buffers.value.copy(), before.value.copy()));
    REQUIRE(test::same_bits(buffers.first.copy(), before.first.copy()));
    REQUIRE(test::same_bits(buffers.second.copy(), before.second.copy()));
  }
}

}  // namespace

TEST_CASE("a decision follows its formulas, with the bits of the ranks' tree, and counts the steps that are taken",
          "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t count : {1, 2, 3, 7, 31, 300}) {
      CAPTURE(count, device.kind());
      Guarded<double> losses(count), squares(3 * count);
      for (int64_t i = 0; i < count; ++i) losses[i] = test::random_float(1, i, 0, 100);
      for (int64_t i = 0; i < 3 * count; ++i) squares[i] = test::random_float(2, i, 0, 10);
      std::vector<const double*> sources;
      for (const double& loss : losses) sources.push_back(&loss);
      double loss_sum = 0, square_sum = 0;
      tree_sum(sources.data(), static_cast<int>(count), 1, &loss_sum);
      for (const double square : squares) square_sum += square;
      StepDecision decision{.steps = count - 1};
      const double norm = std::sqrt(square_sum) / 7, clip = count % 2 == 0 ? 0.5 * norm : 2 * norm;
      test::run_from_host(device, DecideStep{.losses = losses.vector(),
                                             .square_sums = squares.vector(),
                                             .mean = 1.0 / 7,
                                             .clip_norm = clip,
                                             .beta1 = 0.9,
                                             .beta2 = 0.999,
                                             .decision = Vector<StepDecision>(&decision, 1)});
      REQUIRE(losses.intact());
      REQUIRE(decision.loss_sum == loss_sum);
      REQUIRE(decision.gradient_norm == Approx(norm).epsilon(1e-13));
      REQUIRE_FALSE(decision.skipped);
      REQUIRE(decision.steps == count);
      REQUIRE(decision.gradient_scale == Approx(count % 2 == 0 ? 0.5 / 7 : 1.0 / 7).epsilon(1e-7));
      const double steps = static_cast<double>(count);
      REQUIRE(decision.inverse_correction1 == Approx(1 / (1 - std::pow(0.9, steps))).epsilon(2e-7));
      REQUIRE(decision.inverse_correction2 == Approx(1 / (1 - std::pow(0.999, steps))).epsilon(2e-7));
    }
  });
}

TEST_CASE("a loss or a gradient that is not finite skips a step, which is not counted", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    for (const double wrong : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
      for (const bool in_loss : {false, true}) {
        CAPTURE(wrong, in_loss, device.kind());
        std::vector<double> losses(3, 1.0), squares(700, 1.0);
        (in_loss ? losses[1] : squares[699]) = wrong;
        StepDecision decision{.steps = 41};
        test::run_from_host(device, DecideStep{.losses = Vector<double>(losses.data(), 3),
                                               .square_sums = Vector<const double>(squares.data(), 700),
                                               .mean = 1,
                                               .clip_norm = 5,
                                               .beta1 = 0.9,
                                               .beta2 = 0.999,
                                               .decision = Vector<StepDecision>(&decision, 1)});
        REQUIRE(decision.skipped);
        REQUIRE(decision.steps == 41);
        REQUIRE(std::isfinite(decision.loss_sum) != in_loss);
      }
    }
  });
}

TEST_CASE("losses add up", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    double sum = 1.5;
    const double loss = 0.25;
    test::run_from_host(device, AddLoss{.loss = Vector<const double>(&loss, 1), .sum = Vector<double>(&sum, 1)});
    REQUIRE(sum == 1.75);
  });
}

TEST_CASE("an Adam step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    const float beta1 = 0.9f, beta2 = 0.999f, correction1 = 0.271f, correction2 = 0.002997f;
    for (bool decoupled : {false, true}) {
      const auto naive = [=](auto& p, auto weight_decay) {
        using T = decltype(p.value);
        T g = T(kScale) * p.gradient;
        if (!decoupled) g += weight_decay * p.value;
        p.first = T(beta1) * p.first + (1 - T(beta1)) * g;
        p.second = T(beta2) * p.second + (1 - T(beta2)) * g * g;
        T step = p.first / T(correction1) / (std::sqrt(p.second / T(correction2)) + T(kEpsilon));
        if (decoupled) step += weight_decay * p.value;
        p.value -= T(kRate) * step;
      };
      const auto step = [=](Device& device, Buffers& buffers, const Decided& decision) {
        test::run_from_host(device, AdamStep{.value = buffers.value.vector(),
                                             .gradient = buffers.gradient.vector(),
                                             .first_moment = buffers.first.vector(),
                                             .second_moment = buffers.second.vector(),
                                             .decision = decision.vector(),
                                             .learning_rate = kRate,
                                             .beta1 = beta1,
                                             .beta2 = beta2,
                                             .epsilon = kEpsilon,
                                             .weight_decay = kDecay,
                                             .decay_switches = switches_within(buffers.value.size()),
                                             .decoupled = decoupled});
      };
      const Decided taken{
          {.gradient_scale = kScale, .inverse_correction1 = 1 / correction1, .inverse_correction2 = 1 / correction2}};
      for (int64_t count : kCounts) compare(device, count, taken, step, naive);
      require_skipped(device, step);
    }
  });
}

TEST_CASE("Adam leaves a parameter without gradient and moments alone", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    Buffers buffers(33, true);
    for (Guarded<float>* zero : {&buffers.gradient, &buffers.first, &buffers.second}) {
      std::fill(zero->begin(), zero->end(), 0.0f);
    }
    const std::vector<float> before = buffers.value.copy();
    const Decided decision{{.gradient_scale = 1, .inverse_correction1 = 10, .inverse_correction2 = 1000}};
    test::run_from_host(device, AdamStep{.value = buffers.value.vector(),
                                         .gradient = buffers.gradient.vector(),
                                         .first_moment = buffers.first.vector(),
                                         .second_moment = buffers.second.vector(),
                                         .decision = decision.vector(),
                                         .learning_rate = 1,
                                         .beta1 = 0.9f,
                                         .beta2 = 0.999f,
                                         .epsilon = kEpsilon,
                                         .weight_decay = 0,
                                         .decay_switches = Vector<const int64_t>::none(),
                                         .decoupled = true});
    REQUIRE(test::same_bits(before, buffers.value.copy()));
  });
}

TEST_CASE("an SGD step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    for (const float momentum : {0.9f, 0.0f}) {
      const auto naive = [=](auto& p, auto weight_decay) {
        using T = decltype(p.value);
        const T velocity = T(momentum) * p.first + (T(kScale) * p.gradient + weight_decay * p.value);
        p.value -= T(kRate) * velocity;
        if (momentum > 0) p.first = velocity;
      };
      const auto step = [=](Device& device, Buffers& buffers, const Decided& decision) {
        test::run_from_host(device, SgdStep{.value = buffers.value.vector(),
                                            .gradient = buffers.gradient.vector(),
                                            .velocity = momentum > 0 ? buffers.first.vector() : Vector<float>::none(),
                                            .decision = decision.vector(),
                                            .learning_rate = kRate,
                                            .momentum = momentum,
                                            .weight_decay = kDecay,
                                            .decay_switches = switches_within(buffers.value.size())});
      };
      for (int64_t count : counts(momentum)) compare(device, count, kTaken, step, naive);
      require_skipped(device, step);
    }
  });
}

TEST_CASE("an RMSprop step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    const float decay = 0.99f;
    for (const float momentum : {0.5f, 0.0f}) {
      const auto naive = [=](auto& p, auto weight_decay) {
        using T = decltype(p.value);
        const T g = T(kScale) * p.gradient + weight_decay * p.value;
        p.second = T(decay) * p.second + (1 - T(decay)) * g * g;
        const T velocity = T(momentum) * p.first + g / (std::sqrt(p.second) + T(kEpsilon));
        p.value -= T(kRate) * velocity;
        if (momentum > 0) p.first = velocity;
      };
      const auto step = [=](Device& device, Buffers& buffers, const Decided& decision) {
        test::run_from_host(device,
                            RmspropStep{.value = buffers.value.vector(),
                                        .gradient = buffers.gradient.vector(),
                                        .square = buffers.second.vector(),
                                        .velocity = momentum > 0 ? buffers.first.vector() : Vector<float>::none(),
                                        .decision = decision.vector(),
                                        .learning_rate = kRate,
                                        .decay = decay,
                                        .momentum = momentum,
                                        .epsilon = kEpsilon,
                                        .weight_decay = kDecay,
                                        .decay_switches = switches_within(buffers.value.size())});
      };
      for (int64_t count : counts(momentum)) compare(device, count, kTaken, step, naive);
      require_skipped(device, step);
    }
  });
}

}  // namespace itemloom
