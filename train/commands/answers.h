// What the verbs that answer share: the run they ask, tables for people, one JSON object for programs.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "data/dataset.h"

namespace itemloom {

// Which run, which of its checkpoints and on what device, as open_run takes them.
struct RunOptions {
  std::string run, checkpoint, device;
};

// Adds --run, --checkpoint and --device, which is given; `options` must outlive the command.
CLI::Option* add_run_options(CLI::App* command, RunOptions& options);

// {"id", "title" where known}
nlohmann::ordered_json item_json(const Dataset& dataset, int32_t item);

// "85123A  WHITE HANGING HEART T-LIGHT HOLDER", the id padded to a column.
std::string item_text(const Dataset& dataset, int32_t item);

// The object on standard output, and nothing else.
void print_json(const nlohmann::ordered_json& answer);

}  // namespace itemloom
