// The program on a GPU, or on the emulation that stands for one. Tests tagged [gpus] need several.
#ifdef ITEMLOOM_CUDA

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>

#include "core/hdf5.h"
#include "tests/e2e/job.h"
#include "tests/e2e/runs.h"
#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "tests/support/mpirun.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using test::Job;
using test::operator+;
using test::Words;

const Words kTwoGpus = {"CUDA_EMULATION_DEVICES=2"};

const Words kResume = {"--resume"};

// Trains so many epochs into a run and gives what was learned.
std::string train(const Job& job, const std::string& run, const std::string& device, int epochs, const Words& more = {},
                  int ranks = 1, const Words& environment = {}) {
  const Words settings =
      test::settings({"device=" + device, "training.threads=1", "training.epochs=" + std::to_string(epochs)});
  return job.trained(ranks, run, settings + more, kTwoGpus + environment);
}

// That a run is evaluated alike on both devices, to `margin`.
void require_same_figures(const Job& job, const std::string& run, double margin) {
  const auto cpu = test::json_answer({"evaluate", "--run", job.path(run), "--device", "cpu", "--json"});
  const auto gpu = test::json_answer({"evaluate", "--run", job.path(run), "--device", "cuda", "--json"});
  REQUIRE(gpu.at("cases") == cpu.at("cases"));
  for (const auto& [name, value] : cpu.at("metrics").items()) {
    INFO(name);
    REQUIRE(gpu.at("metrics").at(name).get<double>() == Approx(value.get<double>()).margin(margin));
  }
}

// That two answers say the same, numbers that are no integers to rounding.
void require_alike(const nlohmann::json& one, const nlohmann::json& other) {
  INFO(one.dump() << " and " << other.dump());
  REQUIRE(one.type() == other.type());
  if (one.is_structured()) {
    REQUIRE(one.size() == other.size());
    for (auto a = one.begin(), b = other.begin(); a != one.end(); ++a, ++b) require_alike(*a, *b);
  } else if (one.is_number_float()) {
    REQUIRE(one.get<double>() == Approx(other.get<double>()).epsilon(1e-4).margin(1e-5));
  } else {
    REQUIRE(one == other);
  }
}

// That a run answers alike on both devices.
void require_same_answers(const Job& job, const std::string& run) {
  const Words questions[] = {{"neighbors", "--item", "i7", "--top", "39"},
                             {"neighbors", "--item", "i7", "--by", "dot"},
                             {"associate", "--item", "i7", "--top", "39"},
                             {"associate", "--item", "i7", "--item", "i30"},
                             {"recommend", "--history", "i5,i6,i7,i6", "--top", "40"},
                             {"recommend", "--history", "i5", "--seen-items", "keep"}};
  for (const Words& question : questions) {
    const auto on = [&](const std::string& device) {
      return test::json_answer(question + Words{"--run", job.path(run), "--device", device, "--json"});
    };
    require_alike(on("cuda"), on("cpu"));
  }
}

// That exports of a run made on both devices hold the same.
void require_same_exports(const Job& job, const std::string& run) {
  const auto made = [&](const std::string& device, const Words& environment) {
    const std::string file = job.path(device + ".h5");
    const test::ProcessResult result =
        test::itemloom({"export", "--run", job.path(run), "--out", file, "--device", device}, "", environment);
    INFO(result.error);
    REQUIRE(result.exit_code == 0);
    return Hdf5Reader(file);
  };
  // Host code that touched the GPU's memory would be killed.
  const Hdf5Reader gpu = made("cuda", {"CUDA_EMULATION_HOST_PROTECT=1"}), cpu = made("cpu", {});
  for (const std::string group : {"/item", "/special", "/neighbors", "/neighbors_dot", "/association"}) {
    REQUIRE(gpu.children(group) == cpu.children(group));
    for (const std::string& name : cpu.children(group)) {
      const std::string dataset = group + "/" + name;
      INFO(dataset);
      if (cpu.info(dataset).type == ElementType::kFloat32) {
        const auto expected = cpu.read<float>(dataset);
        REQUIRE(test::worst_error(gpu.read<float>(dataset), expected, 1e-2) < 1e-4);
      } else if (cpu.info(dataset).type == ElementType::kInt32) {
        REQUIRE(gpu.read<int32_t>(dataset) == cpu.read<int32_t>(dataset));
      }
    }
  }
}

}  // namespace

