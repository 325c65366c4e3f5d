#include "train/commands/answers.h"

#include <fmt/format.h>

#include <cstdio>

namespace itemloom {

CLI::Option* add_run_options(CLI::App* command, RunOptions& options) {
  command->add_option("--run", options.run, "The folder of the run")->required();
  command->add_option("--checkpoint", options.checkpoint,
                      "best, last, or the file of a kept one; without it the best where there is one, else the last");
  return command
      ->add_option("--device", options.device,
                   "cpu or cuda; the one the run was trained on if not given. The CPU computes in fp32")
      ->check(CLI::IsMember({"cpu", "cuda"}));
}

nlohmann::ordered_json item_json(const Dataset& dataset, int32_t item) {
  nlohmann::ordered_json object = {{"id", dataset.item_ids[item]}};
  if (!dataset.titles.empty()) object["title"] = dataset.title(item);
  return object;
}

std::string item_text(const Dataset& dataset, int32_t item) {
  return fmt::format("{:12}  {}", dataset.item_ids[item], dataset.title(item));
}

void print_json(const nlohmann::ordered_json& answer) {
  fmt::print("{}\n", answer.dump(2));
}

}  // namespace itemloom
