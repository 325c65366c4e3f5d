#include "access_counters.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "engine.h"
#include "report.h"

namespace cuda_emulation {
namespace {

constexpr uint32_t kSectorBytes = 32;
constexpr uint32_t kBanks = 32, kBankBytes = 4;

struct Site {
  const SourceLine* line;
  bool writes, is_shared;
  auto key() const { return std::tie(line, writes, is_shared); }
  bool operator<(const Site& other) const { return key() < other.key(); }
};

// What the lanes of a warp did at one execution of a place: their n-th access there belongs together.
struct Request {
  uint32_t lanes = 0;
  uint32_t bytes = 0;
  uintptr_t addresses[kWarpSize];
};

struct Totals {
  uint64_t requests = 0, used = 0, ideal = 0;  // in sectors or bank cycles
};

struct Counters {
  std::map<std::string, std::map<Site, Totals>> kernels;
  std::map<std::string, uint64_t> blocks;
  std::map<std::tuple<uint32_t, Site, uint32_t>, Request> pending;  // by warp, site and number of execution
  std::map<Site, uint32_t> executions[kMaximumThreads];
};

Counters& counters() {
  static Counters& all = *new Counters;
  return all;
}

void add_sectors(const Request& request, Totals& totals) {
  std::set<uintptr_t> sectors;
  for (uint32_t left = request.lanes; left != 0; left &= left - 1) {
    const uintptr_t begin = request.addresses[std::countr_zero(left)];
    for (uintptr_t at = begin / kSectorBytes; at <= (begin + request.bytes - 1) / kSectorBytes; ++at)
      sectors.insert(at);
  }
  totals.used += sectors.size();
  const uint32_t bytes = static_cast<uint32_t>(std::popcount(request.lanes)) * request.bytes;
  totals.ideal += (bytes + kSectorBytes - 1) / kSectorBytes;
}

// A wide access takes place in phases of 128 bytes; in each, every bank serves one word a cycle.
void add_bank_cycles(const Request& request, Totals& totals) {
  const uint32_t width = std::max(request.bytes, kBankBytes);
  const uint32_t lanes_per_phase = std::clamp(kBanks * kBankBytes / width, 1u, kWarpSize);
  for (uint32_t first = 0; first < kWarpSize; first += lanes_per_phase) {
    std::set<uintptr_t> words[kBanks];
    size_t cycles = 0;
    for (uint32_t lane = first; lane < first + lanes_per_phase; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      for (uint32_t byte = 0; byte < width; byte += kBankBytes) {
        const uintptr_t word = (request.addresses[lane] + byte) / kBankBytes;
        words[word % kBanks].insert(word);
        cycles = std::max(cycles, words[word % kBanks].size());
      }
    }
    totals.used += cycles;
    totals.ideal += cycles > 0 ? 1 : 0;
  }
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

void write_kernel(std::ostream& out, const std::string& name, const std::map<Site, Totals>& sites) {
  out << "    {\"kernel\": " << quoted(demangle(name.c_str())) << ", \"blocks\": " << counters().blocks[name]
      << ", \"lines\": [";
  const char* separator = "\n";
  for (const auto& [site, totals] : sites) {
    out << separator << "      {\"at\": " << quoted(describe_line(site.line)) << ", \"space\": \""
        << (site.is_shared ? "shared" : "device") << "\", \"access\": \"" << (site.writes ? "store" : "load")
        << "\", \"requests\": " << totals.requests << ", \"" << (site.is_shared ? "bank_cycles" : "sectors")
        << "\": " << totals.used << ", \"ideal\": " << totals.ideal << "}";
    separator = ",\n";
  }
  out << "\n    ]}";
}

void write_file() {
  std::ofstream out(settings().counters);
  out << "{\n  \"kernels\": [\n";
  const char* separator = "";
  for (const auto& [name, sites] : counters().kernels) {
    out << separator;
    write_kernel(out, name, sites);
    separator = ",\n";
  }
  out << "\n  ]\n}\n";
  if (!out.flush()) std::fprintf(stderr, "CUDA emulation: cannot write %s\n", settings().counters.c_str());
}

}  // namespace

bool counting_accesses() {
  static const bool counting = [] {
    if (settings().counters.empty()) return false;
    counters();
    std::atexit(&write_file);
    return true;
  }();
  return counting;
}

void count_access(const ThreadContext& thread, const void* at, uint32_t bytes, bool writes, bool is_shared) {
  const Site site{thread.here, writes, is_shared};
  const uint32_t execution = counters().executions[thread.number][site]++;
  Request& request = counters().pending[{thread.warp, site, execution}];
  request.lanes |= 1u << thread.lane;
  request.bytes = bytes;
  request.addresses[thread.lane] = reinterpret_cast<uintptr_t>(at);
}

void count_block() {
  const std::string name = engine.launch->kernel->name;
  std::map<Site, Totals>& sites = counters().kernels[name];
  ++counters().blocks[name];
  for (const auto& [key, request] : counters().pending) {
    const Site& site = std::get<1>(key);
    Totals& totals = sites[site];
    ++totals.requests;
    if (site.is_shared) {
      add_bank_cycles(request, totals);
    } else {
      add_sectors(request, totals);
    }
  }
  counters().pending.clear();
  for (uint32_t k = 0; k < engine.block.threads; ++k) counters().executions[k].clear();
}

}  // namespace cuda_emulation
