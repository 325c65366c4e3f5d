#include "train/inspect.h"

#include <fmt/format.h>

#include <memory>

#include "train/commands/answers.h"
#include "train/commands/commands.h"

namespace itemloom {

void add_inspect_command(CLI::App& app) {
  struct Options {
    std::string file;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("inspect", "Shows what a dataset, checkpoint or export file holds");
  command->add_option("file", options->file, "The file")->required();
  command->add_flag("--json", options->json, "Answer with one JSON object");
  command->footer("Example:\n  itemloom inspect runs/retail/checkpoint-best.h5");
  command->callback([options] {
    const nlohmann::json description = describe_file(options->file);
    if (options->json) {
      print_json(description);
    } else {
      fmt::print("{}", description_text(description));
    }
  });
}

}  // namespace itemloom