TEST_CASE("a run on a GPU goes the way of one on the CPU, and goes on on the other", "[e2e][device]") {
  const Job job;
  train(job, "cpu", "cpu", 2);
  const std::string gpu = train(job, "gpu", "cuda", 2);
  job.require_same_course("gpu", "cpu");
  // Host code that touched the GPU's memory would be killed.
  REQUIRE(train(job, "again", "cuda", 2, {}, 1, {"CUDA_EMULATION_HOST_PROTECT=1"}) == gpu);

  train(job, "moved", "cpu", 1);
  train(job, "moved", "cuda", 2, kResume);
  job.require_same_course("moved", "cpu");
  train(job, "back", "cuda", 1);
  train(job, "back", "cpu", 2, kResume);
  job.require_same_course("back", "cpu");
}

TEST_CASE("an interrupted run on a GPU goes on to the bit", "[e2e][device]") {
  const Job job;
  const std::string whole = train(job, "whole", "cuda", 2);
  train(job, "halves", "cuda", 1);
  REQUIRE(train(job, "halves", "cuda", 2, kResume) == whole);
  // The parts of a step come one after the other, waits for data too, so they have room in the time of all steps.
  int64_t before = 0;
  for (const auto& epoch : job.metrics("whole")) {
    double milliseconds = 0;
    for (const auto& [name, part] : epoch.at("step_milliseconds").items()) milliseconds += part.get<double>();
    const int64_t steps = epoch.at("step").get<int64_t>() - before;
    REQUIRE(milliseconds * static_cast<double>(steps) <= 1010 * epoch.at("seconds").get<double>());
    before += steps;
  }
}

TEST_CASE("a run by graphs goes the way of one without and on to the bit, in ranks too", "[e2e][mpi][device][gpus]") {
  const Job job;
  const Words graphs = test::settings({"training.cuda_graphs=true", "training.graph_bucket=256"});
  train(job, "without", "cuda", 2);
  const std::string whole = train(job, "whole", "cuda", 2, graphs);
  job.require_same_course("whole", "without");
  const auto pieces = job.metrics("whole").back().at("graph_pieces");
  REQUIRE(pieces.at("replayed").get<int>() > 0);
  REQUIRE_FALSE(job.metrics("without").back().contains("graph_pieces"));
  train(job, "halves", "cuda", 1, graphs);
  REQUIRE(train(job, "halves", "cuda", 2, graphs + kResume) == whole);
  // Whether by graphs or without, it is the same run.
  train(job, "moved", "cuda", 1, graphs);
  train(job, "moved", "cuda", 2, kResume);
  job.require_same_course("moved", "without");
  if (!test::has_mpirun()) return;
  train(job, "two", "cuda", 2, graphs, 2);
  job.require_same_course("two", "without");
}

TEST_CASE("graphs and a wait for every kernel are refused together before anything is written", "[e2e][device]") {
  const Job job;
  const test::ProcessResult result =
      test::Process(job.train("run", test::settings({"device=cuda", "training.cuda_graphs=true"})), "",
                    kTwoGpus + Words{"ITEMLOOM_CUDA_SYNC=1"})
          .wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find("ITEMLOOM_CUDA_SYNC=1 waits for every kernel, but with training.cuda_graphs") !=
          std::string::npos);
  REQUIRE_FALSE(std::filesystem::exists(job.path("run")));
}

TEST_CASE("ranks with a GPU each train as one does", "[e2e][mpi][device][gpus]") {
  if (!test::has_mpirun()) return;
  const Job job;
  train(job, "one", "cuda", 2);
  train(job, "two", "cuda", 2, {}, 2);
  job.require_same_course("two", "one");
  train(job, "sharded", "cuda", 2, test::settings({"optimizer.sharded=true"}), 2);
  job.require_same_course("sharded", "one");
}

