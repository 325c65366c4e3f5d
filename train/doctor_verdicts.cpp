// What the facts mean: judge() of train/doctor.h.
#include <algorithm>
#include <map>
#include <set>

#include "core/check.h"
#include "core/host.h"
#include "train/doctor.h"

namespace itemloom {
namespace {

constexpr int64_t kMillion = 1'000'000;
// What a rank needs at least: the program, a small model and its batches.
constexpr int64_t kLeastMemory = 256 * kMillion;
constexpr int64_t kLeastDisk = 1000 * kMillion;
constexpr double kSlowWriteMilliseconds = 1000;
// In shared memory an all-reduce reads and writes each byte a few times; a tenth of memcpy's rate is not explained by
// it.
constexpr double kLeastShareOfMemcpy = 0.1;
// What a network of 10 Gbit/s gives two hosts is about twice as much.
constexpr double kLeastNetworkRate = 0.25e9;

using Verdicts = std::vector<Verdict>;
using HostRanks = std::vector<const RankFacts*>;

template <class... Parts>
void advise(Verdicts& verdicts, const Parts&... parts) {
  verdicts.push_back({false, join_message(parts...)});
}
template <class... Parts>
void refuse(Verdicts& verdicts, const Parts&... parts) {
  verdicts.push_back({true, join_message(parts...)});
}

void judge_versions(const Diagnosis& diagnosis, Verdicts& verdicts) {
  const RankFacts& first = diagnosis.ranks.front();
  const auto other = [&](std::string RankFacts::*field) {
    return std::find_if(diagnosis.ranks.begin(), diagnosis.ranks.end(),
                        [&](const RankFacts& rank) { return rank.*field != first.*field; });
  };
  const auto none = diagnosis.ranks.end();
  if (const auto rank = other(&RankFacts::version); rank != none) {
    refuse(verdicts, rank->host, " has itemloom ", rank->version, ", but ", first.host, " has ", first.version,
           "; install the same on all hosts");
  }
  if (const auto rank = other(&RankFacts::mpi); rank != none) {
    advise(verdicts, rank->host, " has ", rank->mpi, ", but ", first.host, " has ", first.mpi,
           "; they may not understand each other");
  }
  if (const auto rank = other(&RankFacts::kernels); rank != none) {
    advise(verdicts, rank->host, " uses ", rank->kernels, " kernels, but ", first.host, " uses ", first.kernels,
           "; set ITEMLOOM_CPU=avx2 for all ranks, so that they round alike");
  }
}

void judge_gpus(const Diagnosis& diagnosis, Verdicts& verdicts) {
  if (diagnosis.device != "cuda") return;
  for (size_t rank = 0; rank < diagnosis.ranks.size(); ++rank) {
    const RankFacts& facts = diagnosis.ranks[rank];
    if (facts.gpu_error.empty()) continue;
    refuse(verdicts, "rank ", rank, " on ", facts.host, ": ", facts.gpu_error);
    break;
  }
}

void judge_processors(const HostRanks& ranks, Verdicts& verdicts) {
  std::set<int> usable;
  int64_t there = 0, threads = 0;
  for (const RankFacts* rank : ranks) {
    for (const int processor : from_ranges(rank->processors)) usable.insert(processor);
    there = std::max(there, rank->host_processors);
    threads += rank->threads;
  }
  const std::string& host = ranks.front()->host;
  const auto processors = static_cast<int64_t>(usable.size()), count = static_cast<int64_t>(ranks.size());
  if (2 * processors <= there) {
    advise(verdicts, host, ": ", count, count == 1 ? " rank is" : " ranks are", " bound to ", processors, " of ", there,
           " processors; start with mpirun --bind-to none, or --map-by slot:PE=", std::max<int64_t>(1, there / count),
           " --bind-to core");
  } else if (count > processors) {
    advise(verdicts, host, ": ", count, " ranks share ", processors, " processors; start at most ", processors,
           " there");
  } else if (threads > processors) {
    advise(verdicts, host, ": ", count, " ranks would use ", threads, " threads on ", processors,
           " processors; give each rank its own: mpirun --map-by slot:PE=", processors / count, " --bind-to core");
  }
}

void judge_memory(const HostRanks& ranks, Verdicts& verdicts) {
  const RankFacts& first = *ranks.front();
  const int64_t memory =
      first.memory_limit > 0 ? std::min(first.memory_available, first.memory_limit) : first.memory_available;
  const int64_t each = memory / static_cast<int64_t>(ranks.size());
  if (each >= kLeastMemory) return;
  advise(verdicts, first.host, ": ", each / kMillion, " MB of memory for each of ", ranks.size(),
         " ranks, of which training may need more; start fewer there");
}

// Every rank of a host keeps the gradients of all parameters there, 4 bytes each; with optimizer.sharded their values
// too.
void judge_shared_memory(const Diagnosis& diagnosis, Verdicts& verdicts) {
  if (!diagnosis.rates.empty()) return;
  const RankFacts& first = diagnosis.ranks.front();
  const auto ranks = static_cast<int64_t>(diagnosis.ranks.size());
  const int64_t parameters = first.shared_memory_free / ranks / static_cast<int64_t>(sizeof(float));
  const std::string text = join_message(first.host, ": /dev/shm has ", first.shared_memory_free / kMillion,
                                        " MB free, room for the gradients of ", parameters, " parameters in ", ranks,
                                        " ranks (half as many with optimizer.sharded); enlarge it (mount -o "
                                        "remount,size=4G /dev/shm; docker run --shm-size=4g)");
  verdicts.push_back({first.shared_memory_free < ranks * kMillion, text});
}

void judge_rates(const Diagnosis& diagnosis, Verdicts& verdicts) {
  if (diagnosis.wrong_sums > 0) {
    refuse(verdicts, diagnosis.wrong_sums, " sums over the ranks were wrong: data changes on its way between them");
  }
  if (diagnosis.ranks.size() == 1 || diagnosis.rates.empty()) return;
  // The largest, of which the time between two messages is the smallest part.
  const ExchangeRate& rate = *std::max_element(diagnosis.rates.begin(), diagnosis.rates.end(),
                                               [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  if (diagnosis.hosts() > 1) {
    if (rate.all_reduce_rate() >= kLeastNetworkRate) return;
    advise(verdicts, "the all-reduce between the hosts moves only ", static_cast<int64_t>(rate.all_reduce_rate() / 1e6),
           " MB/s; see that MPI uses the fast network (mpirun --mca btl_tcp_if_include NAME)");
  } else if (rate.share_of_memcpy() < kLeastShareOfMemcpy) {
    advise(verdicts, "the all-reduce takes ", static_cast<int64_t>(1 / rate.share_of_memcpy()),
           " times as long as a memcpy of as many bytes; ",
           diagnosis.transport == "messages" ? "unset ITEMLOOM_TRANSPORT, so that ranks meet in shared memory"
                                             : "see what else runs on the machine, and where the ranks are bound");
  }
}

void judge_folder(const Diagnosis& diagnosis, Verdicts& verdicts) {
  const FolderFacts& first = diagnosis.folders.front();
  if (!first.error.empty()) return refuse(verdicts, "--run cannot be used: ", first.error);
  for (size_t rank = 1; rank < diagnosis.folders.size(); ++rank) {
    const FolderFacts& folder = diagnosis.folders[rank];
    if (folder.error.empty()) continue;
    refuse(verdicts, "rank ", rank, " on ", diagnosis.ranks[rank].host, " does not share --run with rank 0 on ",
           diagnosis.ranks[0].host, " (", folder.error, "); choose a folder that all hosts can read and write");
    break;
  }
  if (first.write_milliseconds > kSlowWriteMilliseconds) {
    advise(verdicts, "writing 1 MB to ", diagnosis.run, " and flushing it to disk took ",
           static_cast<int64_t>(first.write_milliseconds), " ms; every checkpoint and epoch waits for that");
  }
  if (first.free < kLeastDisk) {
    advise(verdicts, diagnosis.run, " has ", first.free / kMillion,
           " MB free; a checkpoint takes 12 bytes a parameter with adamw, and up to three are there at a time");
  }
}

}  // namespace

std::vector<Verdict> judge(const Diagnosis& diagnosis) {
  Verdicts verdicts;
  judge_versions(diagnosis, verdicts);
  judge_gpus(diagnosis, verdicts);
  std::map<std::string, HostRanks> hosts;
  for (const RankFacts& rank : diagnosis.ranks) hosts[rank.host].push_back(&rank);
  for (const auto& [host, ranks] : hosts) {
    judge_processors(ranks, verdicts);
    judge_memory(ranks, verdicts);
  }
  judge_shared_memory(diagnosis, verdicts);
  judge_rates(diagnosis, verdicts);
  if (!diagnosis.folders.empty()) judge_folder(diagnosis, verdicts);
  return verdicts;
}

}  // namespace itemloom
