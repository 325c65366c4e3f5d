#include "core/shared_memory_group.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "core/check.h"

namespace itemloom {
namespace {

constexpr int64_t kMailboxBytes = int64_t{64} << 10;

// How often a rank has arrived at a meeting; the others wait for it to reach a number.
struct alignas(kAlignment) Arrivals {
  std::atomic<uint32_t> count;
  std::atomic<uint32_t> sleepers;
};

// A rank's piece of the group's control memory. Two mailboxes, used in turn: who writes one of them again knows that
// everyone has read it, because all have arrived at the meeting in between.
struct ControlPiece {
  RankStatus status;
  Arrivals arrivals;
  alignas(kAlignment) std::byte mailboxes[2][kMailboxBytes];
};

// The head of a rank's piece of an exchange buffer.
struct BufferHead {
  Arrivals arrivals;
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "atomics are shared between processes");

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

void arrive(Arrivals& arrivals) {
  arrivals.count.fetch_add(1);
  if (arrivals.sleepers.load() > 0) futex(arrivals.count, FUTEX_WAKE, INT_MAX, nullptr);
}

bool has_arrived(const Arrivals& arrivals, uint32_t number) {
  return static_cast<int32_t>(arrivals.count.load(std::memory_order_acquire) - number) >= 0;
}

// The control memory of a group, and what its ranks meet by.
class Group {
 public:
  Group(int rank, SharedPieces control, SharedMemory memory, std::atomic<bool>& left)
      : rank_(rank), control_(std::move(control)), memory_(std::move(memory)), left_(left) {
    spin_ = size() <= static_cast<int>(std::thread::hardware_concurrency());
  }

  int size() const { return static_cast<int>(control_.pieces.size()); }
  int rank() const { return rank_; }
  ControlPiece& piece(int rank) const {
    return *reinterpret_cast<ControlPiece*>(control_.pieces[static_cast<size_t>(rank)]);
  }
  SharedPieces allocate(int64_t bytes) const { return memory_(bytes); }
  void leave() const { left_.store(true); }

  // Arrives at the next meeting and returns when all others have, too. `arrivals_of(rank)` gives a rank's count,
  // `meetings` is the number of those so far.
  template <class ArrivalsOf>
  void meet(ArrivalsOf arrivals_of, uint32_t& meetings) const {
    arrive(arrivals_of(rank_));
    ++meetings;
    for (int other = 0; other < size(); ++other) {
      if (other != rank_) wait(arrivals_of(other), meetings);
    }
  }

 private:
  void wait(Arrivals& arrivals, uint32_t number) const {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_ ? 50 : 0);
    do {
      for (int turn = 0; turn < 64; ++turn) {
        if (has_arrived(arrivals, number)) return;
        __builtin_ia32_pause();
      }
    } while (std::chrono::steady_clock::now() < limit);
    arrivals.sleepers.fetch_add(1);
    while (true) {
      const uint32_t seen = arrivals.count.load();
      if (static_cast<int32_t>(seen - number) >= 0) break;
      if (left_.load()) {
        arrivals.sleepers.fetch_sub(1);
        fail("rank ", rank_, " waits for a rank that has left");
      }
      const timespec moment{0, 20'000'000};
      futex(arrivals.count, FUTEX_WAIT, seen, &moment);
    }
    arrivals.sleepers.fetch_sub(1);
    std::atomic_thread_fence(std::memory_order_acquire);
  }

  int rank_;
  bool spin_;
  SharedPieces control_;
  SharedMemory memory_;
  std::atomic<bool>& left_;
};

class SharedBuffer : public ExchangeBuffer {
 public:
  SharedBuffer(std::shared_ptr<const Group> group, int64_t floats)
      : group_(std::move(group)),
        floats_(floats),
        pieces_(
            group_->allocate(static_cast<int64_t>(sizeof(BufferHead)) + floats * static_cast<int64_t>(sizeof(float)))) {
    for (int other = 0; other < group_->size(); ++other) sources_.push_back(nullptr);
  }

  Vector<float> values() const override { return Vector<float>(floats(group_->rank()), floats_); }

