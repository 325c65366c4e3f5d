#include "pinned.h"

#include <iterator>
#include <map>
#include <mutex>

#include "internal.h"

namespace cuda_emulation {
namespace {

// Its own lock, because kernels ask while the scheduler's is held.
struct PinnedPieces {
  std::mutex mutex;
  std::map<const std::byte*, size_t> bytes_at;
};

PinnedPieces& pieces() {
  static PinnedPieces& all = *new PinnedPieces;
  return all;
}

}  // namespace

void add_pinned(const void* begin, size_t bytes) {
  const std::lock_guard lock(pieces().mutex);
  pieces().bytes_at[static_cast<const std::byte*>(begin)] = bytes;
}

size_t remove_pinned(const void* begin) {
  const std::lock_guard lock(pieces().mutex);
  const auto piece = pieces().bytes_at.find(static_cast<const std::byte*>(begin));
  if (piece == pieces().bytes_at.end()) return 0;
  const size_t bytes = piece->second;
  pieces().bytes_at.erase(piece);
  return bytes;
}

bool overlaps_pinned(const void* begin, size_t bytes) {
  const auto first = static_cast<const std::byte*>(begin);
  const std::lock_guard lock(pieces().mutex);
  const auto after = pieces().bytes_at.lower_bound(first + bytes);
  if (after == pieces().bytes_at.begin()) return false;
  const auto piece = std::prev(after);
  return piece->first + piece->second > first;
}

size_t pinned_piece(const void* address, const void** begin) {
  const auto byte = static_cast<const std::byte*>(address);
  const std::lock_guard lock(pieces().mutex);
  const auto after = pieces().bytes_at.upper_bound(byte);
  if (after == pieces().bytes_at.begin()) return 0;
  const auto piece = std::prev(after);
  if (byte >= piece->first + piece->second) return 0;
  *begin = piece->first;
  return piece->second;
}

bool is_pinned_host(const void* address, size_t bytes) {
  const void* begin = nullptr;
  const size_t piece = pinned_piece(address, &begin);
  if (piece == 0) return false;
  const auto offset =
      static_cast<size_t>(static_cast<const std::byte*>(address) - static_cast<const std::byte*>(begin));
  return bytes <= piece - offset;
}

}  // namespace cuda_emulation
