// The program from the outside: training, stopping, resuming, and what it answers.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/e2e/runs.h"
#include "tests/e2e/small_data.h"
#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace itemloom {
namespace {

using test::itemloom;
using test::json_answer;
using test::json_lines;
using test::learned;

std::string trained(const test::TemporaryFolder& folder, const std::string& name, std::vector<std::string> extra = {}) {
  std::vector<std::string> arguments = {"train", folder.path("config.json"), "--run", folder.path(name)};
  arguments.insert(arguments.end(), extra.begin(), extra.end());
  const test::ProcessResult result = itemloom(arguments);
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  return learned(folder.path(name));
}

// Files that a killed writer has left in a folder.
int64_t leftovers(const std::string& folder) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    count += entry.path().string().find(".tmp-") != std::string::npos;
  }
  return count;
}

// The run's checkpoints, as paths below its folder.
std::set<std::string> checkpoints_in(const std::string& run) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run)) {
    const std::string name = std::filesystem::relative(entry.path(), run);
    if (entry.is_regular_file() && name != "dataset.h5" && entry.path().extension() != ".json" &&
        name.find("metrics") != 0 && name.find("events") != 0) {
      names.insert(name);
    }
  }
  return names;
}

// Which of them metrics.jsonl makes the `best` best ones, and which are the `last` newest of a finished run. The values
// are their epochs.
std::map<std::string, size_t> promised_checkpoints(const std::string& run, size_t last, size_t best) {
  const auto lines = json_lines(run + "/metrics.jsonl");
  std::vector<size_t> order(lines.size());
  for (size_t index = 0; index < order.size(); ++index) order[index] = index + 1;
  const auto name = [](const char* kind, size_t epoch) {
    const std::string digits = std::to_string(epoch);
    return std::string("checkpoints/") + kind + "-epoch-" + std::string(6 - digits.size(), '0') + digits + ".h5";
  };
  std::map<std::string, size_t> promised = {{"checkpoint-last.h5", order.back()}};
  for (size_t back = 1; back < last; ++back) promised[name("last", order.back() - back)] = order.back() - back;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return lines[a - 1]["validation"]["ndcg@10"] > lines[b - 1]["validation"]["ndcg@10"];
  });
  promised["checkpoint-best.h5"] = order[0];
  for (size_t rank = 1; rank < best; ++rank) promised[name("best", order[rank])] = order[rank];
  return promised;
}

std::set<std::string> names_of(const std::map<std::string, size_t>& promised) {
  std::set<std::string> names;
  for (const auto& [name, epoch] : promised) names.insert(name);
  return names;
}

}  // namespace

TEST_CASE("a run trains, evaluates, exports and answers", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  trained(folder, "run", {"--set", "training.epochs=100", "--set", "optimizer.learning_rate=0.005"});
  const std::string run = folder.path("run");

  const auto lines = json_lines(run + "/metrics.jsonl");
  REQUIRE(lines.size() == 100);
  for (const char* key : {"epoch", "loss", "seconds", "tokens_per_second", "sequences_per_second"}) {
    REQUIRE(lines.back().contains(key));
  }
  REQUIRE(lines.back().at("epoch") == 100);
  REQUIRE(lines.back().at("loss").get<double>() < 0.8 * lines.front().at("loss").get<double>());

  const nlohmann::json answer = json_answer({"evaluate", "--run", run, "--json"});
  REQUIRE(answer.at("split") == "test");
  REQUIRE(answer.at("seen_items") == "exclude");
  REQUIRE(answer.at("references").contains("popularity"));
  REQUIRE(answer.at("references").contains("item_knn"));
  // The walk goes one or two items on: a model that learned it finds the next item among the first five of forty.
  REQUIRE(answer.at("metrics").at("hit@5").get<double>() > 0.8);
  REQUIRE(answer["references"]["popularity"]["hit@5"].get<double>() < 0.5);

  REQUIRE(itemloom({"export", "--run", run, "--out", folder.path("export.h5")}).exit_code == 0);
  REQUIRE(json_answer({"inspect", folder.path("export.h5"), "--json"}).at("kind") == "export");
  const nlohmann::json neighbors = json_answer({"neighbors", "--run", run, "--item", "i7", "--top", "3", "--json"});
  REQUIRE(neighbors.at("neighbors").size() == 3);
  const nlohmann::json associated = json_answer({"associate", "--run", run, "--item", "i7", "--top", "4", "--json"});
  REQUIRE(associated.at("associations").size() == 4);
  const nlohmann::json pair = json_answer({"associate", "--run", run, "--item", "i7", "--item", "i8", "--json"});
  REQUIRE(pair.at("associations").size() == 1);
  const nlohmann::json next = json_answer({"recommend", "--run", run, "--history", "i5,i6,i7", "--json"});
  REQUIRE(next.at("recommendations").size() == 10);

  const test::ProcessResult unknown = itemloom({"neighbors", "--run", run, "--item", "i77"});
  REQUIRE(unknown.exit_code == 1);
  REQUIRE(unknown.error.find("i77") != std::string::npos);
  REQUIRE(unknown.error.find("i7") != std::string::npos);
}

