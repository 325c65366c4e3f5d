#include "core/arena.h"

#include <algorithm>

#include "core/check.h"

namespace itemloom {
namespace {

// What a tape notes is small beside its activations.
constexpr int64_t kHostChunk = int64_t{1} << 20;

}  // namespace

Arena::Arena(DeviceKind kind, int64_t chunk_bytes)
    : device_{.kind = kind, .chunk_bytes = chunk_bytes}, host_{.kind = DeviceKind::kCpu, .chunk_bytes = kHostChunk} {}

std::byte* Arena::Chunks::take(int64_t bytes) {
  bytes = round_up(std::max<int64_t>(bytes, 1), kAlignment);
  while (block < blocks.size() && offset + bytes > blocks[block].bytes()) {
    ++block;
    offset = 0;
  }
  if (block == blocks.size()) blocks.emplace_back(kind, std::max(bytes, chunk_bytes));
  std::byte* piece = blocks[block].data() + offset;
  offset += bytes;
  used += bytes;
  return piece;
}

void Arena::Chunks::reset() {
  block = 0;
  offset = used = 0;
}

void Arena::reset() {
  device_.reset();
  host_.reset();
}

void Arena::reserve(int64_t bytes) {
  CHECK(device_.blocks.empty(), "memory is reserved before it is used");
  device_.blocks.emplace_back(device_.kind, bytes);
}

int64_t Arena::reserved() const {
  int64_t total = 0;
  for (const DeviceBlock& block : device_.blocks) total += block.bytes();
  return total;
}

}  // namespace itemloom
