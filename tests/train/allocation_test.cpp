// A training step allocates nothing once it is warm.

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "data/loader.h"
#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "tests/support/sequences.h"
#include "train/trainer.h"

namespace {
std::atomic<int64_t> allocations{0};
}

// Every allocation of the test program is counted.
void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, std::align_val_t alignment) {
  ++allocations;
  const size_t step = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(step, (size + step - 1) / step * step)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size ? size : 1);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace itemloom {

TEST_CASE("steps 3 to 10 allocate nothing", "[trainer]") {
  Config config;
  config.data.max_length = 20;
  config.model.hidden_size = 32;
  config.training.micro_batch_tokens = 256;
  test::Sequences sequences;
  for (int64_t sample = 0; sample < 640; ++sample) {
    const int64_t length = 1 + test::random_int(1, sample, 20);
    for (int64_t place = 0; place < length; ++place) {
      sequences.items.push_back(static_cast<int32_t>(test::random_int(2, sample * 100 + place, 300)));
    }
    sequences.end_sequence();
  }
  Device device;
  ModelInstance instance(device, config.model, 300, 20, 1);
  Loader loader(sequences.all_items(), sequences.windows(20), Masking(config.masking, 1, 300),
                {.max_length = 20, .batch_sequences = 64, .batch_tokens = 0, .piece_tokens = 256, .seed = 1});
  const auto communicator = make_self_communicator();
  TrainingStep step(device, *communicator, instance, config, 10);
  REQUIRE(loader.batches(0) == 10);
  int64_t warm = 0, arena_bytes = 0, skipped = 0;
  for (int64_t batch = 0; batch < 10; ++batch) {
    if (batch == 2) {
      warm = allocations;
      arena_bytes = step.arena_bytes();
    }
    step.run(loader.load(0, batch), batch);
    skipped += step.result(TrainingStep::Until::kAllIsDone)->skipped;
  }
  // The prefetch thread's are among them.
  const int64_t after = allocations;
  REQUIRE(after == warm);
  REQUIRE(step.arena_bytes() == arena_bytes);
  REQUIRE(skipped == 0);
}

}  // namespace itemloom