TEST_CASE("the number of threads does not change a bit", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::string one = trained(folder, "one", {"--set", "training.threads=1"});
  REQUIRE(trained(folder, "two", {"--set", "training.threads=2"}) == one);
  REQUIRE(trained(folder, "three", {"--set", "training.threads=3"}) == one);
}

TEST_CASE("training says what is not evaluated, if anything is not", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::vector<std::string> train = {"train", folder.path("config.json"), "--set", "training.epochs=1", "--run"};
  const auto run = [&](const std::string& name) {
    std::vector<std::string> arguments = train;
    arguments.push_back(folder.path(name));
    const test::ProcessResult result = itemloom(arguments);
    REQUIRE(result.exit_code == 0);
    return result.error;
  };
  REQUIRE(run("whole").find("not evaluated") == std::string::npos);
  test::write_text(folder.path("sequences.txt"), test::read_text(folder.path("sequences.txt")) + "v i1 i2\nw i3\n");
  REQUIRE(run("short").find("2 sequences have fewer than 3 interactions: they are trained on, but not evaluated\n") !=
          std::string::npos);
}

TEST_CASE("a run that was asked to stop resumes to the bit", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder, R"("optimizer": {"schedule": {"name": "linear", "warmup_steps": 10}})");
  const std::vector<std::string> long_run = {"--set", "training.epochs=60"};
  const std::string whole = trained(folder, "whole", long_run);
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) {
    INFO("signal " << signal);
    const std::string name = "cut" + std::to_string(signal), run = folder.path(name);
    test::Process process(
        {ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run", run, "--set", "training.epochs=60"});
    while (process.running() && !std::filesystem::exists(run + "/checkpoint-last.h5")) usleep(2000);
    process.signal(signal);
    // Whoever manages processes may ask again, at any moment until the end.
    for (; signal != SIGINT && process.running(); usleep(200)) process.signal(signal);
    const test::ProcessResult stopped = process.wait();
    INFO(stopped.error);
    REQUIRE(stopped.exit_code == 0);
    REQUIRE(stopped.error.find("--resume") != std::string::npos);
    REQUIRE(learned(run) != whole);
    REQUIRE(trained(folder, name, {"--set", "training.epochs=60", "--resume"}) == whole);
    const auto lines = json_lines(run + "/metrics.jsonl");
    REQUIRE(lines.size() == 60);
    for (size_t index = 0; index < lines.size(); ++index) REQUIRE(lines[index].at("epoch") == index + 1);
  }
}

TEST_CASE("a run without a better metric ends early and keeps its best", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  // Steps so small that no rank changes: the first validation stays the best.
  const std::vector<std::string> still = {"--set", "optimizer.learning_rate=1e-12", "--set"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), still.begin(), still.end());
    return more;
  };
  const std::string after_one = trained(folder, "one", with({"training.epochs=1"}));
  const std::string run = folder.path("patient");
  const std::vector<std::string> patient = with({"training.early_stopping.patience=2", "--set", "training.epochs=50"});
  std::vector<std::string> arguments = {"train", folder.path("config.json"), "--run", run};
  arguments.insert(arguments.end(), patient.begin(), patient.end());
  const test::ProcessResult result = itemloom(arguments);
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  REQUIRE(result.error.find("stopped after epoch 3: ndcg@10 is best at epoch 1 (") != std::string::npos);
  REQUIRE(json_lines(run + "/metrics.jsonl").size() == 3);
  REQUIRE(json_answer({"inspect", run + "/checkpoint-best.h5", "--json"}).at("content_sha256") == after_one);
  // It stays ended, and questions are answered by its best.
  const std::string last = learned(run);
  REQUIRE(last != after_one);
  arguments.push_back("--resume");
  const test::ProcessResult again = itemloom(arguments);
  REQUIRE(again.exit_code == 0);
  REQUIRE(again.error.find("is finished: 3 epochs") != std::string::npos);
  REQUIRE(learned(run) == last);
  const auto opened = open_run(run);
  REQUIRE(opened->checkpoint_sha256 == after_one);
  // Questions need no memory for gradients.
  REQUIRE_FALSE(opened->instance->parameters().gradients());
}

