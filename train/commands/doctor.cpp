#include "train/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "core/files.h"
#include "train/commands/answers.h"
#include "train/commands/commands.h"

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string run, device;
  std::vector<int64_t> megabytes = {1, 64};
  bool json = false;
};

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

template <class Facts>
Json to_json(Facts facts) {
  Json json;
  facts.describe([&](const char* name, const auto& value) { json[name] = value; });
  return json;
}

Json to_json(const ExchangeRate& rate) {
  Json json = {{"bytes", rate.bytes}, {"memcpy_gigabytes_per_second", rate.memcpy_rate() / 1e9}};
  if (rate.all_reduce_seconds > 0) {
    json.update({{"milliseconds", 1e3 * rate.all_reduce_seconds},
                 {"gigabytes_per_second", rate.all_reduce_rate() / 1e9},
                 {"share_of_memcpy", rate.share_of_memcpy()}});
  }
  return json;
}

Json to_json(const Diagnosis& diagnosis, const std::vector<Verdict>& verdicts) {
  Json json = {{"transport", diagnosis.transport}, {"hosts", diagnosis.hosts()}};
  json["ranks"] = Json::array();
  for (const RankFacts& rank : diagnosis.ranks) json["ranks"].push_back(to_json(rank));
  json["all_reduce"] = Json::array();
  for (const ExchangeRate& rate : diagnosis.rates) json["all_reduce"].push_back(to_json(rate));
  if (!diagnosis.folders.empty()) {
    json["run"] = {{"path", diagnosis.run}, {"ranks", Json::array()}};
    for (const FolderFacts& folder : diagnosis.folders) json["run"]["ranks"].push_back(to_json(folder));
  }
  json["verdicts"] = Json::array();
  for (const Verdict& verdict : verdicts)
    json["verdicts"].push_back({{"fatal", verdict.fatal}, {"text", verdict.text}});
  return json;
}

std::string host_text(const RankFacts& rank) {
  std::string text =
      fmt::format("  memory {}, {} available", gigabytes(rank.memory_total), gigabytes(rank.memory_available));
  if (rank.memory_limit > 0) text += fmt::format(", the cgroup's limit {}", gigabytes(rank.memory_limit));
  text += fmt::format("\n  /dev/shm {}, {} free\n  MPI: {}", gigabytes(rank.shared_memory_total),
                      gigabytes(rank.shared_memory_free), rank.mpi);
  if (!rank.thread_level.empty()) text += ", thread level " + rank.thread_level;
  text += fmt::format("\n  CUDA: {}\n  NCCL: {}", rank.cuda, rank.nccl);
  return text;
}

void print_ranks(const Diagnosis& diagnosis) {
  std::string host;
  for (size_t number = 0; number < diagnosis.ranks.size(); ++number) {
    const RankFacts& rank = diagnosis.ranks[number];
    const std::string shared = rank.sharing > 1 ? fmt::format(" (shared by {} ranks)", rank.sharing) : "";
    fmt::print("rank {} on {}: itemloom {}, processors {}{}, {} thread{}, {} kernels\n", number, rank.host,
               rank.version, rank.processors, shared, rank.threads, rank.threads == 1 ? "" : "s", rank.kernels);
    // Ranks of one host follow each other, as a rule; what is the host's is said once.
    if (rank.host != host) fmt::print("{}\n", host_text(rank));
    host = rank.host;
  }
}

void print_rates(const Diagnosis& diagnosis) {
  for (const ExchangeRate& rate : diagnosis.rates) {
    const int64_t megabytes = rate.bytes / 1'000'000;
    const std::string memcpy = fmt::format("memcpy {:.2f} GB/s on every rank at once", rate.memcpy_rate() / 1e9);
    if (rate.all_reduce_seconds > 0) {
      fmt::print("all-reduce of {} MB: {:.3f} ms, {:.2f} GB/s, {:.2f} of {}\n", megabytes,
                 1e3 * rate.all_reduce_seconds, rate.all_reduce_rate() / 1e9, rate.share_of_memcpy(), memcpy);
    } else {
      fmt::print("{} MB: {}; nothing to all-reduce in one process\n", megabytes, memcpy);
    }
  }
}

void print_text(const Diagnosis& diagnosis, const std::vector<Verdict>& verdicts) {
  const auto count = [](int64_t number, const char* what) {
    return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
  };
  fmt::print("{} on {}, transport: {}\n", count(static_cast<int64_t>(diagnosis.ranks.size()), "rank"),
             count(diagnosis.hosts(), "host"), diagnosis.transport);
  print_ranks(diagnosis);
  print_rates(diagnosis);
  if (!diagnosis.folders.empty() && diagnosis.folders.front().error.empty()) {
    const FolderFacts& folder = diagnosis.folders.front();
    fmt::print("{}: {} free; 1 MB was written and flushed to disk in {:.1f} ms\n", diagnosis.run,
               gigabytes(folder.free), folder.write_milliseconds);
  }
  for (const Verdict& verdict : verdicts) fmt::print("{}: {}\n", verdict.fatal ? "PROBLEM" : "advice", verdict.text);
  if (verdicts.empty()) fmt::print("no problem found\n");
}

void show_diagnosis(const Options& options, const Ranks& ranks) {
  std::vector<int64_t> exchange_bytes;
  for (const int64_t size : options.megabytes) exchange_bytes.push_back(size * 1'000'000);
  const Diagnosis diagnosis = examine(ranks.communicator, options.run, options.device, exchange_bytes);
  const std::vector<Verdict> verdicts = judge(diagnosis);
  together(ranks.communicator, [&] {
    if (!ranks.communicator.is_first()) return;
    if (options.json) {
      print_json(to_json(diagnosis, verdicts));
    } else {
      print_text(diagnosis, verdicts);
    }
    finish_standard_output();
  });
  const auto fatal = std::find_if(verdicts.begin(), verdicts.end(), [](const Verdict& one) { return one.fatal; });
  if (fatal != verdicts.end()) throw SharedError("training would fail: " + fatal->text);
}

}  // namespace

void add_doctor_command(CLI::App& app, const Ranks& ranks) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("doctor", "Looks at the ranks, their hosts and what is between them");
  command->add_option("--run", options->run, "Also looks at the folder that a run is to be in");
  command
      ->add_option("--device", options->device,
                   "cpu or cuda, which the ranks are to train on; that of the run if not given")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--megabytes", options->megabytes, "Sizes of the buffers whose all-reduce is timed")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Answer with one JSON object");
  command->footer(
      "Examples:\n"
      "  itemloom doctor\n"
      "  mpirun -n 4 itemloom doctor --run runs/a --device cuda\n"
      "Start it as the training is to be started. The exit code is 1 when training would fail.");
  command->callback([options, ranks] { show_diagnosis(*options, ranks); });
}

}  // namespace itemloom
