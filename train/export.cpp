#include "train/export.h"

#include <algorithm>
#include <list>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/check.h"
#include "core/files.h"
#include "core/hdf5.h"
#include "data/text.h"
#include "train/associations.h"
#include "train/evaluate.h"
#include "train/neighbors.h"

namespace itemloom {
namespace {

// Items whose scores against the whole catalogue are held at a time, at most.
constexpr int64_t kItemBlock = 256;

// What an export holds of the model, where the host can read it.
struct ExportedModel {
  explicit ExportedModel(OpenedRun& run)
      : columns(run.instance->model().item_embeddings().columns()),
        table(*run.device, flat(run.instance->model().item_embeddings())),
        bias(*run.device, run.instance->model().output_bias()),
        mask(*run.device, run.instance->model().mask_embedding()) {}

  Matrix<const float> item_embeddings() const {
    return Matrix<const float>(table.floats().data(), table.floats().size() / columns, columns);
  }
  Matrix<const float> mask_embedding() const { return Matrix<const float>(mask.floats().data(), 1, columns); }

  int64_t columns;
  HostCopy table, bias, mask;

 private:
  static Vector<const float> flat(Matrix<const float> matrix) { return {matrix.data(), matrix.size()}; }
};

void write_neighbors(OpenedRun& run, Hdf5Writer& file, const std::string& group, Similarity similarity) {
  const int64_t items = run.dataset.item_count(), count = std::min(run.config.export_.neighbors, items - 1);
  const std::string name = similarity == Similarity::kCosine ? "cosine" : "dot product";
  NeighborSearch search(run, similarity);
  file.create<int32_t>(group + "/index", {items, count});
  file.create<float>(group + "/score", {items, count});
  const int64_t block = ScoreTile::rows(kItemBlock, items, count);
  for (int64_t first = 0; first < items; first += block) {
    const int64_t rows = std::min(block, items - first);
    const BestItems nearest = search.nearest(first, rows, count);
    file.write_rows(group + "/index", first, rows, nearest.items.data());
    file.write_rows(group + "/score", first, rows, nearest.scores.data());
  }
  file.write_attribute(group, "similarity", name);
  file.write_attribute(group + "/index", "meaning", std::string("the nearest other items, best first"));
  file.write_attribute(group + "/score", "meaning", name + " of the two items' embeddings");
}

// One column of the association table, block by block.
template <class T, class Pick>
void write_column(Hdf5Writer& file, const std::string& name, int64_t first, int64_t count, T missing,
                  const std::vector<std::vector<Association>>& rows, Pick pick) {
  std::vector<T> values(rows.size() * static_cast<size_t>(count), missing);
  for (size_t row = 0; row < rows.size(); ++row) {
    for (size_t rank = 0; rank < rows[row].size(); ++rank) {
      values[row * static_cast<size_t>(count) + rank] = static_cast<T>(pick(rows[row][rank]));
    }
  }
  file.write_rows("/association/" + name, first, static_cast<int64_t>(rows.size()), values.data());
}

void write_associations(OpenedRun& run, Hdf5Writer& file) {
  const int64_t items = run.dataset.item_count(), count = std::min(run.config.export_.associations, items - 1);
  Associations associations(run);
  const std::string unit = associations.count_unit();
  const std::pair<const char*, std::string> columns[] = {
      {"score", "P(j | history [i]): the model's softmax over all items but i at the mask behind item i"},
      {"log_ratio", "log P(j | i) - log P(j), P(j) being j's share of the training interactions (at least one)"},
      {"support", "share of the units that hold both items"},
      {"confidence", "share of the units with i that hold j"},
      {"lift", "confidence over j's share of the units"}};
  file.create<int32_t>("/association/index", {items, count});
  file.create<int32_t>("/association/count", {items, count});
  for (const auto& [name, meaning] : columns) {
    file.create<float>(std::string("/association/") + name, {items, count});
    file.write_attribute(std::string("/association/") + name, "meaning", meaning);
  }
  file.write_attribute("/association", "unit", unit);
  file.write_attribute("/association/index", "meaning", std::string("item j, by score, best first"));
  file.write_attribute("/association/count", "meaning",
                       "training units (each a " + unit + ") that hold both items; a pair counts once in each");
  const int64_t block = ScoreTile::rows(kItemBlock, items, count);
  for (int64_t first = 0; first < items; first += block) {
    const auto rows = associations.best_of_block(static_cast<int32_t>(first), std::min(block, items - first), count);
    write_column<int32_t>(file, "index", first, count, -1, rows, [](const Association& a) { return a.item; });
    write_column<int32_t>(file, "count", first, count, 0, rows, [](const Association& a) { return a.count; });
    write_column<float>(file, "score", first, count, 0, rows, [](const Association& a) { return a.score; });
    write_column<float>(file, "log_ratio", first, count, 0, rows, [](const Association& a) { return a.log_ratio; });
    write_column<float>(file, "support", first, count, 0, rows, [](const Association& a) { return a.support; });
    write_column<float>(file, "confidence", first, count, 0, rows, [](const Association& a) { return a.confidence; });
    write_column<float>(file, "lift", first, count, 0, rows, [](const Association& a) { return a.lift; });
  }
}

std::vector<std::string> item_ids(const Dataset& dataset) {
  std::vector<std::string> ids;
  for (int32_t item = 0; item < dataset.item_count(); ++item) ids.emplace_back(dataset.item_ids[item]);
  return ids;
}

std::vector<std::string> item_titles(const Dataset& dataset) {
  std::vector<std::string> titles;
  for (int32_t item = 0; item < dataset.item_count(); ++item) titles.push_back(dataset.title(item));
  return titles;
}

void write_provenance(OpenedRun& run, Hdf5Writer& file) {
  ModelScorer scorer(*run.device, run.instance->model(), run.config.data.max_length);
  const EvaluationResult result =
      evaluate(run.dataset, run.split.test, "test", run.config.evaluation, {{"model", &scorer}});
  file.write_attribute("/", "metrics", result.to_json().dump());
  file.write_attribute("/", "config", read_whole_file(run.folder.config()));
  file.write_attribute("/", "config_fingerprint", run.entries.texts.at("config_fingerprint"));
  file.write_attribute("/", "dataset_sha256", run.dataset.hash);
  file.write_attribute("/", "checkpoint_sha256", run.checkpoint_sha256);
  file.write_attribute("/", "checkpoint_epoch", run.entries.integers.at("epoch"));
}

// A numpy array of float32: the format's version 1.0 header, padded so that the data starts at a multiple of 64.
void write_npy(AsideFile& file, const std::vector<int64_t>& shape, const float* data) {
  std::string extents;
  int64_t size = 1;
  for (int64_t extent : shape) {
    extents += std::to_string(extent) + ",";
    size *= extent;
  }
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + extents + "), }";
  const size_t preamble = 10;
  header.append(63 - (preamble + header.size()) % 64, ' ');
  header += '\n';
  file.write(std::string_view("\x93NUMPY\x01\x00", 8));
  const char length[2] = {static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  file.write(length, 2);
  file.write(header);
  file.write(data, size * static_cast<int64_t>(sizeof(float)));
}

void write_lines(AsideFile& file, const std::vector<std::string>& lines) {
  for (std::string line : lines) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::replace(line.begin(), line.end(), '\r', ' ');
    file.write(line + "\n");
  }
}

// The format ends a word at a space. Ids that become one word are refused, since a reader would keep one vector of
// them.
std::vector<std::string> word2vec_words(const Dataset& dataset) {
  const std::vector<std::string> ids = item_ids(dataset);
  std::vector<std::string> words = ids;
  std::unordered_map<std::string, size_t> items;
  for (size_t item = 0; item < words.size(); ++item) {
    for (char& character : words[item]) {
      if (character == ' ' || character == '\t' || character == '\n' || character == '\r') character = '_';
    }
    const auto [other, is_new] = items.emplace(words[item], item);
    CHECK(is_new, "the ids ", in_quotes(ids[other->second]), " and ", in_quotes(ids[item]), " would both be the word ",
          in_quotes(words[item]), " in word2vec's format, which has no spaces; export with --format h5, npy or csv");
  }
  return words;
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char character : text) {
    quoted += character;
    if (character == '"') quoted += '"';
  }
  return quoted + "\"";
}

// Nine digits bring a float back to the bit.
std::string number_text(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", double{value});
  return text;
}

}  // namespace