TEST_CASE("a run killed at any moment resumes to the bit", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::string whole = trained(folder, "whole", {"--set", "training.epochs=40"});
  for (int round = 0; round < 5; ++round) {
    const std::string name = "killed" + std::to_string(round);
    test::Process process({ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run", folder.path(name), "--set",
                           "training.epochs=40"});
    while (process.running() && !std::filesystem::exists(folder.path(name + "/checkpoint-last.h5"))) usleep(1000);
    usleep(static_cast<useconds_t>(test::random_int(5, round, 60000)));
    process.signal(SIGKILL);
    process.wait();
    REQUIRE(trained(folder, name, {"--set", "training.epochs=40", "--resume"}) == whole);
    REQUIRE(json_lines(folder.path(name + "/metrics.jsonl")).size() == 40);
  }
}

TEST_CASE("a run killed before its first checkpoint goes on or begins anew, to the bit", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::vector<std::string> settings = {"--set", "training.epochs=2", "--set", "training.batch_size=1"};
  const std::string whole = trained(folder, "whole", settings);
  int64_t resumed = 0;
  for (int round = 0; round < 6; ++round) {
    const std::string name = "killed" + std::to_string(round), run = folder.path(name);
    std::vector<std::string> arguments = {ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run", run};
    arguments.insert(arguments.end(), settings.begin(), settings.end());
    test::Process process(arguments);
    // At a moment before there is a run, or just after there is one.
    if (round % 2 == 0) {
      usleep(static_cast<useconds_t>(test::random_int(6, round, 20000)));
    } else {
      while (process.running() && !std::filesystem::exists(run + "/config.resolved.json")) usleep(200);
    }
    process.signal(SIGKILL);
    REQUIRE(process.wait().exit_code == 128 + SIGKILL);
    REQUIRE(!std::filesystem::exists(run + "/checkpoint-last.h5"));
    std::vector<std::string> more = settings;
    if (std::filesystem::exists(run + "/config.resolved.json")) {
      more.push_back("--resume");
      ++resumed;
    }
    REQUIRE(trained(folder, name, more) == whole);
    REQUIRE(leftovers(run) == 0);
    REQUIRE(json_lines(run + "/metrics.jsonl").size() == 2);
  }
  REQUIRE(resumed >= 3);
}

TEST_CASE("prepare killed at any moment leaves the file whole or not there", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  std::string lines;
  for (int64_t user = 0; user < 3000; ++user) {
    lines += "u" + std::to_string(user);
    for (int64_t place = 0; place < 60; ++place) {
      lines += " i" + std::to_string(test::random_int(7, user * 60 + place, 5000));
    }
    lines += "\n";
  }
  test::write_text(folder.path("sequences.txt"), lines);
  const auto prepare = [&](const std::string& out) {
    return std::vector<std::string>{ITEMLOOM_BINARY, "prepare", folder.path("config.json"), "--out", folder.path(out)};
  };
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(test::Process(prepare("whole.h5")).wait().exit_code == 0);
  const auto microseconds =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start).count();
  const std::string whole = test::read_text(folder.path("whole.h5"));
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    test::Process process(prepare("cut.h5"));
    usleep(static_cast<useconds_t>(microseconds * (2 * round + 1) / (2 * kRounds)));
    process.signal(SIGKILL);
    process.wait();
    if (std::filesystem::exists(folder.path("cut.h5"))) REQUIRE(test::read_text(folder.path("cut.h5")) == whole);
  }
  REQUIRE(test::Process(prepare("cut.h5")).wait().exit_code == 0);
  REQUIRE(test::read_text(folder.path("cut.h5")) == whole);
  REQUIRE(leftovers(folder.path()) == 0);
}

