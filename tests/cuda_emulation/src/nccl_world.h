// The ranks of a communicator, which are threads of one process or processes of one host, meet in a piece of POSIX
// shared memory that is named by the unique id.
//
// A collective is a series of rounds. In each, a rank posts a header, which says what it believes they are doing, and a
// chunk of data, and takes what it needs from the chunks of all. Rounds use two chunks of a rank in turn: who posts
// round n has taken round n - 1, which all had posted, each after it had taken round n - 2.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cuda_emulation {

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr int kMostRanks = 64;

// What a rank does in a round, compared between the ranks.
struct RoundHeader {
  int64_t collective = 0;  // number in its communicator, from 0
  int64_t round = 0;       // number in its collective
  int32_t kind = 0;
  int32_t type = 0;
  int32_t root = 0;
  uint64_t count = 0;

  bool operator==(const RoundHeader&) const = default;
};

// A rank's piece of the shared memory, which begins as zeros.
struct RankPiece {
  std::atomic<int64_t> process;  // 0: has not joined
  std::atomic<int32_t> device;
  std::atomic<int32_t> is_ready;    // the fields above are there
  std::atomic<int32_t> has_left;    // destroyed its communicator
  std::atomic<int32_t> host_waits;  // a host thread waits for a round to go on
  std::atomic<int64_t> posted;      // rounds
  RoundHeader headers[2];
  alignas(64) std::byte chunks[2][kChunkBytes];
};

class World {
 public:
  // Joins as one rank of several; does not wait for the others. Throws nothing: `error` says why it could not.
  World(const std::string& name, int ranks, int rank, int device, std::string& error);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int ranks() const { return ranks_; }
  int rank() const { return rank_; }
  RankPiece& piece(int rank) const { return pieces_[rank]; }
  RankPiece& mine() const { return pieces_[rank_]; }

  bool all_have_joined() const;
  // Takes the name away, so that nothing is left behind: once all have joined, or one never will.
  void unlink() const;
  // A rank, other than this one, whose process ended without leaving; -1 when all live.
  int dead_rank() const;

  bool all_have_posted(int64_t round) const;
  // A rank that will never post the round, because it has left or died; -1 for none.
  int rank_that_never_posts(int64_t round) const;
  bool someone_waits() const;

 private:
  struct Head;

  std::string name_;
  int ranks_;
  int rank_;
  size_t bytes_ = 0;
  void* memory_ = nullptr;
  RankPiece* pieces_ = nullptr;
};

// A name that nobody else has.
std::string new_world_name();

}  // namespace cuda_emulation