void export_hdf5(OpenedRun& run, const std::string& path) {
  const ExportedModel model(run);
  Hdf5Writer file(path);
  write_header(file, "export", 1);
  file.write("/item/id", item_ids(run.dataset));
  file.write("/item/title", item_titles(run.dataset));
  file.write("/item/count", training_item_counts(run.dataset, run.split));
  file.write("/item/embedding", model.item_embeddings());
  file.write_attribute("/item/count", "meaning", std::string("training interactions"));
  file.write_attribute("/item/embedding", "meaning", std::string("row i is the vector of item i"));
  if (model.bias.floats()) file.write("/item/bias", model.bias.floats());
  file.write("/special/name", std::vector<std::string>{"[MASK]"});
  file.write("/special/embedding", model.mask_embedding());
  if (run.config.export_.neighbors > 0) {
    write_neighbors(run, file, "/neighbors", Similarity::kCosine);
    write_neighbors(run, file, "/neighbors_dot", Similarity::kDot);
  }
  if (run.config.export_.associations > 0) write_associations(run, file);
  write_provenance(run, file);
  file.commit();
}

void export_npy(OpenedRun& run, const std::string& folder) {
  const ExportedModel model(run);
  const Matrix<const float> table = model.item_embeddings();
  NewFolder made(folder);
  // All are written before the first gets its name, so that a full disk leaves those of an earlier export as they are.
  std::list<AsideFile> files;
  write_npy(files.emplace_back(folder + "/embedding.npy"), {table.rows(), table.columns()}, table.data());
  if (const Vector<const float> bias = model.bias.floats()) {
    write_npy(files.emplace_back(folder + "/bias.npy"), {table.rows()}, bias.data());
  }
  write_lines(files.emplace_back(folder + "/ids.txt"), item_ids(run.dataset));
  write_lines(files.emplace_back(folder + "/titles.txt"), item_titles(run.dataset));
  for (AsideFile& file : files) file.flush_to_disk();
  for (AsideFile& file : files) file.commit();
  made.keep();
}

