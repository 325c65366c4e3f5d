#include "train/export.h"

#include <fmt/format.h>

#include <memory>

#include "train/commands/answers.h"
#include "train/commands/commands.h"

namespace itemloom {
namespace {

struct Options : RunOptions {
  std::string out, format = "h5";
  bool binary = false;
};

void export_run(const Options& options) {
  // Embeddings alone need no computing, and so no GPU.
  const auto run = open_run(options.run, options.checkpoint, options.format == "h5" ? options.device : "cpu");
  if (options.format == "h5") export_hdf5(*run, options.out);
  if (options.format == "npy") export_npy(*run, options.out);
  if (options.format == "word2vec") export_word2vec(*run, options.out, options.binary);
  if (options.format == "csv") export_csv(*run, options.out);
  fmt::print(stderr, "written: {} ({} items)\n", options.out, run->dataset.item_count());
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("export", "Writes item embeddings, nearest items and associations");
  CLI::Option* device = add_run_options(command, *options);
  command->add_option("--out", options->out, "The file to write (npy: the folder)")->required();
  command->add_option("--format", options->format, "h5: everything; npy, word2vec, csv: the embeddings")
      ->check(CLI::IsMember({"h5", "npy", "word2vec", "csv"}))
      ->capture_default_str();
  CLI::Option* binary = command->add_flag("--binary", options->binary, "With word2vec: its binary form");
  command->footer(
      "Examples:\n"
      "  itemloom export --run runs/retail --out items.h5\n"
      "  itemloom export --run runs/retail --out vectors.bin --format word2vec --binary\n"
      "  python3 scripts/read_export.py items.h5 85123A");
  command->callback([options, binary, device] {
    if (*binary && options->format != "word2vec") throw CLI::ValidationError("--binary", "goes with --format word2vec");
    if (*device && options->format != "h5") {
      throw CLI::ValidationError("--device", "goes with --format h5; the other formats hold nothing that is computed");
    }
    export_run(*options);
  });
}

}  // namespace itemloom
