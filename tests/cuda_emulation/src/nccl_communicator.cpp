#include "nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "internal.h"
#include "nccl_reduce.h"

namespace cuda_emulation {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kJoinWithin{600};
constexpr std::chrono::milliseconds kLookForTheDeadEvery{20};
constexpr std::chrono::milliseconds kHelpEvery{1};

constexpr const char* kNames[] = {"AllReduce", "Broadcast", "Reduce"};

const char* name_of(int32_t kind) {
  return kNames[kind];
}

std::string describe(const RoundHeader& header) {
  const auto kind = static_cast<CollectiveKind>(header.kind);
  std::string text = std::string(name_of(header.kind)) + " of " + std::to_string(header.count) + " " +
                     type_name(static_cast<ncclDataType_t>(header.type));
  if (kind != CollectiveKind::kAllReduce) text += ", root " + std::to_string(header.root);
  return text + " (its collective " + std::to_string(header.collective) + ", round " + std::to_string(header.round) +
         ")";
}

}  // namespace

// One collective on its way through the rounds.
class CollectiveRun {
 public:
  CollectiveRun(std::shared_ptr<Communicator> communicator, const Collective& collective, int64_t number)
      : communicator_(std::move(communicator)),
        world_(communicator_->world()),
        collective_(collective),
        number_(number),
        element_bytes_(element_bytes(collective.type)),
        window_(kChunkBytes / element_bytes_) {}

  Progress advance() {
    if (communicator_->completed_ != number_) return Progress::kWaiting;
    if (communicator_->loses_connection_at(number_)) communicator_->error_ = ncclSystemError;
    // As the real one's kernel, which goes round in circles.
    if (communicator_->error_ != ncclSuccess) return Progress::kWaiting;
    const Progress progress = is_posted_ ? take() : post();
    const bool waits = progress == Progress::kWaiting && Scheduler::instance().host_waits();
    world_.mine().host_waits = waits ? 1 : 0;
    return progress == Progress::kWaiting ? look_for_the_dead() : progress;
  }

 private:
  bool is_root() const { return world_.rank() == collective_.root; }
  bool receives() const { return collective_.kind != CollectiveKind::kReduce || is_root(); }
  bool sends() const { return collective_.kind != CollectiveKind::kBroadcast || is_root(); }
  size_t bytes() const { return collective_.count * element_bytes_; }
  int64_t round() const { return communicator_->rounds_; }
  std::byte* chunk(int of_rank) const { return world_.piece(of_rank).chunks[round() % 2]; }
  size_t elements_now() const { return std::min(window_, collective_.count - done_); }
  const std::byte* sent(size_t element) const {
    return static_cast<const std::byte*>(collective_.send) + element * element_bytes_;
  }
  std::byte* received(size_t element) const {
    return static_cast<std::byte*>(collective_.receive) + element * element_bytes_;
  }
  const char* name() const { return name_of(static_cast<int32_t>(collective_.kind)); }

  RoundHeader header() const {
    RoundHeader header;
    header.collective = number_;
    header.round = static_cast<int64_t>(done_ / window_);
    header.kind = static_cast<int32_t>(collective_.kind);
    header.type = collective_.type;
    header.root = collective_.root;
    header.count = collective_.count;
    return header;
  }

  Progress post() {
    if (done_ == 0) require_buffers();
    if (sends()) fill_chunk();
    RankPiece& mine = world_.mine();
    mine.headers[round() % 2] = header();
    mine.posted = round() + 1;
    is_posted_ = true;
    Scheduler::instance().notify();
    return Progress::kAdvanced;
  }

  void fill_chunk() const {
    const DeviceAccess access;
    std::memcpy(chunk(world_.rank()), sent(done_), elements_now() * element_bytes_);
  }

  Progress take() {
    if (!world_.all_have_posted(round())) return Progress::kWaiting;
    require_agreement();
    if (receives()) empty_chunks();
    ++communicator_->rounds_;
    is_posted_ = false;
    done_ += elements_now();
    Scheduler::instance().notify();
    if (done_ < collective_.count) return Progress::kAdvanced;
    if (receives()) mark_initialised(collective_.receive, bytes());
    return finish();
  }

  // Sums are formed in the order of the ranks, so that all get the same bits, every time.
  void empty_chunks() const {
    const size_t count = elements_now();
    const bool broadcasts = collective_.kind == CollectiveKind::kBroadcast;
    std::byte* target = received(done_);
    const DeviceAccess access;
    std::memcpy(target, chunk(broadcasts ? collective_.root : 0), count * element_bytes_);
    if (broadcasts) return;
    for (int other = 1; other < world_.ranks(); ++other) add_into(target, chunk(other), count, collective_.type);
  }

