#include "train/doctor.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>

#include "core/communicator_mpi.h"
#include "core/device.h"
#include "core/files.h"
#include "core/host.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/stopwatch.h"
#include "train/config.h"
#include "train/run_folder.h"

namespace itemloom {
namespace {

constexpr double kSecondsEach = 0.4;

using Json = nlohmann::json;

// Every rank's facts, by rank.
template <class Facts>
std::vector<Facts> gather(Communicator& communicator, Facts mine) {
  Json json;
  mine.describe([&](const char* name, const auto& value) { json[name] = value; });
  std::vector<Facts> all;
  for (const std::string& text : communicator.all_gather_text(json.dump())) {
    const Json there = Json::parse(text);
    all.emplace_back().describe([&](const char* name, auto& value) { there.at(name).get_to(value); });
  }
  return all;
}

void look_at_shared_memory(RankFacts& facts) {
  struct statvfs status {};
  if (statvfs("/dev/shm", &status) != 0) return;
  const auto block = static_cast<int64_t>(status.f_frsize);
  facts.shared_memory_total = static_cast<int64_t>(status.f_blocks) * block;
  facts.shared_memory_free = static_cast<int64_t>(status.f_bavail) * block;
}

std::string find_gpu_error(int local_rank) {
  try {
    cuda_backend::check_gpu(local_rank);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

RankFacts look_at_rank(int local_rank) {
  const bool launched = launched_with_ranks();
  const HostMemory memory = host_memory();
  RankFacts facts;
  facts.host = host_name();
  facts.version = ITEMLOOM_VERSION;
  facts.processors = to_ranges(allowed_processors());
  // A launcher binds its ranks, not itself.
  facts.host_processors = static_cast<int64_t>(allowed_processors(launched ? getppid() : 0).size());
  facts.kernels = cpu_kernels();
  facts.memory_total = memory.total;
  facts.memory_available = memory.available;
  facts.memory_limit = memory.limit;
  facts.mpi = launched ? MpiProcess::library() : "not started by mpirun";
  facts.thread_level = launched ? MpiProcess::thread_level() : "";
  facts.cuda = cuda_backend::describe();
  facts.nccl = cuda_backend::nccl_version();
  facts.gpu_error = find_gpu_error(local_rank);
  look_at_shared_memory(facts);
  return facts;
}

std::vector<RankFacts> look_at_ranks(Communicator& communicator) {
  const int threads = threads_for(TrainingConfig{}, communicator);
  RankFacts mine;
  together(communicator, [&] { mine = look_at_rank(communicator.local_rank()); });
  mine.threads = threads;
  std::vector<RankFacts> ranks = gather(communicator, mine);
  for (RankFacts& rank : ranks) {
    rank.sharing = std::count_if(ranks.begin(), ranks.end(), [&](const RankFacts& other) {
      return other.host == rank.host && other.processors == rank.processors;
    });
  }
  return ranks;
}

double slowest(Communicator& communicator, double seconds) {
  std::vector<double> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(&seconds, sizeof seconds, all.data());
  return *std::max_element(all.begin(), all.end());
}

// The median on the slowest rank, without the first time, which pays for pages and connections.
double measure(Communicator& communicator, FunctionRef<void()> body) {
  const auto once = [&] {
    communicator.barrier();
    const auto start = std::chrono::steady_clock::now();
    body();
    return seconds_since(start);
  };
  const double first = slowest(communicator, once());
  std::vector<double> times(static_cast<size_t>(std::clamp(kSecondsEach / std::max(first, 1e-6), 1.0, 1000.0)));
  for (double& seconds : times) seconds = once();
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return slowest(communicator, times[times.size() / 2]);
}

void all_reduce(ExchangeBuffer& buffer, FlatRange range) {
  buffer.reduce_scatter_sum(range);
  buffer.all_gather(range);
}

// How many floats are not what whole numbers add up to. Leaves zeros, which stay what they are however often they are
// added.
int64_t count_wrong_sums(Communicator& communicator, ExchangeBuffer& buffer) {
  const Vector<float> values = buffer.values();
  const int ranks = communicator.size();
  std::fill(values.begin(), values.end(), static_cast<float>(communicator.rank() + 1));
  all_reduce(buffer, {0, values.size()});
  const auto expected = static_cast<float>(ranks) * static_cast<float>(ranks + 1) / 2;
  int64_t wrong = std::count_if(values.begin(), values.end(),
                                [&](float value) { return std::abs(value - expected) > 1e-4f * expected; });
  // Nobody may still read what is cleared here.
  communicator.barrier();
  std::fill(values.begin(), values.end(), 0.0f);
  communicator.all_reduce_sum(Vector<int64_t>(&wrong, 1));
  return wrong;
}

void measure_rates(Communicator& communicator, const std::vector<int64_t>& exchange_bytes, Diagnosis& diagnosis) {
  const int64_t most = *std::max_element(exchange_bytes.begin(), exchange_bytes.end());
  HostBlock copy;
  together(communicator, [&] { copy = HostBlock(most); });
  const auto buffer = communicator.make_exchange_buffer(most / static_cast<int64_t>(sizeof(float)));
  diagnosis.wrong_sums = communicator.size() > 1 ? count_wrong_sums(communicator, *buffer) : 0;
  for (const int64_t bytes : exchange_bytes) {
    ExchangeRate rate{.bytes = bytes};
    const FlatRange range{0, bytes / static_cast<int64_t>(sizeof(float))};
    if (communicator.size() > 1) {
      rate.all_reduce_seconds = measure(communicator, [&] { all_reduce(*buffer, range); });
    }
    rate.memcpy_seconds =
        measure(communicator, [&] { std::memcpy(copy.data(), buffer->values().data(), static_cast<size_t>(bytes)); });
    diagnosis.rates.push_back(rate);
  }
}

// Memory of a file system that is full ends a process without a word when it is touched.
bool shared_memory_holds_buffers(const Diagnosis& diagnosis, const std::vector<int64_t>& exchange_bytes) {
  if (diagnosis.ranks.size() == 1 || diagnosis.transport != "shared memory") return true;
  const int64_t needed = *std::max_element(exchange_bytes.begin(), exchange_bytes.end()) + (1 << 20);
  return diagnosis.ranks.front().shared_memory_free > needed * static_cast<int64_t>(diagnosis.ranks.size());
}

// A file of this name and content is in the folder of those who share it.
struct Probe {
  std::string folder, token;

  std::string path(int rank) const { return folder + "/.itemloom-doctor-" + token + "-" + std::to_string(rank); }
  std::string content() const { return token + std::string(kProbeBytes - token.size(), '\n'); }
};

std::string random_token() {
  std::random_device source;
  char text[17];
  std::snprintf(text, sizeof text, "%08x%08x", source(), source());
  return text;
}

void write_probe(const Probe& probe, int rank, FolderFacts& facts) {
  const auto start = std::chrono::steady_clock::now();
  write_whole_file(probe.path(rank), probe.content());
  facts.write_milliseconds = 1e3 * seconds_since(start);
  facts.free = static_cast<int64_t>(std::filesystem::space(probe.folder).available);
}

void catch_error(FolderFacts& facts, FunctionRef<void()> body) {
  try {
    body();
  } catch (const std::exception& error) {
    facts.error = error.what();
  }
}

// As in training, the first rank makes the folder, and the others read what it wrote and write files of their own.
std::vector<FolderFacts> look_at_folder(Communicator& communicator, const std::string& folder) {
  const int rank = communicator.rank();
  const Probe probe{folder, communicator.all_gather_text(random_token()).front()};
  std::optional<NewFolder> made;
  FolderFacts facts;
  if (rank == 0) {
    catch_error(facts, [&] {
      made.emplace(folder);
      write_probe(probe, rank, facts);
    });
  }
  const bool usable = communicator.all_gather_text(facts.error).front().empty();
  if (usable && rank > 0) {
    catch_error(facts, [&] {
      CHECK(read_whole_file(probe.path(0)) == probe.content(), probe.path(0), " is not what rank 0 wrote");
      write_probe(probe, rank, facts);
    });
  }
  communicator.barrier();
  std::error_code ignored;
  std::filesystem::remove(probe.path(rank), ignored);
  communicator.barrier();
  return gather(communicator, facts);
}

// Of the run that the folder holds; empty where it holds none that can be read, which is not what is asked here.
std::string device_of(const std::string& run) {
  const std::string config = RunFolder(run).config();
  if (run.empty() || !std::filesystem::exists(config)) return "";
  try {
    return load_config(config, {}).values.device;
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

int64_t Diagnosis::hosts() const {
  std::set<std::string> names;
  for (const RankFacts& rank : ranks) names.insert(rank.host);
  return static_cast<int64_t>(names.size());
}

Diagnosis examine(Communicator& communicator, const std::string& run, const std::string& device,
                  const std::vector<int64_t>& exchange_bytes) {
  Diagnosis diagnosis;
  diagnosis.transport = communicator.transport();
  diagnosis.ranks = look_at_ranks(communicator);
  if (shared_memory_holds_buffers(diagnosis, exchange_bytes)) measure_rates(communicator, exchange_bytes, diagnosis);
  diagnosis.run = run;
  if (!run.empty()) diagnosis.folders = look_at_folder(communicator, run);
  diagnosis.device = device;
  if (device.empty() && communicator.is_first()) diagnosis.device = device_of(run);
  diagnosis.device = communicator.all_gather_text(diagnosis.device).front();
  return diagnosis;
}

}  // namespace itemloom
