#include "kernels/optimizer_step.h"

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

// Steps `buffers` by `step` and each element by `naive`, in double and in float, and compares all three.
template <class Step, class Naive>
void compare(Device& device, int64_t count, Step step, Naive naive) {
  CAPTURE(count, cpu_kernels(), device.kind());
  const bool odd = count % 2 == 1;
  Buffers buffers(count, odd);
  std::vector<double> expected[3];
  std::vector<float> plain[3];
  for (int64_t i = 0; i < count; ++i) {
    const auto element = [&](auto zero, auto& into) {
      using T = decltype(zero);
      Parameter<T> p{T(buffers.value[i]), T(buffers.gradient[i]), T(buffers.first[i]), T(buffers.second[i])};
      naive(p);
      into[0].push_back(p.value);
      into[1].push_back(p.first);
      into[2].push_back(p.second);
    };
    element(0.0, expected);
    element(0.0f, plain);
  }
  step(device, buffers);
  buffers.require_stepped();
  Guarded<float>* actual[] = {&buffers.value, &buffers.first, &buffers.second};
  for (int part = 0; part < 3; ++part) {
    REQUIRE(test::worst_error(actual[part]->copy(), expected[part]) <=
            2 * test::worst_error(plain[part], expected[part]) + 1.2e-7);
  }
  for (int threads : test::thread_counts(device)) {
    test::Threads scope(threads);
    Buffers again(count, odd);
    step(device, again);
    REQUIRE(test::same_bits(again.value.copy(), buffers.value.copy()));
    REQUIRE(test::same_bits(again.first.copy(), buffers.first.copy()));
    REQUIRE(test::same_bits(again.second.copy(), buffers.second.copy()));
  }
}

constexpr int64_t kCounts[] = {0, 1, 3, 15, 16, 17, 31, 32, 33, 65, 40001, 40002};
constexpr float kScale = 0.01f, kRate = 0.02f, kEpsilon = 1e-8f, kDecay = 0.1f;

}  // namespace

TEST_CASE("an Adam step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    const float beta1 = 0.9f, beta2 = 0.999f, correction1 = 0.271f, correction2 = 0.002997f;
    for (bool decoupled : {false, true}) {
      const auto naive = [=](auto& p) {
        using T = decltype(p.value);
        T g = T(kScale) * p.gradient;
        if (!decoupled) g += T(kDecay) * p.value;
        p.first = T(beta1) * p.first + (1 - T(beta1)) * g;
        p.second = T(beta2) * p.second + (1 - T(beta2)) * g * g;
        T step = p.first / T(correction1) / (std::sqrt(p.second / T(correction2)) + T(kEpsilon));
        if (decoupled) step += T(kDecay) * p.value;
        p.value -= T(kRate) * step;
      };
      const auto step = [=](Device& device, Buffers& buffers) {
        test::run_from_host(device, AdamStep{.value = buffers.value.vector(),
                                             .gradient = buffers.gradient.vector(),
                                             .first_moment = buffers.first.vector(),
                                             .second_moment = buffers.second.vector(),
                                             .gradient_scale = kScale,
                                             .learning_rate = kRate,
                                             .beta1 = beta1,
                                             .beta2 = beta2,
                                             .epsilon = kEpsilon,
                                             .weight_decay = kDecay,
                                             .decoupled = decoupled,
                                             .bias_correction1 = correction1,
                                             .bias_correction2 = correction2});
      };
      for (int64_t count : kCounts) compare(device, count, step, naive);
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
    test::run_from_host(device, AdamStep{.value = buffers.value.vector(),
                                         .gradient = buffers.gradient.vector(),
                                         .first_moment = buffers.first.vector(),
                                         .second_moment = buffers.second.vector(),
                                         .gradient_scale = 1,
                                         .learning_rate = 1,
                                         .beta1 = 0.9f,
                                         .beta2 = 0.999f,
                                         .epsilon = kEpsilon,
                                         .weight_decay = 0,
                                         .decoupled = true,
                                         .bias_correction1 = 0.1f,
                                         .bias_correction2 = 0.001f});
    REQUIRE(test::same_bits(before, buffers.value.copy()));
  });
}

TEST_CASE("an SGD step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    const float momentum = 0.9f;
    const auto naive = [=](auto& p) {
      using T = decltype(p.value);
      p.first = T(momentum) * p.first + (T(kScale) * p.gradient + T(kDecay) * p.value);
      p.value -= T(kRate) * p.first;
    };
    const auto step = [=](Device& device, Buffers& buffers) {
      test::run_from_host(device, SgdStep{.value = buffers.value.vector(),
                                          .gradient = buffers.gradient.vector(),
                                          .velocity = buffers.first.vector(),
                                          .gradient_scale = kScale,
                                          .learning_rate = kRate,
                                          .momentum = momentum,
                                          .weight_decay = kDecay});
    };
    for (int64_t count : kCounts) compare(device, count, step, naive);
  });
}

TEST_CASE("an RMSprop step follows its formula and zeroes the gradient", "[optimizer_step][device]") {
  test::on_every_device([](Device& device) {
    const float momentum = 0.5f, decay = 0.99f;
    const auto naive = [=](auto& p) {
      using T = decltype(p.value);
      const T g = T(kScale) * p.gradient + T(kDecay) * p.value;
      p.second = T(decay) * p.second + (1 - T(decay)) * g * g;
      p.first = T(momentum) * p.first + g / (std::sqrt(p.second) + T(kEpsilon));
      p.value -= T(kRate) * p.first;
    };
    const auto step = [=](Device& device, Buffers& buffers) {
      test::run_from_host(device, RmspropStep{.value = buffers.value.vector(),
                                              .gradient = buffers.gradient.vector(),
                                              .square = buffers.second.vector(),
                                              .velocity = buffers.first.vector(),
                                              .gradient_scale = kScale,
                                              .learning_rate = kRate,
                                              .decay = decay,
                                              .momentum = momentum,
                                              .epsilon = kEpsilon,
                                              .weight_decay = kDecay});
    };
    for (int64_t count : kCounts) compare(device, count, step, naive);
  });
}

}  // namespace itemloom
