#include "train/doctor.h"

#include <filesystem>

#include "core/device.h"
#include "core/host.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"
#include "tests/support/thread_group.h"

namespace itemloom {
namespace {

const std::vector<int64_t> kSizes = {8'000'000, 1'000'000};

using Catch::Matchers::Contains;

// Two hosts of two ranks with which nothing is wrong.
Diagnosis healthy() {
  Diagnosis diagnosis;
  diagnosis.transport = "messages";
  for (int rank = 0; rank < 4; ++rank) {
    RankFacts facts;
    facts.host = rank < 2 ? "one" : "two";
    facts.version = "1.0";
    facts.processors = rank % 2 == 0 ? "0-3" : "4-7";
    facts.host_processors = 8;
    facts.threads = 4;
    facts.kernels = "avx512";
    facts.memory_total = facts.memory_available = 8'000'000'000;
    facts.mpi = "Open MPI v4";
    facts.shared_memory_total = facts.shared_memory_free = 4'000'000'000;
    diagnosis.ranks.push_back(facts);
  }
  diagnosis.rates = {{1'000'000, 1e-3, 1e-4}, {64'000'000, 0.064, 0.0064}};
  diagnosis.run = "runs/a";
  diagnosis.folders.assign(4, {.error = "", .free = 50'000'000'000, .write_milliseconds = 5});
  return diagnosis;
}

// The only verdict about a healthy diagnosis that was changed; "PROBLEM: " before one that is fatal.
std::string verdict(const std::function<void(Diagnosis&)>& change) {
  Diagnosis diagnosis = healthy();
  change(diagnosis);
  const std::vector<Verdict> verdicts = judge(diagnosis);
  std::string text;
  for (const Verdict& one : verdicts) {
    text += std::string(text.empty() ? "" : " AND ") + (one.fatal ? "PROBLEM: " : "") + one.text;
  }
  return text;
}

void become_one_host(Diagnosis& diagnosis) {
  diagnosis.transport = "shared memory";
  diagnosis.ranks.resize(2);
  diagnosis.folders.resize(2);
}

}  // namespace

TEST_CASE("nothing is said about healthy ranks", "[doctor]") {
  REQUIRE(verdict([](Diagnosis&) {}) == "");
  REQUIRE(verdict(become_one_host) == "");
}

TEST_CASE("ranks in the wrong place are told where to go", "[doctor]") {
  REQUIRE(verdict([](Diagnosis& d) {
            d.ranks[2].processors = "0";
            d.ranks[3].processors = "1";
            d.ranks[2].threads = d.ranks[3].threads = 1;
          }) ==
          "two: 2 ranks are bound to 2 of 8 processors; start with mpirun --bind-to none, or --map-by slot:PE=4 "
          "--bind-to core");
  REQUIRE(verdict([](Diagnosis& d) {
            for (int rank : {2, 3}) {
              d.ranks[rank].processors = "5";
              d.ranks[rank].host_processors = d.ranks[rank].threads = 1;
            }
          }) == "two: 2 ranks share 1 processors; start at most 1 there");
  REQUIRE(verdict([](Diagnosis& d) {
            d.ranks[1].processors = "2-7";
            d.ranks[1].threads = 6;
          }) ==
          "one: 2 ranks would use 10 threads on 8 processors; give each rank its own: mpirun --map-by slot:PE=4 "
          "--bind-to core");
  REQUIRE(verdict([](Diagnosis& d) { d.ranks[0].memory_limit = 300'000'000; }) ==
          "one: 150 MB of memory for each of 2 ranks, of which training may need more; start fewer there");
}

TEST_CASE("hosts that differ are named", "[doctor]") {
  REQUIRE(verdict([](Diagnosis& d) { d.ranks[2].version = "0.9"; }) ==
          "PROBLEM: two has itemloom 0.9, but one has 1.0; install the same on all hosts");
  REQUIRE_THAT(verdict([](Diagnosis& d) { d.ranks[3].mpi = "Open MPI v5"; }),
               Contains("two has Open MPI v5, but one has Open MPI v4"));
  REQUIRE_THAT(verdict([](Diagnosis& d) { d.ranks[3].kernels = "avx2"; }), Contains("set ITEMLOOM_CPU=avx2"));
}

TEST_CASE("a GPU that is missing is told where ranks are to train on one", "[doctor]") {
  const auto without_gpu = [](const std::string& device) {
    return verdict([&](Diagnosis& d) {
      d.device = device;
      d.ranks[2].gpu_error = d.ranks[3].gpu_error = "there is none";
    });
  };
  REQUIRE(without_gpu("cuda") == "PROBLEM: rank 2 on two: there is none");
  REQUIRE(without_gpu("cpu") == "");
  REQUIRE(without_gpu("") == "");
}

TEST_CASE("slow and wrong all-reduces are told", "[doctor]") {
  REQUIRE(verdict([](Diagnosis& d) { d.rates[1].all_reduce_seconds = 0.64; }) ==
          "the all-reduce between the hosts moves only 100 MB/s; see that MPI uses the fast network (mpirun --mca "
          "btl_tcp_if_include NAME)");
  REQUIRE_THAT(verdict([](Diagnosis& d) {
                 become_one_host(d);
                 d.rates[1].all_reduce_seconds = 0.0961;
               }),
               Contains("the all-reduce takes 15 times as long as a memcpy") && Contains("see what else runs"));
  REQUIRE_THAT(verdict([](Diagnosis& d) { d.wrong_sums = 3; }), Contains("PROBLEM: 3 sums over the ranks were wrong"));
  const auto shared_memory = [](int64_t free) {
    return verdict([&](Diagnosis& d) {
      become_one_host(d);
      d.rates.clear();
      d.ranks[0].shared_memory_free = free;
    });
  };
  REQUIRE_THAT(shared_memory(64'000'000),
               Contains("one: /dev/shm has 64 MB free, room for the gradients of 8000000 parameters in 2 ranks"));
  REQUIRE_THAT(shared_memory(64'000'000), !Contains("PROBLEM"));
  REQUIRE_THAT(shared_memory(1'000'000), Contains("PROBLEM: one: /dev/shm has 1 MB free"));
}

TEST_CASE("run folders that will not do are told", "[doctor]") {
  REQUIRE(verdict([](Diagnosis& d) { d.folders[0].error = "the disk is on fire"; }) ==
          "PROBLEM: --run cannot be used: the disk is on fire");
  REQUIRE(verdict([](Diagnosis& d) { d.folders[2].error = d.folders[3].error = "cannot read it"; }) ==
          "PROBLEM: rank 2 on two does not share --run with rank 0 on one (cannot read it); choose a folder that all "
          "hosts can read and write");
  REQUIRE_THAT(verdict([](Diagnosis& d) { d.folders[0].write_milliseconds = 1500; }), Contains("took 1500 ms"));
  REQUIRE_THAT(verdict([](Diagnosis& d) { d.folders[0].free = 7'000'000; }), Contains("runs/a has 7 MB free"));
}

TEST_CASE("three ranks examine themselves and leave nothing", "[doctor]") {
  const test::TemporaryFolder folder;
  std::vector<Diagnosis> found(3);
  select_cpu_kernels();
  test::run_ranks_well(3, [&](Communicator& communicator) {
    found[static_cast<size_t>(communicator.rank())] = examine(communicator, folder.path("runs/a"), "", kSizes);
  });
  REQUIRE(std::filesystem::is_empty(folder.path()));
  for (const Diagnosis& diagnosis : found) {
    REQUIRE(diagnosis.transport == "shared memory");
    REQUIRE(diagnosis.hosts() == 1);
    REQUIRE(diagnosis.ranks.size() == 3);
    for (const RankFacts& rank : diagnosis.ranks) {
      REQUIRE(rank.host == host_name());
      REQUIRE(rank.processors == to_ranges(allowed_processors()));
      REQUIRE(rank.sharing == 3);
      REQUIRE(rank.threads == std::max<int64_t>(1, static_cast<int64_t>(allowed_processors().size()) / 3));
      REQUIRE(rank.mpi == "not started by mpirun");
    }
    REQUIRE(diagnosis.wrong_sums == 0);
    REQUIRE(diagnosis.rates.size() == 2);
    for (size_t place = 0; place < 2; ++place) {
      REQUIRE(diagnosis.rates[place].bytes == kSizes[place]);
      REQUIRE(diagnosis.rates[place].all_reduce_seconds > 0);
      REQUIRE(diagnosis.rates[place].all_reduce_seconds == found[0].rates[place].all_reduce_seconds);
      REQUIRE(diagnosis.rates[place].memcpy_seconds > 0);
    }
    REQUIRE(diagnosis.folders.size() == 3);
    for (const FolderFacts& one : diagnosis.folders) {
      REQUIRE(one.error == "");
      REQUIRE(one.free > 0);
      REQUIRE(one.write_milliseconds > 0);
    }
  }
}

}  // namespace itemloom