TEST_CASE("prepare and train from the prepared file learns the same", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::string raw = trained(folder, "raw");
  REQUIRE(itemloom({"prepare", folder.path("config.json"), "--out", folder.path("data.h5")}).exit_code == 0);
  test::write_text(folder.path("config.json"), R"({
    "data": {"files": ["data.h5"], "format": "prepared", "max_length": 12},
    "model": {"hidden_size": 16, "layers": 2, "heads": 2},
    "training": {"epochs": 4, "batch_size": 32, "micro_batch_tokens": 200}
  })");
  trained(folder, "prepared");
  const auto first = json_lines(folder.path("raw/metrics.jsonl"));
  const auto second = json_lines(folder.path("prepared/metrics.jsonl"));
  REQUIRE(first.size() == second.size());
  for (size_t index = 0; index < first.size(); ++index) REQUIRE(first[index].at("loss") == second[index].at("loss"));
}

TEST_CASE("two shards train as the whole does, and are kept in the run's folder", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  trained(folder, "whole");
  const std::string text = test::read_text(folder.path("sequences.txt"));
  const size_t middle = text.find("u60 ");
  const std::string parts[] = {text.substr(0, middle), text.substr(middle)};
  for (const int part : {0, 1}) {
    test::write_text(folder.path("sequences.txt"), parts[part]);
    const std::string out = folder.path("part" + std::to_string(part) + ".h5");
    REQUIRE(itemloom({"prepare", folder.path("config.json"), "--out", out}).exit_code == 0);
  }
  const std::string config = R"({
    "data": {"files": ["part0.h5", "part1.h5"], "format": "prepared", "max_length": 12},
    "model": {"hidden_size": 16, "layers": 2, "heads": 2},
    "training": {"epochs": 4, "batch_size": 32, "micro_batch_tokens": 200}
  })";
  test::write_text(folder.path("config.json"), config);
  trained(folder, "shards");
  const auto first = json_lines(folder.path("whole/metrics.jsonl"));
  const auto second = json_lines(folder.path("shards/metrics.jsonl"));
  REQUIRE(first.size() == second.size());
  for (size_t index = 0; index < first.size(); ++index) REQUIRE(first[index].at("loss") == second[index].at("loss"));

  std::filesystem::remove(folder.path("part1.h5"));
  REQUIRE(json_answer({"evaluate", "--run", folder.path("shards"), "--json"}).at("cases") == 120);
  const test::ProcessResult missing = itemloom({"train", folder.path("config.json"), "--run", folder.path("missing")});
  REQUIRE(missing.exit_code == 1);
  REQUIRE(missing.error.find("part1.h5: No such file or directory") != std::string::npos);
  REQUIRE(!std::filesystem::exists(folder.path("missing")));
}

