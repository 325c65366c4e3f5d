#include "nccl_world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>

namespace cuda_emulation {
namespace {

// A process that has ended stays visible until its parent asks how; then it is a zombie.
bool is_process_alive(int64_t process) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%lld/stat", static_cast<long long>(process));
  std::FILE* file = std::fopen(path, "r");
  if (!file) return false;
  char text[512] = {};
  const size_t length = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  // "123 (name) S ...": the name may hold anything, so its end is looked for from behind.
  const char* end_of_name = length > 0 ? std::strrchr(text, ')') : nullptr;
  return end_of_name && end_of_name[1] == ' ' && end_of_name[2] != 'Z' && end_of_name[2] != 'X';
}

}  // namespace

// In front of the pieces.
struct World::Head {
  std::atomic<int32_t> ranks;
  alignas(64) std::byte padding[64];
};

World::World(const std::string& name, int ranks, int rank, int device, std::string& error)
    : name_(name), ranks_(ranks), rank_(rank), bytes_(sizeof(Head) + sizeof(RankPiece) * static_cast<size_t>(ranks)) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0) {
    error = "cannot open the shared memory " + name + ": " + std::strerror(errno);
    return;
  }
  struct stat status;
  const bool is_large_enough = fstat(file, &status) == 0 && static_cast<size_t>(status.st_size) >= bytes_;
  if (is_large_enough || ftruncate(file, static_cast<off_t>(bytes_)) == 0) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory_ == MAP_FAILED) memory_ = nullptr;
  }
  if (!memory_) error = "cannot map the shared memory " + name + ": " + std::strerror(errno);
  close(file);
  if (!memory_) return;
  auto& head = *static_cast<Head*>(memory_);
  pieces_ = reinterpret_cast<RankPiece*>(static_cast<std::byte*>(memory_) + sizeof(Head));
  int32_t expected = 0;
  if (!head.ranks.compare_exchange_strong(expected, ranks) && expected != ranks) {
    error =
        "this rank says there are " + std::to_string(ranks) + " ranks, another one says " + std::to_string(expected);
    return;
  }
  int64_t nobody = 0;
  if (!mine().process.compare_exchange_strong(nobody, getpid())) {
    error = "rank " + std::to_string(rank) + " has joined already";
    return;
  }
  mine().device = device;
  mine().is_ready = 1;
}

World::~World() {
  if (memory_) munmap(memory_, bytes_);
}

bool World::all_have_joined() const {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (piece(rank).is_ready == 0) return false;
  }
  return true;
}

void World::unlink() const {
  shm_unlink(name_.c_str());
}

int World::dead_rank() const {
  for (int rank = 0; rank < ranks_; ++rank) {
    const RankPiece& other = piece(rank);
    if (rank == rank_ || other.process == 0 || other.process == getpid() || other.has_left != 0) continue;
    // It may have left between the two looks.
    if (!is_process_alive(other.process) && other.has_left == 0) return rank;
  }
  return -1;
}

bool World::all_have_posted(int64_t round) const {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (piece(rank).posted <= round) return false;
  }
  return true;
}

int World::rank_that_never_posts(int64_t round) const {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (piece(rank).has_left != 0 && piece(rank).posted <= round) return rank;
  }
  return dead_rank();
}

bool World::someone_waits() const {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (rank != rank_ && piece(rank).host_waits != 0) return true;
  }
  return false;
}

std::string new_world_name() {
  static std::atomic<int> number{0};
  std::random_device random;
  char name[64];
  std::snprintf(name, sizeof name, "/cuda_emulation_nccl_%d_%d_%08x", static_cast<int>(getpid()), ++number, random());
  return name;
}

}  // namespace cuda_emulation
