#include "tests/support/thread_group.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "core/shared_memory_group.h"
#include "tests/support/catch.h"

namespace itemloom::test {
namespace {

// Hands every rank the same pieces when all have asked for them.
class Pieces {
 public:
  explicit Pieces(int ranks) : ranks_(ranks) {}

  SharedPieces allocate(int64_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (asked_ == 0) next_ = make(bytes);
    const int64_t turn = turn_;
    if (++asked_ == ranks_) {
      asked_ = 0;
      given_ = next_;
      ++turn_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return turn_ != turn; });
    }
    return given_;
  }

 private:
  SharedPieces make(int64_t bytes) const {
    auto blocks = std::make_shared<std::vector<HostBlock>>();
    SharedPieces pieces;
    for (int rank = 0; rank < ranks_; ++rank) {
      blocks->emplace_back(bytes);
      pieces.pieces.push_back(blocks->back().data());
    }
    pieces.storage = blocks;
    return pieces;
  }

  int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int asked_ = 0;
  int64_t turn_ = 0;
  SharedPieces next_, given_;
};

}  // namespace

std::vector<std::string> run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  Pieces pieces(ranks);
  std::atomic<bool> left{false};
  std::vector<std::string> messages(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto communicator = make_shared_memory_communicator(
          rank, pieces.allocate(shared_control_bytes()), [&](int64_t bytes) { return pieces.allocate(bytes); }, left);
      try {
        body(*communicator);
      } catch (const std::exception& error) {
        messages[static_cast<size_t>(rank)] = error.what();
        communicator->leave();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return messages;
}

void run_ranks_well(int ranks, const std::function<void(Communicator&)>& body) {
  for (const std::string& message : run_ranks(ranks, body)) REQUIRE(message == "");
}

}  // namespace itemloom::test
