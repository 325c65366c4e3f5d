#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"

namespace itemloom {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

HostBlock::HostBlock(int64_t bytes) : bytes_(round_up(std::max<int64_t>(bytes, 1), 4096)) {
  void* address =
      mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(address != MAP_FAILED, "out of memory: ", bytes_ >> 20,
        " MiB were refused by the system; lower "
        "training.batch_size or data.max_length");
  data_ = static_cast<std::byte*>(address);
  if (bytes_ >= kHugePage) madvise(data_, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  parallel_for(block_count(bytes_, kHugePage), [this](int64_t page) {
    const int64_t begin = page * kHugePage;
    std::memset(data_ + begin, 0, static_cast<size_t>(std::min(kHugePage, bytes_ - begin)));
  });
}

HostBlock::HostBlock(HostBlock&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostBlock& HostBlock::operator=(HostBlock&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostBlock::~HostBlock() {
  if (data_) munmap(data_, static_cast<size_t>(bytes_));
}

void Scratch::reserve(int64_t bytes) {
  if (bytes <= block_.bytes()) return;
  block_ = HostBlock();
  block_ = HostBlock(bytes);
}

std::byte* Scratch::take_bytes(int64_t bytes) {
  if (bytes > block_.bytes()) reserve(bytes + bytes / 4);
  return block_.data();
}

}  // namespace itemloom
