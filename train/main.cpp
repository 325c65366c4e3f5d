// itemloom: trains masked item models on interaction histories and exports what they learned.

#include <malloc.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>

#include "core/check.h"
#include "core/communicator_mpi.h"
#include "core/config_keys.h"
#include "core/device.h"
#include "core/files.h"
#include "train/commands/commands.h"

namespace {

constexpr char kOutOfMemory[] =
    "out of memory; lower training.batch_size, training.micro_batch_tokens or data.max_length";

int report(const std::string& message) {
  itemloom::report_error(message);
  return 1;
}

// Wrong usage: what is wrong, and whose --help tells what is right.
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
  return what + " (" + name + " --help tells more)";
}

// Verbs that several ranks work on together; the others would do one thing several times.
bool works_in_ranks(const std::string& verb) {
  return verb == "train" || verb == "evaluate" || verb == "doctor";
}

// A collective: `what` says what this rank is about to do. Ranks that differ would wait for each other's collectives.
void check_same_start(itemloom::Communicator& communicator, const std::string& what) {
  if (const auto differs = itemloom::find_disagreement(communicator, what)) {
    throw itemloom::SharedError(itemloom::join_message("give all ranks the same verb and options; rank 0: ",
                                                       differs->first, "; rank ", differs->rank, ": ", differs->other));
  }
}

void check_verb(itemloom::Communicator& communicator, const std::string& verb) {
  check_same_start(communicator, "itemloom " + verb);
  if (communicator.size() > 1 && !works_in_ranks(verb)) {
    throw itemloom::SharedError("itemloom " + verb + " works in one process; start it without mpirun");
  }
}

// What this process does, with the exit code. Throws what went wrong.
int run_verb(int argc, char** argv, const itemloom::Ranks& ranks) {
  CLI::App app(
      "Trains masked item models on purchase, watch and click histories and exports item embeddings and "
      "item-association scores.",
      "itemloom");
  app.set_version_flag("--version", "itemloom " ITEMLOOM_VERSION);
  app.require_subcommand(1);
  // Runs when the command line is right, before the verb does.
  app.parse_complete_callback([&] { check_verb(ranks.communicator, app.get_subcommands().front()->get_name()); });
  itemloom::select_cpu_kernels();
  itemloom::add_prepare_command(app);
  itemloom::add_train_command(app, ranks);
  itemloom::add_evaluate_command(app, ranks);
  itemloom::add_export_command(app);
  itemloom::add_neighbors_command(app);
  itemloom::add_associate_command(app);
  itemloom::add_recommend_command(app);
  itemloom::add_inspect_command(app);
  itemloom::add_config_command(app);
  itemloom::add_doctor_command(app, ranks);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version come this way too, with exit code 0; everything else is wrong usage.
    const bool answer = error.get_exit_code() == 0;
    const std::string message = answer ? "only help or the version" : usage_message(&app, error);
    check_same_start(ranks.communicator, message);
    if (!ranks.communicator.is_first()) return answer ? 0 : 2;
    if (answer) return app.exit(error);
    report(message);
    return 2;
  }
  itemloom::finish_standard_output();
  return 0;
}

// The same for one of several ranks, which end in order when they all know why, and are ended when one alone does.
int run_rank(int argc, char** argv, itemloom::MpiProcess& process) {
  itemloom::Communicator& communicator = process.communicator();
  const itemloom::Ranks ranks{communicator, [&](double seconds) { process.set_rank_timeout(seconds); }};
  int code = 0;
  try {
    code = run_verb(argc, argv, ranks);
  } catch (const itemloom::SharedError& error) {
    code = communicator.is_first() ? report(error.what()) : 1;
  } catch (const std::bad_alloc&) {
    process.abort(kOutOfMemory);
  } catch (const std::exception& error) {
    process.abort(error.what());
  }
  process.finish();
  return code;
}

int run_alone(int argc, char** argv) {
  const auto self = itemloom::make_self_communicator();
  return run_verb(argc, argv, {*self, [](double) {}});
}

}  // namespace

int main(int argc, char** argv) {
  // Large blocks stay with the process: giving them back and touching them again costs more than most steps.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  // Files that grow beyond a limit are to be errors of their writes, like a full disk, and not the program's death.
  std::signal(SIGXFSZ, SIG_IGN);
  // NCCL is to connect, and to take its memory, before the first step and not in it.
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
  try {
    if (!itemloom::launched_with_ranks()) return run_alone(argc, argv);
    itemloom::MpiProcess process;
    return run_rank(argc, argv, process);
  } catch (const std::bad_alloc&) {
    return report(kOutOfMemory);
  } catch (const std::exception& error) {
    return report(error.what());
  }
}
