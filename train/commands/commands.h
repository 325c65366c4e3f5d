// The program's verbs. Each function adds one subcommand with its options, help and examples; its callback runs the
// verb. Answers go to standard output (with --json: one JSON object and nothing else), logs to standard error.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "core/communicator.h"

namespace itemloom {

// The ranks that mpirun has started, or this process alone.
struct Ranks {
  Communicator& communicator;
  std::function<void(double seconds)> set_timeout;  // how long one may stay without moving
};

void add_prepare_command(CLI::App& app);
void add_train_command(CLI::App& app, const Ranks& ranks);
void add_evaluate_command(CLI::App& app, const Ranks& ranks);
void add_doctor_command(CLI::App& app, const Ranks& ranks);
void add_export_command(CLI::App& app);
void add_neighbors_command(CLI::App& app);
void add_associate_command(CLI::App& app);
void add_recommend_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_config_command(CLI::App& app);

}  // namespace itemloom
