#include "core/tape.h"

#include <algorithm>
#include <atomic>

namespace itemloom {

Tensor Tape::matrix(int64_t rows, int64_t columns) {
  const NumberType type = activation_type();
  void* value = nullptr;
  if (type == NumberType::kBf16) {
    value = arena_.take<Bf16>(rows * columns);
  } else {
    value = arena_.take<float>(rows * columns);
  }
  Gradient* gradient = training() ? new (arena_.take_host<Gradient>(1)) Gradient : nullptr;
  return Tensor(type, value, rows, columns, gradient);
}

void* Tape::gradient_data(const Tensor& tensor) {
  Gradient* gradient = tensor.gradient();
  CHECK(gradient, "a tensor of ", tensor.shape(), " has no gradient");
  if (gradient->data) return gradient->data;
  const int64_t bytes = tensor.bytes();
  FreePiece** link = &free_;
  while (*link && (*link)->bytes != bytes) link = &(*link)->next;
  if (*link) {
    FreePiece* piece = *link;
    *link = piece->next;
    gradient->data = piece->data;
  } else {
    gradient->data = arena_.take<std::byte>(bytes);
  }
  device_.zero(gradient->data, bytes);
  return gradient->data;
}

void Tape::release(const Output& output) {
  free_ = new (arena_.take_host<FreePiece>(1)) FreePiece{output.gradient->data, output.bytes, free_};
  output.gradient->data = nullptr;
}

void Tape::push(std::initializer_list<Tensor> outputs, std::initializer_list<Tensor> inputs, void* closure, Undo undo) {
  Entry* entry = new (arena_.take_host<Entry>(1)) Entry{closure, undo, {}, nullptr, last_};
  CHECK(outputs.size() <= entry->outputs.size(), "an op of ", outputs.size(), " outputs was recorded");
  std::transform(outputs.begin(), outputs.end(), entry->outputs.begin(), [](const Tensor& output) {
    return Output{output.gradient(), output.bytes()};
  });
  last_ = entry;
  note_first_uses(inputs, entry->first_uses);
}

uint64_t Tape::next_number() {
  static std::atomic<uint64_t> numbers{0};
  return numbers.fetch_add(1, std::memory_order_relaxed) + 1;
}

void Tape::note_first_uses(std::initializer_list<Tensor> inputs, FirstUse*& list) {
  for (const Tensor& input : inputs) {
    Gradient* gradient = input.gradient();
    if (!gradient || gradient->parameter < 0 || gradient->tape == number_) continue;
    gradient->tape = number_;
    FirstUse* use = new (arena_.take_host<FirstUse>(1)) FirstUse;
    use->parameter = gradient->parameter;
    use->next = list;
    list = use;
  }
}

void Tape::backward(FunctionRef<void(int)> on_parameter_ready) {
  auto report = [&](const FirstUse* use) {
    for (; use; use = use->next) on_parameter_ready(use->parameter);
  };
  report(loss_first_uses_);
  const auto differentiated = [](const Output& output) { return output.gradient && output.gradient->data; };
  for (Entry* entry = last_; entry; entry = entry->previous) {
    if (std::any_of(entry->outputs.begin(), entry->outputs.end(), differentiated)) {
      entry->undo(entry->closure, *this);
      for (const Output& output : entry->outputs) {
        if (differentiated(output)) release(output);
      }
    }
    report(entry->first_uses);
  }
  last_ = nullptr;
}

}  // namespace itemloom