TEST_CASE("a run in bf16 goes on to the bit, in ranks too, and evaluates on either device", "[e2e][device][gpus]") {
  const Job job;
  const Words bf16 = test::settings({"training.precision=bf16"});
  train(job, "fp32", "cuda", 2);
  const std::string whole = train(job, "whole", "cuda", 2, bf16);
  train(job, "halves", "cuda", 1, bf16);
  REQUIRE(train(job, "halves", "cuda", 2, bf16 + kResume) == whole);
  const auto loss = [&](const std::string& run) { return job.metrics(run).back().at("loss").get<double>(); };
  REQUIRE(loss("whole") == Approx(loss("fp32")).epsilon(0.01));
  REQUIRE(loss("whole") != loss("fp32"));
  if (test::has_mpirun()) {
    train(job, "sharded", "cuda", 2,
          bf16 + test::settings({"optimizer.sharded=true", "training.gradient_exchange=bf16"}), 2);
    REQUIRE(loss("sharded") == Approx(loss("whole")).epsilon(0.01));
  }
  require_same_figures(job, "whole", 0.05);
}

TEST_CASE("a rank with a GPU that is killed in the middle of steps ends the other one", "[e2e][mpi][device][gpus]") {
  if (!test::has_mpirun()) return;
  const Job job;
  const Words more = test::settings({"device=cuda", "training.threads=1", "training.epochs=100000"});
  test::Process process(test::in_ranks(2, job.train("run", more)), "", test::kRankEnvironment + kTwoGpus);
  while (process.running() && !std::filesystem::exists(job.path("run/checkpoint-last.h5"))) usleep(2000);
  const std::vector<pid_t> ranks = process.children(ITEMLOOM_BINARY);
  REQUIRE(ranks.size() == 2);
  kill(ranks[1], SIGKILL);
  const test::ProcessResult result = process.wait();
  INFO(result.error);
  REQUIRE(result.exit_code != 0);
  REQUIRE(result.error.find("was skipped") == std::string::npos);
  // NCCL notices, too, but knows less.
  REQUIRE(result.error.find("rank 1 on ") != std::string::npos);
  REQUIRE(result.error.find("NCCL failed") == std::string::npos);
}

TEST_CASE("steps without a finite gradient end a run on a GPU, which says up to which step", "[e2e][device]") {
  const Job job;
  const Words more = test::settings({"device=cuda", "training.threads=1", "optimizer.learning_rate=1e30",
                                     "optimizer.clip_norm=0", "training.max_skipped_steps=2", "training.batch_size=8"});
  const test::ProcessResult gpu = test::Process(job.train("gpu", more), "", kTwoGpus).wait();
  const test::ProcessResult cpu = test::Process(job.train("cpu", more + test::settings({"device=cpu"})), "").wait();
  INFO(gpu.error);
  REQUIRE(gpu.exit_code == 1);
  const auto reason = [](const std::string& text) {
    const size_t begin = text.find("the loss or its gradient was not finite 3 steps in a row, up to step ");
    REQUIRE(begin != std::string::npos);
    return text.substr(begin, text.find(';', begin) - begin);
  };
  REQUIRE(reason(gpu.error) == reason(cpu.error));
}

