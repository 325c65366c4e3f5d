#include "core/tape.h"

#include <set>

#include "core/parameters.h"
#include "tests/support/catch.h"

namespace itemloom {
namespace {

// y = 2 x for tests of the tape itself.
Tensor twice(Tape& tape, const Tensor& x) {
  Tensor y = tape.matrix(x.rows(), x.columns());
  for (int64_t index = 0; index < x.size(); ++index) y.flat()[index] = 2 * x.flat()[index];
  tape.record({y}, {x}, [=](Tape& t) {
    const Vector<float> dy = t.gradient_vector(y);
    const Vector<float> dx = t.gradient_vector(x);
    for (int64_t index = 0; index < x.size(); ++index) dx[index] += 2 * dy[index];
  });
  return y;
}

struct Both {
  Tensor twice, thrice;
};
// 2 x and 3 x by one op. `undone` counts.
Both twice_and_thrice(Tape& tape, const Tensor& x, int* undone) {
  const Both y{tape.matrix(x.rows(), x.columns()), tape.matrix(x.rows(), x.columns())};
  tape.record({y.twice, y.thrice}, {x}, [=](Tape& t) {
    ++*undone;
    const Matrix<float> first = t.gradient_matrix_if_any(y.twice), second = t.gradient_matrix_if_any(y.thrice);
    const Vector<float> dx = t.gradient_vector(x);
    for (int64_t index = 0; index < x.size(); ++index) {
      if (first) dx[index] += 2 * first.data()[index];
      if (second) dx[index] += 3 * second.data()[index];
    }
  });
  return y;
}

}  // namespace

TEST_CASE("backward walks in reverse, reuses gradient memory and starts it from zero", "[tape]") {
  ParameterStore store;
  store.add("x", 300, 7, {.mean = 1});
  Device device;
  store.allocate(device, 1);
  Arena arena(DeviceKind::kCpu, 1 << 20);
  Tape tape(device, arena, Mode::kTraining);
  Tensor x = store.tensor(0);
  for (int i = 0; i < 10; ++i) x = twice(tape, x);
  REQUIRE(x.flat()[0] == 1024);
  const int64_t forward_bytes = arena.used();
  for (float& value : tape.gradient_vector(x)) value = 1;
  tape.backward();
  for (int64_t index = 0; index < 2100; ++index) REQUIRE(store.gradients()[index] == 1024);
  // Ten activations, but never more than two gradients at a time.
  REQUIRE(arena.used() - forward_bytes < 3 * 2100 * 4 + 1000);
}

TEST_CASE("an op nobody differentiated is skipped, and inference records nothing", "[tape]") {
  ParameterStore store;
  store.add("x", 3, 2, {.mean = 1});
  Device device;
  store.allocate(device, 1);
  Arena arena(DeviceKind::kCpu, 1 << 20);
  {
    Tape tape(device, arena, Mode::kTraining);
    const Tensor unused = twice(tape, store.tensor(0));
    const Tensor used = twice(tape, store.tensor(0));
    REQUIRE(unused.differentiable());
    for (float& value : tape.gradient_vector(used)) value = 1;
    tape.backward();
    REQUIRE(store.gradients()[0] == 2);
  }
  Tape tape(device, arena, Mode::kInference);
  REQUIRE_FALSE(twice(tape, store.tensor(0)).differentiable());
}

TEST_CASE("an op of two outputs is undone once, when any was differentiated, and hands both gradients back", "[tape]") {
  ParameterStore store;
  store.add("x", 300, 7, {.mean = 1});
  Device device;
  store.allocate(device, 1);
  Arena arena(DeviceKind::kCpu, 1 << 20);
  for (const auto& [first, second] : {std::pair{true, true}, {true, false}, {false, true}, {false, false}}) {
    arena.reset();
    Tape tape(device, arena, Mode::kTraining);
    int undone = 0;
    const Tensor x = twice(tape, store.tensor(0));
    const Both y = twice_and_thrice(tape, x, &undone);
    const std::vector<Tensor> outputs = {twice(tape, y.twice), twice(tape, y.thrice)};
    if (first) std::fill(tape.gradient_vector(outputs[0]).begin(), tape.gradient_vector(outputs[0]).end(), 1.0f);
    if (second) std::fill(tape.gradient_vector(outputs[1]).begin(), tape.gradient_vector(outputs[1]).end(), 1.0f);
    std::fill(store.gradients().begin(), store.gradients().end(), 0.0f);
    const int64_t before = arena.used();
    std::vector<int> ready;
    tape.backward([&](int parameter) { ready.push_back(parameter); });
    REQUIRE(undone == (first || second ? 1 : 0));
    REQUIRE(store.gradients()[0] == (first ? 8 : 0) + (second ? 12 : 0));
    REQUIRE(ready == std::vector<int>{0});
    // Only the first gradient that is asked for finds no memory handed back by another.
    REQUIRE(arena.used() - before < 2100 * 4 + 1000);
    REQUIRE_FALSE(tape.gradient_matrix_if_any(y.twice));
    REQUIRE_FALSE(tape.gradient_matrix_if_any(y.thrice));
  }
}

TEST_CASE("a parameter is ready when the op that used it first has been undone", "[tape]") {
  ParameterStore store;
  for (const char* name : {"first", "second", "again", "unused"}) store.add(name, 2, 2, {.mean = 1});
  Device device;
  store.allocate(device, 1);
  Arena arena(DeviceKind::kCpu, 1 << 20);
  for (int turn = 0; turn < 2; ++turn) {
    Tape tape(device, arena, Mode::kTraining);
    const Tensor loss = twice(tape, twice(tape, store.tensor(0)));
    twice(tape, store.tensor(2));  // nobody differentiates it, and yet it is ready here
    twice(tape, store.tensor(1));
    twice(tape, store.tensor(2));
    twice(tape, store.tensor(0));
    tape.record_loss({loss, store.tensor(1)});
    for (float& value : tape.gradient_vector(loss)) value = 1;
    std::vector<int> ready;
    tape.backward([&](int parameter) {
      if (parameter == 0) REQUIRE(store.gradients()[0] == 4 * (turn + 1));
      ready.push_back(parameter);
    });
    REQUIRE(ready == std::vector<int>{1, 2, 0});
  }
}

TEST_CASE("dropout streams are handed out in order", "[tape]") {
  Device device;
  Arena arena(DeviceKind::kCpu, 1 << 20);
  Tape tape(device, arena, Mode::kTraining, 77, 5);
  REQUIRE(tape.next_dropout().stream == 0);
  REQUIRE(tape.next_dropout(4).stream == 1);
  const DropoutKey key = tape.next_dropout();
  REQUIRE(key.stream == 5);
  REQUIRE(key.seed == 77);
  REQUIRE(key.step() == 5);
  const uint32_t later = 6;
  tape.take_step_from(&later);
  REQUIRE(tape.next_dropout().step() == 6);
}

TEST_CASE("arena chunks never move and are reused after a reset", "[memory]") {
  Arena arena(DeviceKind::kCpu, 1 << 20);
  std::set<float*> first;
  for (int i = 0; i < 40; ++i) first.insert(arena.take<float>(40000));
  const int64_t reserved = arena.reserved();
  arena.reset();
  for (int i = 0; i < 40; ++i) REQUIRE(first.count(arena.take<float>(40000)) == 1);
  REQUIRE(arena.reserved() == reserved);
  arena.reset();
  REQUIRE(arena.used() == 0);
  float* big = arena.take<float>(10 << 20);
  big[(10 << 20) - 1] = 1;
  REQUIRE(reinterpret_cast<uintptr_t>(big) % kAlignment == 0);
}

TEST_CASE("initial values depend on seed and name alone", "[parameters]") {
  ParameterStore a, b;
  a.add("one.weight", 50, 40, {.mean = 0, .deviation = 0.02f});
  b.add("other.weight", 3, 5, {.mean = 0, .deviation = 1});
  b.add("one.weight", 50, 40, {.mean = 0, .deviation = 0.02f});
  Device device;
  a.allocate(device, 9);
  b.allocate(device, 9);
  double sum = 0, squares = 0;
  for (int64_t index = 0; index < 2000; ++index) {
    const float value = a.tensor(0).flat()[index];
    REQUIRE(value == b.tensor(1).flat()[index]);
    sum += value;
    squares += double(value) * value;
  }
  REQUIRE(std::abs(sum / 2000) < 0.002);
  REQUIRE(std::sqrt(squares / 2000) == Approx(0.02).epsilon(0.05));
  REQUIRE_THROWS_WITH(a.add("late", 1, 1, {}), "parameter late comes after the store was allocated");
}

}  // namespace itemloom
