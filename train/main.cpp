// itemloom: trains masked item models on interaction histories and exports what they learned.

#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "core/check.h"
#include "core/config_keys.h"
#include "core/device.h"
#include "core/files.h"
#include "train/commands/commands.h"

namespace {

// Errors are one line, whatever they were made of.
int report(const std::string& message) {
  std::string line = message;
  for (char& character : line) {
    if (character == '\n') character = ' ';
  }
  std::fprintf(stderr, "itemloom: %s\n", line.c_str());
  return 1;
}

// Wrong usage in one line: what is wrong, and whose --help tells what is right.
std::string usage_message(const CLI::App* app, const CLI::Error& error) {
  std::string name = app->get_name();
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().back();
    name += " " + app->get_name();
  }
  std::string what = error.what();
  const std::vector<std::string> unknown = app->remaining();
  if (error.get_name() == "RequiredError" && app->get_require_subcommand_min() > 0) {
    std::vector<std::string> verbs;
    for (const CLI::App* verb : app->get_subcommands(nullptr)) verbs.push_back(verb->get_name());
    const int64_t meant = unknown.empty() ? -1 : itemloom::nearest_text(unknown.front(), verbs);
    what = unknown.empty() ? "a verb is missing" : "there is no verb " + unknown.front();
    if (meant >= 0) what += "; did you mean " + verbs[static_cast<size_t>(meant)] + "?";
  }
  for (char& character : what) {
    if (character == '\n') character = ' ';
  }
  return "itemloom: " + what + " (" + name + " --help tells more)\n";
}

}  // namespace

int main(int argc, char** argv) {
  // Large blocks stay with the process: giving them back and touching them again costs more than most steps.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  // Files that grow beyond a limit are to be errors of their writes, like a full disk, and not the program's death.
  std::signal(SIGXFSZ, SIG_IGN);

  CLI::App app(
      "Trains masked item models on purchase, watch and click histories and exports item embeddings and "
      "item-association scores.",
      "itemloom");
  app.set_version_flag("--version", "itemloom " ITEMLOOM_VERSION);
  app.require_subcommand(1);
  app.failure_message(usage_message);
  try {
    itemloom::select_cpu_kernels();
    itemloom::add_prepare_command(app);
    itemloom::add_train_command(app);
    itemloom::add_evaluate_command(app);
    itemloom::add_export_command(app);
    itemloom::add_neighbors_command(app);
    itemloom::add_associate_command(app);
    itemloom::add_recommend_command(app);
    itemloom::add_inspect_command(app);
    itemloom::add_config_command(app);
    app.parse(argc, argv);
    itemloom::finish_standard_output();
  } catch (const CLI::ParseError& error) {
    // Help and version come this way too, with exit code 0; everything else is wrong usage.
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::bad_alloc&) {
    return report("out of memory; lower training.batch_size, training.micro_batch_tokens or data.max_length");
  } catch (const std::exception& error) {
    return report(error.what());
  }
  return 0;
}