#ifdef ITEMLOOM_CUDA_EMULATED
TEST_CASE("a connection between GPUs that breaks ends the run with NCCL's words", "[e2e][mpi][device][gpus]") {
  if (!test::has_mpirun()) return;
  struct Break {
    std::string place, sharded, seed;
  };
  // In the first exchange and in later ones; in the gathering of a checkpoint, where one rank waits for the other and
  // not for its GPU; and where a thread of its own finds out at the next call (seed 3 runs everything at once).
  for (const auto& [place, sharded, seed] :
       {Break{"1:0", "false", "1"}, Break{"0:26", "false", "1"}, Break{"1:17", "true", "1"}, Break{"1:17", "true", "3"},
        Break{"1:25", "false", "3"}}) {
    CAPTURE(place, sharded, seed);
    const Job job;
    const Words more = test::settings({"device=cuda", "training.threads=1", "training.rank_timeout=30"}) +
                       test::settings({"optimizer.sharded=" + sharded});
    const Words environment =
        test::kRankEnvironment + kTwoGpus + Words{"CUDA_EMULATION_NCCL_ERROR=" + place, "CUDA_EMULATION_SEED=" + seed};
    const test::ProcessResult result = test::Process(test::in_ranks(2, job.train("run", more)), "", environment).wait();
    INFO(result.error);
    REQUIRE(result.exit_code != 0);
    REQUIRE(result.error.find("itemloom: rank " + place.substr(0, 1) + ": NCCL failed while ") != std::string::npos);
    REQUIRE(result.error.find("unhandled system error") != std::string::npos);
    // Neither waited for what will never be done until its time was over.
    REQUIRE(result.error.find("has not moved") == std::string::npos);
  }
}

TEST_CASE("a GPU that is too small says before the first step what to turn down", "[e2e][device]") {
  const Job job;
  const Words more =
      test::settings({"device=cuda", "model.hidden_size=256", "model.layers=4", "training.batch_size=120",
                      "training.micro_batch_tokens=100000", "training.threads=1"});
  const test::ProcessResult result =
      test::Process(job.train("run", more), "", kTwoGpus + Words{"CUDA_EMULATION_DEVICE_MB=160"}).wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find("the activations of the largest step need ") != std::string::npos);
  REQUIRE(result.error.find("; free it of other programs or take device cpu, or lower training.micro_batch_tokens "
                            "(100000 here), training.batch_size or data.max_length") != std::string::npos);
  REQUIRE(result.error.find("step 1/") == std::string::npos);
  // The same folder takes another config.
  const test::ProcessResult lower = test::Process(job.train("run", test::settings({"training.epochs=1"})), "").wait();
  INFO(lower.error);
  REQUIRE(lower.exit_code == 0);
}

TEST_CASE("a GPU that is too small for the parameters says so and leaves the folder free", "[e2e][device][gpus]") {
  const Job job;
  for (const int ranks : {1, 2}) {
    if (ranks > 1 && !test::has_mpirun()) continue;
    CAPTURE(ranks);
    const std::string run = "run" + std::to_string(ranks);
    const Words more = test::settings({"device=cuda", "model.hidden_size=1024", "model.heads=8", "training.threads=1"});
    const Words command = ranks > 1 ? test::in_ranks(ranks, job.train(run, more)) : job.train(run, more);
    const test::ProcessResult result =
        test::Process(command, "", test::kRankEnvironment + kTwoGpus + Words{"CUDA_EMULATION_DEVICE_MB=70"}).wait();
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(result.error.find("parameters, gradients and the optimizer's state need ") != std::string::npos);
    REQUIRE(result.error.find("or lower model.hidden_size") != std::string::npos);
    const test::ProcessResult lower = test::Process(job.train(run, test::settings({"training.epochs=1"})), "").wait();
    INFO(lower.error);
    REQUIRE(lower.exit_code == 0);
  }
}

TEST_CASE("doctor says that there is no GPU to train on", "[e2e][device]") {
  const Job job;
  const Words none = {"CUDA_EMULATION_DEVICES=0"};
  const test::ProcessResult asked = test::Process({ITEMLOOM_BINARY, "doctor", "--device", "cuda"}, "", none).wait();
  REQUIRE(asked.exit_code == 1);
  REQUIRE(asked.out.find("PROBLEM: rank 0 on ") != std::string::npos);
  REQUIRE(asked.out.find("device is cuda, but no GPU can be used here") != std::string::npos);
  train(job, "run", "cuda", 1);
  const Words of_run = {ITEMLOOM_BINARY, "doctor", "--run", job.path("run")};
  REQUIRE(test::Process(of_run, "", none).wait().exit_code == 1);
  REQUIRE(test::Process(of_run, "").wait().exit_code == 0);
  REQUIRE(test::Process({ITEMLOOM_BINARY, "doctor"}, "", none).wait().exit_code == 0);
}