TEST_CASE("the newest and the best checkpoints stay, through a stop too, and answer as their epochs did", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::string run = folder.path("run");
  const std::vector<std::string> settings = {"--set", "training.epochs=30",  "--set", "training.keep_last=3",
                                             "--set", "training.keep_best=4"};
  std::vector<std::string> arguments = {ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run", run};
  arguments.insert(arguments.end(), settings.begin(), settings.end());
  test::Process process(arguments);
  while (process.running() && !std::filesystem::exists(run + "/checkpoints/last-epoch-000004.h5")) usleep(500);
  process.signal(SIGTERM);
  REQUIRE(process.wait().exit_code == 0);
  REQUIRE(checkpoints_in(run).size() == 7);
  std::vector<std::string> resume = settings;
  resume.push_back("--resume");
  const std::string kept = trained(folder, "run", resume);
  const auto promised = promised_checkpoints(run, 3, 4);
  REQUIRE(checkpoints_in(run) == names_of(promised));
  const auto lines = json_lines(run + "/metrics.jsonl");
  const auto validation_of = [&](const std::string& checkpoint) {
    return json_answer(
        {"evaluate", "--run", run, "--split", "validation", "--json", "--checkpoint", checkpoint})["metrics"];
  };
  for (const auto& [name, epoch] : promised) {
    INFO(name);
    REQUIRE(validation_of(run + "/" + name) == lines[epoch - 1]["validation"]);
  }
  REQUIRE(validation_of("last") == lines.back()["validation"]);
  REQUIRE(validation_of("best") == lines[promised.at("checkpoint-best.h5") - 1]["validation"]);
  REQUIRE(lines.back()["validation"] != lines[promised.at("checkpoints/last-epoch-000028.h5") - 1]["validation"]);

  // What stays decides nothing about what is learned, and may change when the run goes on.
  REQUIRE(trained(folder, "plain", {"--set", "training.epochs=30"}) == kept);
  REQUIRE(checkpoints_in(folder.path("plain")) == std::set<std::string>{"checkpoint-best.h5", "checkpoint-last.h5"});
  trained(folder, "run", {"--set", "training.epochs=30", "--set", "training.keep_best=2", "--resume"});
  REQUIRE(checkpoints_in(run) == names_of(promised_checkpoints(run, 1, 2)));
}

TEST_CASE("a kill at any moment leaves as many good checkpoints as promised", "[e2e]") {
  test::TemporaryFolder folder;
  write_small_run(folder);
  const std::vector<std::string> settings = {"--set", "training.epochs=40",  "--set", "training.keep_last=3",
                                             "--set", "training.keep_best=2"};
  const std::string whole = trained(folder, "whole", {"--set", "training.epochs=40"});
  for (int round = 0; round < 5; ++round) {
    const std::string name = "killed" + std::to_string(round), run = folder.path(name);
    std::vector<std::string> arguments = {ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run", run};
    arguments.insert(arguments.end(), settings.begin(), settings.end());
    test::Process process(arguments);
    while (process.running() && !std::filesystem::exists(run + "/checkpoints/last-epoch-000003.h5")) usleep(500);
    usleep(static_cast<useconds_t>(test::random_int(6, round, 30000)));
    process.signal(SIGKILL);
    process.wait();
    std::set<int64_t> newest, best;
    for (const std::string& file : checkpoints_in(run)) {
      if (file.find(".tmp-") != std::string::npos) continue;
      const int64_t epoch = read_checkpoint_header(run + "/" + file).integers.at("epoch");
      (file.find("last") != std::string::npos ? newest : best).insert(epoch);
    }
    REQUIRE(newest.size() >= 3);
    REQUIRE(best.size() >= 2);
    std::vector<std::string> resume = settings;
    resume.push_back("--resume");
    REQUIRE(trained(folder, name, resume) == whole);
    REQUIRE(checkpoints_in(run) == names_of(promised_checkpoints(run, 3, 2)));
  }
}

}  // namespace itemloom