  void require_agreement() const {
    const RoundHeader& mine = world_.mine().headers[round() % 2];
    for (int other = 0; other < world_.ranks(); ++other) {
      const RoundHeader& theirs = world_.piece(other).headers[round() % 2];
      if (theirs == mine) continue;
      report("NCCL ranks disagree", "rank " + std::to_string(world_.rank()) + " is in " + describe(mine) + ", rank " +
                                        std::to_string(other) + " in " + describe(theirs));
    }
  }

  void require_buffers() const {
    const std::string call = std::string("nccl") + name();
    if (sends()) {
      require_device_range(collective_.send, bytes(), (call + ": send buffer").c_str());
      require_initialised(collective_.send, bytes(), (call + ": send buffer").c_str());
    }
    if (receives()) require_device_range(collective_.receive, bytes(), (call + ": receive buffer").c_str());
    if (sends() && receives() && overlaps_wrongly()) {
      report("overlap", call + ": the send and the receive buffer overlap, and not as in-place use allows");
    }
  }

  bool overlaps_wrongly() const {
    const std::byte *send = sent(0), *receive = received(0);
    return send != receive && send < receive + bytes() && receive < send + bytes();
  }

  // A rank that will never come is an error of the others.
  Progress look_for_the_dead() {
    if (Clock::now() - looked_at_ < kLookForTheDeadEvery) return Progress::kWaiting;
    looked_at_ = Clock::now();
    // Looked at once more: a rank may have posted and ended in between.
    if (world_.rank_that_never_posts(round()) >= 0 && !(is_posted_ && world_.all_have_posted(round()))) {
      communicator_->error_ = ncclRemoteError;
    }
    return Progress::kWaiting;
  }

  Progress finish() {
    world_.mine().host_waits = 0;
    ++communicator_->completed_;
    return Progress::kFinished;
  }

  std::shared_ptr<Communicator> communicator_;
  World& world_;
  Collective collective_;
  int64_t number_;
  size_t element_bytes_;
  size_t window_;  // elements in a round
  size_t done_ = 0;
  bool is_posted_ = false;
  Clock::time_point looked_at_ = Clock::now();
};

Communicator::Communicator(std::unique_ptr<World> world, int device) : world_(std::move(world)), device_(device) {}

void Communicator::leave() {
  has_left_ = true;
  if (helper_.joinable()) helper_.join();
  world_->mine().has_left = 1;
}

ncclResult_t Communicator::meet(std::string& error) {
  const auto limit = Clock::now() + kJoinWithin;
  while (!world_->all_have_joined()) {
    std::this_thread::sleep_for(kHelpEvery);
    if (const int dead = world_->dead_rank(); dead >= 0) {
      world_->unlink();
      error = "rank " + std::to_string(dead) + " died before all had joined";
      return ncclRemoteError;
    }
    if (Clock::now() > limit) report("NCCL is stuck", "not all ranks called ncclCommInitRank");
  }
  world_->unlink();
  for (int rank = 0; rank < world_->ranks(); ++rank) {
    for (int other = 0; other < rank; ++other) {
      if (world_->piece(rank).device != world_->piece(other).device) continue;
      error = "Duplicate GPU detected: rank " + std::to_string(other) + " and rank " + std::to_string(rank) +
              " both on CUDA device " + std::to_string(world_->piece(rank).device);
      return ncclInvalidUsage;
    }
  }
  start_helper();
  return ncclSuccess;
}

// A GPU goes on while its host does something else. Work here goes on when a host thread drives it, so this thread does
// when another rank's host waits for this one.
void Communicator::start_helper() {
  helper_ = std::thread([this] {
    while (!has_left_) {
      std::this_thread::sleep_for(kHelpEvery);
      if (world_->someone_waits()) help();
    }
  });
}

void Communicator::help() {
  const Lock lock = Scheduler::instance().lock();
  while (completed_ < issued_ && Scheduler::instance().run_one()) {
  }
}

WorkMaker Communicator::work(const Collective& collective) {
  return [self = shared_from_this(), collective] {
    if (self->has_left_) report("use after free", "a graph with a collective of a communicator that was destroyed");
    const auto run = std::make_shared<CollectiveRun>(self, collective, self->issued_++);
    return Work{std::string("nccl") + name_of(static_cast<int32_t>(collective.kind)), [run] { return run->advance(); }};
  };
}

bool Communicator::loses_connection_at(int64_t collective) const {
  return settings().nccl_error && settings().nccl_error->rank == world_->rank() &&
         settings().nccl_error->collective == collective;
}

void Communicator::finish(Lock& lock) {
  Scheduler::instance().run_until(
      lock, [this] { return completed_ == issued_; }, "the collectives of a communicator");
}

ncclResult_t Communicator::async_error() {
  if (error_ == ncclSuccess && world_->dead_rank() >= 0) error_ = ncclRemoteError;
  return error_;
}

}  // namespace cuda_emulation
