#include "train/export.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <list>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/check.h"
#include "core/files.h"
#include "core/hdf5.h"
#include "data/text.h"
#include "kernels/gemm.h"
#include "kernels/top_k.h"
#include "train/associations.h"
#include "train/evaluate.h"

namespace itemloom {
namespace {

// Items whose scores against the whole catalogue are held at a time.
constexpr int64_t kItemBlock = 256;

std::vector<float> unit_rows(Matrix<const float> table) {
  std::vector<float> unit(table.begin(), table.end());
  for (int64_t row = 0; row < table.rows(); ++row) {
    float* values = unit.data() + row * table.columns();
    double sum = 0;
    for (int64_t i = 0; i < table.columns(); ++i) sum += double{values[i]} * values[i];
    const float scale = sum > 0 ? static_cast<float>(1 / std::sqrt(sum)) : 0.0f;
    for (int64_t i = 0; i < table.columns(); ++i) values[i] *= scale;
  }
  return unit;
}

// Nearest items of a block of items, by dot product of the table's rows.
class NeighborSearch {
 public:
  NeighborSearch(OpenedRun& run, Similarity similarity)
      : device_(*run.device),
        table_(run.instance->model().item_embeddings()),
        unit_(similarity == Similarity::kCosine ? unit_rows(table_) : std::vector<float>()) {
    if (similarity == Similarity::kCosine) table_ = Matrix<const float>(unit_.data(), table_.rows(), table_.columns());
  }

  // indices and values (items, count)
  void search(int64_t first, int64_t items, Matrix<int32_t> indices, Matrix<float> values) {
    scores_.resize(static_cast<size_t>(items * table_.rows()));
    const Matrix<float> scores(scores_.data(), items, table_.rows());
    itemloom::run(device_, Gemm<float>{.a = table_.slice(first, items),
                                       .transpose_a = false,
                                       .b = table_,
                                       .transpose_b = true,
                                       .bias = Vector<const float>::none(),
                                       .c = scores,
                                       .accumulate = false});
    for (int64_t row = 0; row < items; ++row) scores.row(row)[first + row] = -std::numeric_limits<float>::infinity();
    itemloom::run(device_, TopK{.scores = scores, .indices = indices, .values = values});
  }

 private:
  Device& device_;
  Matrix<const float> table_;
  std::vector<float> unit_;
  std::vector<float> scores_;
};

void write_neighbors(OpenedRun& run, Hdf5Writer& file, const std::string& group, Similarity similarity) {
  const int64_t items = run.dataset.item_count(), count = std::min(run.config.export_.neighbors, items - 1);
  const std::string name = similarity == Similarity::kCosine ? "cosine" : "dot product";
  NeighborSearch search(run, similarity);
  file.create<int32_t>(group + "/index", {items, count});
  file.create<float>(group + "/score", {items, count});
  std::vector<int32_t> indices(static_cast<size_t>(kItemBlock * count));
  std::vector<float> values(indices.size());
  for (int64_t first = 0; first < items; first += kItemBlock) {
    const int64_t rows = std::min(kItemBlock, items - first);
    search.search(first, rows, Matrix<int32_t>(indices.data(), rows, count), Matrix<float>(values.data(), rows, count));
    file.write_rows(group + "/index", first, rows, indices.data());
    file.write_rows(group + "/score", first, rows, values.data());
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
  for (int64_t first = 0; first < items; first += kItemBlock) {
    const auto rows =
        associations.best_of_block(static_cast<int32_t>(first), std::min(kItemBlock, items - first), count);
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

std::vector<Neighbor> nearest_items(OpenedRun& run, int32_t item, int64_t count, Similarity similarity) {
  const int64_t kept = std::min(count, run.dataset.item_count() - 1);
  std::vector<int32_t> indices(static_cast<size_t>(kept));
  std::vector<float> values(indices.size());
  NeighborSearch(run, similarity)
      .search(item, 1, Matrix<int32_t>(indices.data(), 1, kept), Matrix<float>(values.data(), 1, kept));
  std::vector<Neighbor> neighbors;
  for (size_t rank = 0; rank < indices.size(); ++rank) neighbors.push_back({indices[rank], values[rank]});
  return neighbors;
}

void export_hdf5(OpenedRun& run, const std::string& path) {
  const Bert4Rec& model = run.instance->model();
  Hdf5Writer file(path);
  write_header(file, "export", 1);
  file.write("/item/id", item_ids(run.dataset));
  file.write("/item/title", item_titles(run.dataset));
  file.write("/item/count", training_item_counts(run.dataset, run.split));
  file.write("/item/embedding", model.item_embeddings());
  file.write_attribute("/item/count", "meaning", std::string("training interactions"));
  file.write_attribute("/item/embedding", "meaning", std::string("row i is the vector of item i"));
  if (model.output_bias()) file.write("/item/bias", model.output_bias());
  file.write("/special/name", std::vector<std::string>{"[MASK]"});
  const Vector<const float> mask = model.mask_embedding();
  file.write("/special/embedding", Matrix<const float>(mask.data(), 1, mask.size()));
  if (run.config.export_.neighbors > 0) {
    write_neighbors(run, file, "/neighbors", Similarity::kCosine);
    write_neighbors(run, file, "/neighbors_dot", Similarity::kDot);
  }
  if (run.config.export_.associations > 0) write_associations(run, file);
  write_provenance(run, file);
  file.commit();
}

void export_npy(OpenedRun& run, const std::string& folder) {
  const Bert4Rec& model = run.instance->model();
  const Matrix<const float> table = model.item_embeddings();
  NewFolder made(folder);
  // All are written before the first gets its name, so that a full disk leaves those of an earlier export as they are.
  std::list<AsideFile> files;
  write_npy(files.emplace_back(folder + "/embedding.npy"), {table.rows(), table.columns()}, table.data());
  if (const Vector<const float> bias = model.output_bias()) {
    write_npy(files.emplace_back(folder + "/bias.npy"), {table.rows()}, bias.data());
  }
  write_lines(files.emplace_back(folder + "/ids.txt"), item_ids(run.dataset));
  write_lines(files.emplace_back(folder + "/titles.txt"), item_titles(run.dataset));
  for (AsideFile& file : files) file.flush_to_disk();
  for (AsideFile& file : files) file.commit();
  made.keep();
}

void export_word2vec(OpenedRun& run, const std::string& path, bool binary) {
  const Matrix<const float> table = run.instance->model().item_embeddings();
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
  const Matrix<const float> table = run.instance->model().item_embeddings();
  const Vector<const float> bias = run.instance->model().output_bias();
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
