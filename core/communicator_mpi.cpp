#include "core/communicator_mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>

#include "core/check.h"
#include "core/host.h"
#include "core/rank_watch.h"
#include "core/shared_memory_group.h"

namespace itemloom {
namespace {

constexpr int64_t kMessageBytes = int64_t{4} << 20;
// What all pieces that are on their way to one rank at a time occupy there.
constexpr int64_t kStagingBytes = int64_t{64} << 20;
// Before a rank that has failed ends: for the others to say where they were; and, where it may be another one's death
// that made it fail, for its watch to say so.
constexpr std::chrono::milliseconds kTimeOfOthers{300}, kTimeOfWatch{500};

// One MPI call at a time, from whatever thread: MPI_THREAD_SERIALIZED is enough, and faster in Open MPI than its own
// locks. No call under it blocks: requests are begun and tested.
std::mutex& mpi_lock() {
  static std::mutex lock;
  return lock;
}

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(call, ": ", text);
}
#define CHECK_MPI(call) check_mpi(call, #call)

// Whether this rank has left: its waits end then, since what they wait for may never come.
std::atomic<bool> has_left{false};

void complete(std::span<MPI_Request> requests) {
  for (int turn = 0;; ++turn) {
    CHECK(!has_left.load(), "a rank that has left waits for others");
    int done = 0;
    {
      const std::lock_guard<std::mutex> lock(mpi_lock());
      CHECK_MPI(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE));
    }
    if (done) return;
    if (turn < 100) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

MPI_Comm duplicate(MPI_Comm communicator) {
  MPI_Comm copy;
  MPI_Request request;
  {
    const std::lock_guard<std::mutex> lock(mpi_lock());
    CHECK_MPI(MPI_Comm_idup(communicator, &copy, &request));
  }
  complete({&request, 1});
  return copy;
}

// For the time in which MPI takes down what the watch lives on, and waits for all ranks once more.
void end_process_after(double seconds) {
  std::signal(SIGALRM, [](int) {
    constexpr std::string_view kLine = "itemloom: all ranks have finished, but one of them does not let MPI end\n";
    [[maybe_unused]] const ssize_t said = write(STDERR_FILENO, kLine.data(), kLine.size());
    _exit(1);
  });
  alarm(static_cast<unsigned>(std::ceil(seconds)));
}

// An exchange buffer whose shares travel straight from rank to rank. Each rank sends and receives (R - 1)/R of the
// range in either half, the least there is, and sums its share in the same tree as ranks in shared memory do.
class MessageBuffer : public ExchangeBuffer {
 public:
  MessageBuffer(MPI_Comm communicator, int rank, int size, int64_t floats)
      : communicator_(communicator),
        rank_(rank),
        size_(size),
        floats_(floats),
        block_(floats * static_cast<int64_t>(sizeof(float))),
        piece_(std::min(kMessageBytes, kStagingBytes / size) / static_cast<int64_t>(sizeof(float))),
        staging_(piece_ * (size - 1) * static_cast<int64_t>(sizeof(float))) {
    sources_.resize(static_cast<size_t>(size));
    requests_.reserve(static_cast<size_t>(2 * size));
  }

  Vector<float> values() const override { return Vector<float>(reinterpret_cast<float*>(block_.data()), floats_); }

  void reduce_scatter_sum(FlatRange range) override {
    for_pieces(range, [&](int64_t piece) {
      const FlatRange mine = piece_of(range, rank_, piece);
      float* staged = reinterpret_cast<float*>(staging_.data());
      for (int other = 0; other < size_; ++other) {
        sources_[static_cast<size_t>(other)] = other == rank_ ? at(mine.begin) : staged;
        if (other == rank_) continue;
        receive(staged, mine.size(), other);
        staged += piece_;
        const FlatRange theirs = piece_of(range, other, piece);
        send(at(theirs.begin), theirs.size(), other);
      }
      finish_messages();
      tree_sum(sources_.data(), size_, mine.size(), at(mine.begin));
    });
  }

  void all_gather(FlatRange range) override {
    for_pieces(range, [&](int64_t piece) {
      const FlatRange mine = piece_of(range, rank_, piece);
      for (int other = 0; other < size_; ++other) {
        if (other == rank_) continue;
        const FlatRange theirs = piece_of(range, other, piece);
        receive(at(theirs.begin), theirs.size(), other);
        send(at(mine.begin), mine.size(), other);
      }
      finish_messages();
    });
  }

 private:
  float* at(int64_t place) const { return values().data() + place; }

  // The piece of a rank's share of the range; empty after the share's end.
  FlatRange piece_of(FlatRange range, int rank, int64_t piece) const {
    const FlatRange share = share_of(range, rank, size_);
    const int64_t begin = std::min(share.end, share.begin + piece * piece_);
    return {begin, std::min(share.end, begin + piece_)};
  }

  template <class Body>
  void for_pieces(FlatRange range, Body body) {
    int64_t largest = 0;
    for (int rank = 0; rank < size_; ++rank) largest = std::max(largest, share_of(range, rank, size_).size());
    for (int64_t piece = 0; piece * piece_ < largest; ++piece) body(piece);
  }

  void send(const float* data, int64_t count, int to) {
    if (count == 0) return;
    const std::lock_guard<std::mutex> lock(mpi_lock());
    requests_.push_back(MPI_REQUEST_NULL);
    CHECK_MPI(MPI_Isend(data, static_cast<int>(count), MPI_FLOAT, to, 0, communicator_, &requests_.back()));
  }
  void receive(float* data, int64_t count, int from) {
    if (count == 0) return;
    const std::lock_guard<std::mutex> lock(mpi_lock());
    requests_.push_back(MPI_REQUEST_NULL);
    CHECK_MPI(MPI_Irecv(data, static_cast<int>(count), MPI_FLOAT, from, 0, communicator_, &requests_.back()));
  }
  void finish_messages() {
    complete(requests_);
    requests_.clear();
  }

  MPI_Comm communicator_;
  int rank_, size_;
  int64_t floats_;
  HostBlock block_;
  int64_t piece_;  // floats of a message
  HostBlock staging_;
  std::vector<const float*> sources_;
  std::vector<MPI_Request> requests_;
};

class MessageCommunicator : public Communicator {
 public:
  MessageCommunicator(MPI_Comm communicator, int rank, int size, RankStatus* status, int local_rank)
      : Communicator(rank, size), communicator_(communicator), local_rank_(local_rank) {
    use_status(status);
  }

  std::unique_ptr<ExchangeBuffer> make_exchange_buffer(int64_t floats) override {
    return std::make_unique<MessageBuffer>(duplicate(communicator_), rank(), size(), floats);
  }
  std::string transport() const override { return "messages"; }
  int local_rank() const override { return local_rank_; }
  void leave() override { has_left.store(true); }

 private:
  void gather_bytes(const void* mine, int64_t bytes, void* all) override {
    std::vector<std::byte> pieces;
    int64_t begin = 0;
    do {
      const int64_t here = std::min(kMessageBytes, bytes - begin);
      pieces.resize(static_cast<size_t>(here * size()));
      MPI_Request request;
      {
        const std::lock_guard<std::mutex> lock(mpi_lock());
        CHECK_MPI(MPI_Iallgather(static_cast<const std::byte*>(mine) + begin, static_cast<int>(here), MPI_BYTE,
                                 pieces.data(), static_cast<int>(here), MPI_BYTE, communicator_, &request));
      }
      complete({&request, 1});
      for (int other = 0; here > 0 && other < size(); ++other) {
        std::memcpy(static_cast<std::byte*>(all) + other * bytes + begin, pieces.data() + other * here,
                    static_cast<size_t>(here));
      }
      begin += here;
    } while (begin < bytes);
  }

  void broadcast_bytes(void* data, int64_t bytes, int root) override {
    for (int64_t begin = 0; begin < bytes; begin += kMessageBytes) {
      MPI_Request request;
      {
        const std::lock_guard<std::mutex> lock(mpi_lock());
        CHECK_MPI(MPI_Ibcast(static_cast<std::byte*>(data) + begin,
                             static_cast<int>(std::min(kMessageBytes, bytes - begin)), MPI_BYTE, root, communicator_,
                             &request));
      }
      complete({&request, 1});
    }
  }

  MPI_Comm communicator_;
  int local_rank_;
};

}  // namespace

bool launched_with_ranks() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK")) return true;
  const char* tasks = std::getenv("SLURM_NTASKS");
  CHECK(!std::getenv("SLURM_STEP_ID") || !tasks || std::atoi(tasks) <= 1, "srun started ", tasks ? tasks : "",
        " processes that cannot find each other; start them with srun --mpi=pmix, or with mpirun");
  return false;
}