  void reduce_scatter_sum(FlatRange range) override {
    meet();
    const FlatRange share = share_of(range, group_->rank(), group_->size());
    if (share.size() == 0) return;
    for (int other = 0; other < group_->size(); ++other)
      sources_[static_cast<size_t>(other)] = floats(other) + share.begin;
    tree_sum(sources_.data(), group_->size(), share.size(), floats(group_->rank()) + share.begin);
  }

  void all_gather(FlatRange range) override {
    meet();
    for (int turn = 1; turn < group_->size(); ++turn) {
      // Every rank begins with another one, so that not all read the same memory at the same time.
      const int other = (group_->rank() + turn) % group_->size();
      const FlatRange share = share_of(range, other, group_->size());
      std::memcpy(floats(group_->rank()) + share.begin, floats(other) + share.begin,
                  static_cast<size_t>(share.size()) * sizeof(float));
    }
  }

 private:
  BufferHead& head(int rank) const { return *reinterpret_cast<BufferHead*>(pieces_.pieces[static_cast<size_t>(rank)]); }
  float* floats(int rank) const {
    return reinterpret_cast<float*>(pieces_.pieces[static_cast<size_t>(rank)] + sizeof(BufferHead));
  }
  void meet() {
    group_->meet([this](int rank) -> Arrivals& { return head(rank).arrivals; }, meetings_);
  }

  std::shared_ptr<const Group> group_;
  int64_t floats_;
  SharedPieces pieces_;
  std::vector<const float*> sources_;
  uint32_t meetings_ = 0;
};

class SharedMemoryCommunicator : public Communicator {
 public:
  SharedMemoryCommunicator(int rank, SharedPieces control, SharedMemory memory, std::atomic<bool>& left)
      : Communicator(rank, static_cast<int>(control.pieces.size())),
        group_(std::make_shared<const Group>(rank, std::move(control), std::move(memory), left)) {
    use_status(&group_->piece(rank).status);
  }

  std::unique_ptr<ExchangeBuffer> make_exchange_buffer(int64_t floats) override {
    return std::make_unique<SharedBuffer>(group_, floats);
  }
  std::string transport() const override { return "shared memory"; }
  int local_rank() const override { return rank(); }
  void leave() override { group_->leave(); }

 private:
  void gather_bytes(const void* mine, int64_t bytes, void* all) override {
    int64_t begin = 0;
    do {
      const int64_t here = std::min(kMailboxBytes, bytes - begin);
      if (here > 0)
        std::memcpy(mailbox(rank()), static_cast<const std::byte*>(mine) + begin, static_cast<size_t>(here));
      meet();
      for (int other = 0; here > 0 && other < size(); ++other) {
        std::memcpy(static_cast<std::byte*>(all) + other * bytes + begin, mailbox(other), static_cast<size_t>(here));
      }
      turn_ = 1 - turn_;
      begin += here;
    } while (begin < bytes);
  }

  void broadcast_bytes(void* data, int64_t bytes, int root) override {
    for (int64_t begin = 0; begin < bytes; begin += kMailboxBytes) {
      const auto here = static_cast<size_t>(std::min(kMailboxBytes, bytes - begin));
      std::byte* place = static_cast<std::byte*>(data) + begin;
      if (rank() == root) std::memcpy(mailbox(root), place, here);
      meet();
      if (rank() != root) std::memcpy(place, mailbox(root), here);
      turn_ = 1 - turn_;
    }
  }

  std::byte* mailbox(int rank) const { return group_->piece(rank).mailboxes[turn_]; }
  void meet() {
    group_->meet([this](int rank) -> Arrivals& { return group_->piece(rank).arrivals; }, meetings_);
  }

  std::shared_ptr<const Group> group_;
  uint32_t meetings_ = 0;
  int turn_ = 0;
};

}  // namespace

int64_t shared_control_bytes() {
  return sizeof(ControlPiece);
}

RankStatus& shared_status(const SharedPieces& control, int rank) {
  return reinterpret_cast<ControlPiece*>(control.pieces[static_cast<size_t>(rank)])->status;
}

std::unique_ptr<Communicator> make_shared_memory_communicator(int rank, SharedPieces control, SharedMemory memory,
                                                              std::atomic<bool>& left) {
  return std::make_unique<SharedMemoryCommunicator>(rank, std::move(control), std::move(memory), left);
}

}  // namespace itemloom