namespace {

// `missing` MB of what the plan of this training says are not there.
void require_refused(const Job& job, Words more, double (*missing)(const std::string& table), const std::string& what,
                     const std::string& keys) {
  more = test::settings({"device=cuda", "training.threads=1"}) + more;
  const Words plan = Words{ITEMLOOM_BINARY, "train", job.path("config.json"), "--dry-run"} + more;
  const std::string table = test::Process(plan, "").wait().out;
  const int megabytes = static_cast<int>(test::planned(table, "together ") - missing(table));
  const std::string memory = "CUDA_EMULATION_DEVICE_MB=" + std::to_string(megabytes);
  const test::ProcessResult result = test::Process(job.train("run", more), "", kTwoGpus + Words{memory}).wait();
  INFO(table << memory << "\n" << result.error);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find(what + " need ") != std::string::npos);
  REQUIRE(result.error.find(" take device cpu, or lower " + keys + "\n") != std::string::npos);
  REQUIRE(result.error.find("step 1/") == std::string::npos);
}

}  // namespace

TEST_CASE("a GPU that is too small for a validation or for kernels says so before the first step", "[e2e][device]") {
  const Job job;
  require_refused(
      job, test::settings({"model.hidden_size=128", "training.batch_size=2", "evaluation.batch_size=120"}),
      [](const std::string& table) { return test::planned(table, "validation ") / 2; },
      "the scores and layers of a validation", "evaluation.batch_size");
  // Less than a MB is missing, for what is taken last.
  require_refused(
      job,
      test::settings({"model.hidden_size=512", "model.heads=8", "training.batch_size=120",
                      "training.micro_batch_tokens=100000", "evaluation.batch_size=1"}),
      [](const std::string&) { return 0.0; }, "the kernels of training and validation",
      "training.micro_batch_tokens (100000 here), training.batch_size");
}
#endif

TEST_CASE("a GPU evaluates, answers and exports as the CPU does", "[e2e][device]") {
  const Job job;
  train(job, "run", "cuda", 2);
  require_same_figures(job, "run", 0.02);
  require_same_answers(job, "run");
  require_same_exports(job, "run");
  // A run that was trained on a GPU is asked there, and nothing falls back.
  const Words no_gpu = {"CUDA_EMULATION_DEVICES=0", "CUDA_VISIBLE_DEVICES="};
  for (const Words& question : {Words{"export", "--out", job.path("out.h5")}, Words{"neighbors", "--item", "i1"},
                                Words{"associate", "--item", "i1"}, Words{"recommend", "--history", "i1"}}) {
    const test::ProcessResult result = test::itemloom(question + Words{"--run", job.path("run")}, "", no_gpu);
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(result.error.find("device is cuda, but no GPU can be used here") != std::string::npos);
    REQUIRE(result.out.empty());
  }
  REQUIRE_FALSE(std::filesystem::exists(job.path("out.h5")));
  const Words vectors = {"export", "--run", job.path("run"), "--format", "csv", "--out", job.path("out.csv")};
  REQUIRE(test::itemloom(vectors, "", no_gpu).exit_code == 0);
}

TEST_CASE("more ranks than GPUs are refused before anything is written", "[e2e][mpi][device]") {
  if (!test::has_mpirun()) return;
  const Job job;
  const Words command = test::in_ranks(2, job.train("run", test::settings({"device=cuda"})));
  const Words one_gpu = {"CUDA_EMULATION_DEVICES=1", "CUDA_VISIBLE_DEVICES=0"};
  const test::ProcessResult result = test::Process(command, "", test::kRankEnvironment + one_gpu).wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find("for ranks 0 and 1; start at most one rank a GPU") != std::string::npos);
  REQUIRE_FALSE(std::filesystem::exists(job.path("run")));
}

}  // namespace itemloom

#endif