class MpiProcess::Implementation {
 public:
  Implementation() {
    int provided = 0;
    CHECK_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
    CHECK(provided >= MPI_THREAD_SERIALIZED, "this MPI library (", library(),
          ") lets only one thread communicate; use one with MPI_THREAD_SERIALIZED");
    CHECK_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
    CHECK_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local_));
    CHECK_MPI(MPI_Comm_rank(local_, &local_rank_));
    CHECK_MPI(MPI_Comm_size(local_, &local_size_));
    local_ranks_.resize(static_cast<size_t>(local_size_));
    CHECK_MPI(MPI_Allgather(&rank_, 1, MPI_INT, local_ranks_.data(), 1, MPI_INT, local_));
    const SharedPieces control = allocate(shared_control_bytes());
    make_communicator(control);
    communicator_->use_end([this](const std::string& error) {
      std::this_thread::sleep_for(kTimeOfWatch);
      abort(error);
    });
    begin_watch(control);
  }

  Communicator& communicator() { return *communicator_; }
  RankWatch& watch() { return *watch_; }

  void finish() {
    communicator_->status().enter(RankPhase::kEnding);
    communicator_->barrier();
    communicator_->status().end.store(RankEnd::kFinished);
    end_process_after(watch_->timeout());
    watch_.reset();
    communicator_.reset();
    const std::lock_guard<std::mutex> lock(mpi_lock());
    for (MPI_Win& window : windows_) CHECK_MPI(MPI_Win_free(&window));
    MPI_Finalize();
  }

  [[noreturn]] void abort(const std::string& error) {
    // Another thread may fail because of the same; the first one speaks, and nobody goes on after it.
    abort_lock_.lock();
    report_error(join_message("rank ", rank_, ": ", error));
    communicator_->status().end.store(RankEnd::kFailed);
    // A moment for the others to say where they were, before the launcher ends them.
    std::this_thread::sleep_for(kTimeOfOthers);
    // Not beside another thread's call, unless that waits with the lock held.
    for (int round = 0; round < 100 && !mpi_lock().try_lock(); ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
  }

 private:
  // A window stays until the process has finished: freeing is collective, and a rank that unwinds must not wait.
  SharedPieces allocate(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mpi_lock());
    MPI_Info info;
    CHECK_MPI(MPI_Info_create(&info));
    // Each rank's piece on pages of its own, near its processor.
    CHECK_MPI(MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    void* base = nullptr;
    MPI_Win window;
    const int64_t whole = bytes + kAlignment;
    CHECK_MPI(MPI_Win_allocate_shared(whole, 1, info, local_, &base, &window));
    CHECK_MPI(MPI_Info_free(&info));
    CHECK_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window));
    windows_.push_back(window);
    SharedPieces shared;
    for (int other = 0; other < local_size_; ++other) {
      MPI_Aint size = 0;
      int unit = 0;
      void* piece = nullptr;
      CHECK_MPI(MPI_Win_shared_query(window, other, &size, &unit, &piece));
      const auto address = reinterpret_cast<uintptr_t>(piece);
      const uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
      shared.pieces.push_back(reinterpret_cast<std::byte*>(aligned));
    }
    std::memset(shared.pieces[static_cast<size_t>(local_rank_)], 0, static_cast<size_t>(bytes));
    CHECK_MPI(MPI_Barrier(local_));
    return shared;
  }

  void make_communicator(const SharedPieces& control) {
    const char* transport = std::getenv("ITEMLOOM_TRANSPORT");
    CHECK(!transport || std::strcmp(transport, "messages") == 0, "ITEMLOOM_TRANSPORT is '", transport ? transport : "",
          "'; it may be 'messages' or not set");
    if (local_size_ == size_ && !transport) {
      communicator_ = make_shared_memory_communicator(
          rank_, control, [this](int64_t bytes) { return allocate(bytes); }, has_left);
    } else {
      communicator_ = std::make_unique<MessageCommunicator>(duplicate(MPI_COMM_WORLD), rank_, size_,
                                                            &shared_status(control, local_rank_), local_rank_);
    }
  }

  // A rank's number among those of this host, or -1 when it is on another one.
  int local_place(int rank) const {
    const auto place = std::find(local_ranks_.begin(), local_ranks_.end(), rank);
    return place == local_ranks_.end() ? -1 : static_cast<int>(place - local_ranks_.begin());
  }

  void begin_watch(const SharedPieces& control) {
    const std::vector<std::string> hosts = communicator_->all_gather_text(host_name());
    remote_ = std::vector<RankStatus>(static_cast<size_t>(size_));
    std::vector<WatchedRank> ranks;
    for (int rank = 0; rank < size_; ++rank) {
      const int place = local_place(rank);
      RankStatus* status = place >= 0 ? &shared_status(control, place) : &remote_[static_cast<size_t>(rank)];
      ranks.push_back({.status = status, .host = hosts[static_cast<size_t>(rank)], .local = place >= 0});
    }
    news_communicator_ = duplicate(MPI_COMM_WORLD);
    watch_ = std::make_unique<RankWatch>(rank_, ranks, [this](bool tell) { exchange_news(tell); });
  }

  // What one rank tells the others of its state.
  struct News {
    int64_t step, collectives, phase, end;
    uint64_t beats, rounds;
  };

  // Takes what ranks of other hosts tell, and with `tell` tells each of them where this one is. A message that has not
  // been taken yet (a link is slow or cut) is waited for, not repeated.
  void exchange_news(bool tell) {
    if (local_size_ == size_) return;
    const std::lock_guard<std::mutex> lock(mpi_lock());
    take_news();
    if (!tell) return;
    int sent = 1;
    if (!news_sent_.empty()) {
      CHECK_MPI(MPI_Testall(static_cast<int>(news_sent_.size()), news_sent_.data(), &sent, MPI_STATUSES_IGNORE));
    }
    if (!sent) return;
    const RankStatus& own = communicator_->status();
    news_ = {.step = own.step.load(),
             .collectives = own.collectives.load(),
             .phase = static_cast<int64_t>(own.phase.load()),
             .end = static_cast<int64_t>(own.end.load()),
             .beats = own.beats.load(),
             .rounds = own.rounds.load()};
    news_sent_.clear();
    for (int other = 0; other < size_; ++other) {
      if (local_place(other) >= 0) continue;
      news_sent_.push_back(MPI_REQUEST_NULL);
      CHECK_MPI(MPI_Isend(&news_, sizeof news_, MPI_BYTE, other, 0, news_communicator_, &news_sent_.back()));
    }
  }

  void take_news() {
    while (true) {
      int waiting = 0;
      MPI_Status status;
      CHECK_MPI(MPI_Iprobe(MPI_ANY_SOURCE, 0, news_communicator_, &waiting, &status));
      if (!waiting) return;
      News news;
      CHECK_MPI(MPI_Recv(&news, sizeof news, MPI_BYTE, status.MPI_SOURCE, 0, news_communicator_, MPI_STATUS_IGNORE));
      RankStatus& there = remote_[static_cast<size_t>(status.MPI_SOURCE)];
      there.step.store(news.step);
      there.collectives.store(news.collectives);
      there.phase.store(static_cast<RankPhase>(news.phase));
      there.end.store(static_cast<RankEnd>(news.end));
      there.beats.store(news.beats);
      there.rounds.store(news.rounds);
    }
  }

  std::mutex abort_lock_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  MPI_Comm local_ = MPI_COMM_NULL, news_communicator_ = MPI_COMM_NULL;
  std::vector<int> local_ranks_;
  std::vector<MPI_Win> windows_;
  std::vector<RankStatus> remote_;
  News news_{};
  std::vector<MPI_Request> news_sent_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<RankWatch> watch_;
};

MpiProcess::MpiProcess() : implementation_(std::make_unique<Implementation>()) {}
MpiProcess::~MpiProcess() = default;

Communicator& MpiProcess::communicator() {
  return implementation_->communicator();
}

void MpiProcess::set_rank_timeout(double seconds) {
  implementation_->watch().set_timeout(seconds);
}

void MpiProcess::finish() {
  implementation_->finish();
}

void MpiProcess::abort(const std::string& error) {
  implementation_->abort(error);
}

std::string MpiProcess::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<size_t>(length));
  return whole.substr(0, whole.find(','));
}

std::string MpiProcess::thread_level() {
  int level = 0;
  MPI_Query_thread(&level);
  return level == MPI_THREAD_MULTIPLE ? "multiple" : level == MPI_THREAD_SERIALIZED ? "serialized" : "less";
}

}  // namespace itemloom