void export_word2vec(OpenedRun& run, const std::string& path, bool binary) {
  const ExportedModel model(run);
  const Matrix<const float> table = model.item_embeddings();
  const std::vector<std::string> words = word2vec_words(run.dataset);
  AsideFile file(path);
  file.write(join_message(table.rows(), " ", table.columns(), "\n"));
  for (int64_t row = 0; row < table.rows(); ++row) {
    file.write(words[static_cast<size_t>(row)]);
    if (binary) {
      file.write(" ");
      file.write(table.row(row), table.columns() * static_cast<int64_t>(sizeof(float)));
    } else {
      for (int64_t i = 0; i < table.columns(); ++i) file.write(" " + number_text(table.row(row)[i]));
    }
    file.write("\n");
  }
  file.commit();
}

void export_csv(OpenedRun& run, const std::string& path) {
  const ExportedModel model(run);
  const Matrix<const float> table = model.item_embeddings();
  const Vector<const float> bias = model.bias.floats();
  const std::vector<int64_t> counts = training_item_counts(run.dataset, run.split);
  AsideFile file(path);
  std::string line = bias ? "id,title,count,bias" : "id,title,count";
  for (int64_t i = 0; i < table.columns(); ++i) line += ",e" + std::to_string(i);
  file.write(line + "\n");
  for (int64_t row = 0; row < table.rows(); ++row) {
    const int32_t item = static_cast<int32_t>(row);
    line = csv_field(std::string(run.dataset.item_ids[item])) + "," + csv_field(run.dataset.title(item)) + "," +
           std::to_string(counts[static_cast<size_t>(row)]);
    if (bias) line += "," + number_text(bias[row]);
    for (int64_t i = 0; i < table.columns(); ++i) line += "," + number_text(table.row(row)[i]);
    file.write(line + "\n");
  }
  file.commit();
}

}  // namespace itemloom
