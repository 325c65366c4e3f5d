// The verbs that answer questions about items: neighbors, associate, recommend.

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "train/associations.h"
#include "train/commands/answers.h"
#include "train/commands/commands.h"
#include "train/neighbors.h"
#include "train/ranking.h"

namespace itemloom {
namespace {

struct Options : RunOptions {
  std::string by = "cosine", seen;
  std::vector<std::string> items;
  int64_t top = 10;
  bool json = false;
};

void add_common(CLI::App* command, Options& options) {
  add_run_options(command, options);
  command->add_option("--top", options.top, "How many to show")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  command->add_flag("--json", options.json, "Answer with one JSON object");
}

void show_neighbors(const Options& options) {
  const auto run = open_run(options.run, options.checkpoint, options.device);
  const int32_t item = run->dataset.find_item(options.items.front());
  const std::vector<int64_t> counts = training_item_counts(run->dataset, run->split);
  const int64_t count = std::min(options.top, run->dataset.item_count() - 1);
  const BestItems nearest =
      NeighborSearch(*run, options.by == "dot" ? Similarity::kDot : Similarity::kCosine).nearest(item, 1, count);
  nlohmann::ordered_json answer = {{"item", item_json(run->dataset, item)}, {"by", options.by}};
  answer["neighbors"] = nlohmann::ordered_json::array();
  if (!options.json) fmt::print("{}\nnearest by {}:\n", item_text(run->dataset, item), options.by);
  nearest.for_row(0, [&](int32_t neighbor, float score) {
    nlohmann::ordered_json line = item_json(run->dataset, neighbor);
    line["score"] = score;
    line["count"] = counts[static_cast<size_t>(neighbor)];
    if (!options.json) {
      fmt::print("  {:8.4f}  {:>7}x  {}\n", score, line["count"].get<int64_t>(), item_text(run->dataset, neighbor));
    }
    answer["neighbors"].push_back(std::move(line));
  });
  if (options.json) print_json(answer);
}

void show_associations(const Options& options) {
  const auto run = open_run(options.run, options.checkpoint, options.device);
  const int32_t item = run->dataset.find_item(options.items.front());
  Associations associations(*run);
  const std::vector<Association> found =
      options.items.size() > 1
          ? std::vector<Association>{associations.between(item, run->dataset.find_item(options.items[1]))}
          : associations.best(item, options.top);
  nlohmann::ordered_json answer = {{"item", item_json(run->dataset, item)}, {"count_unit", associations.count_unit()}};
  answer["associations"] = nlohmann::ordered_json::array();
  if (!options.json) {
    fmt::print("{}\n  P(other|item)  log ratio  together  confidence    lift   (counted by {})\n",
               item_text(run->dataset, item), associations.count_unit());
  }
  for (const Association& one : found) {
    nlohmann::ordered_json line = item_json(run->dataset, one.item);
    line.update({{"score", one.score},
                 {"log_ratio", one.log_ratio},
                 {"count", one.count},
                 {"support", one.support},
                 {"confidence", one.confidence},
                 {"lift", one.lift}});
    answer["associations"].push_back(std::move(line));
    if (!options.json) {
      fmt::print("  {:13.5f}  {:9.2f}  {:8}  {:10.4f}  {:6.1f}   {}\n", one.score, one.log_ratio, one.count,
                 one.confidence, one.lift, item_text(run->dataset, one.item));
    }
  }
  if (options.json) print_json(answer);
}

void show_recommendations(const Options& options) {
  const auto run = open_run(options.run, options.checkpoint, options.device);
  std::vector<int32_t> history;
  for (const std::string& id : options.items) history.push_back(run->dataset.find_item(id));
  ModelScorer scorer(*run->device, run->instance->model(), run->config.data.max_length);
  const std::string seen = options.seen.empty() ? run->config.evaluation.seen_items : options.seen;
  const std::vector<int64_t> counts = training_item_counts(run->dataset, run->split);
  const History histories[] = {History(history.data(), history.size())};
  const auto found = recommend(scorer, histories, options.top, seen == "exclude").front();
  nlohmann::ordered_json answer = {{"history", nlohmann::ordered_json::array()}, {"seen_items", seen}};
  for (int32_t item : history) answer["history"].push_back(item_json(run->dataset, item));
  answer["recommendations"] = nlohmann::ordered_json::array();
  if (!options.json) fmt::print("after {} items (seen items: {}):\n", history.size(), seen);
  for (const Recommendation& one : found) {
    nlohmann::ordered_json line = item_json(run->dataset, one.item);
    line["score"] = one.score;
    line["count"] = counts[static_cast<size_t>(one.item)];
    if (!options.json) {
      fmt::print("  {:8.4f}  {:>7}x  {}\n", one.score, line["count"].get<int64_t>(), item_text(run->dataset, one.item));
    }
    answer["recommendations"].push_back(std::move(line));
  }
  if (options.json) print_json(answer);
}

}  // namespace

void add_neighbors_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("neighbors", "Shows the items nearest to one");
  add_common(command, *options);
  command->add_option("--item", options->items, "The item's id")->required()->expected(1);
  command->add_option("--by", options->by, "cosine or dot")
      ->check(CLI::IsMember({"cosine", "dot"}))
      ->capture_default_str();
  command->footer("Example:\n  itemloom neighbors --run runs/retail --item 85123A --top 5");
  command->callback([options] { show_neighbors(*options); });
}

void add_associate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("associate", "Shows what goes with an item, or how two items go together");
  add_common(command, *options);
  command->add_option("--item", options->items, "The item's id; a second one asks for that pair")
      ->required()
      ->allow_extra_args(false)
      ->expected(1, 2);
  command->footer(
      "Examples:\n"
      "  itemloom associate --run runs/retail --item 85123A\n"
      "  itemloom associate --run runs/retail --item 85123A --item 71053 --json");
  command->callback([options] { show_associations(*options); });
}

void add_recommend_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("recommend", "Shows what is likely to come after a history");
  add_common(command, *options);
  command->add_option("--history", options->items, "Item ids, oldest first: A,B,C, or the option again for each")
      ->required()
      ->delimiter(',');
  command->add_option("--seen-items", options->seen, "exclude or keep items of the history; the config's by default")
      ->check(CLI::IsMember({"exclude", "keep"}));
  command->footer("Example:\n  itemloom recommend --run runs/retail --history 85123A,71053,84406B");
  command->callback([options] { show_recommendations(*options); });
}

}  // namespace itemloom
