// The two ends of a training step: the masked-item loss over the catalogue, and the embedding bags. M = 5,530 rows of
// 3,416 items is a batch of 256 long sequences, 410 rows of 12,101 one of short ones.
#include <memory>
#include <string>

#include "kernels/embedding_bag.h"
#include "kernels/masked_item_loss.h"
#include "scripts/bench/bench.h"

namespace itemloom::bench {
namespace {

struct Loss {
  Loss(int64_t rows, int64_t items, int64_t columns)
      : rows(rows),
        items(items),
        columns(columns),
        hidden(random_floats(arena, rows * columns, 1)),
        table(random_floats(arena, items * columns, 2)),
        bias(random_floats(arena, items, 3)),
        row_losses(arena.take<float>(rows)),
        dhidden(random_floats(arena, rows * columns, 4)),
        dtable(random_floats(arena, items * columns, 5)),
        dbias(random_floats(arena, items, 6)),
        targets(arena.take<int32_t>(rows)) {
    for (int64_t row = 0; row < rows; ++row) targets[row] = static_cast<int32_t>(row * 7919 % items);
  }

  void run(bool with_gradients) {
    const auto none = Matrix<float>::none();
    itemloom::run(device, MaskedItemLoss<float>{
                              .hidden = Matrix<const float>(hidden, rows, columns),
                              .table = Matrix<const float>(table, items, columns),
                              .bias = Vector<const float>(bias, items),
                              .targets = Vector<const int32_t>(targets, rows),
                              .row_losses = Vector<float>(row_losses, rows),
                              .loss = Vector<double>(&loss, 1),
                              .dhidden = with_gradients ? Matrix<float>(dhidden, rows, columns) : none,
                              .dtable = with_gradients ? Matrix<float>(dtable, items, columns) : none,
                              .dbias = with_gradients ? Vector<float>(dbias, items) : Vector<float>::none(),
                          });
  }

  Device device;
  Arena arena;
  int64_t rows, items, columns;
  double loss = 0;
  float *hidden, *table, *bias, *row_losses, *dhidden, *dtable, *dbias;
  int32_t* targets;
};

// Where one id in five is the mask token's, as in training.
struct Lookup {
  Lookup(int64_t count, int64_t rows, int64_t columns, bool with_mask)
      : count(count),
        rows(rows),
        columns(columns),
        table(random_floats(arena, rows * columns, 1)),
        y(random_floats(arena, count * columns, 2)),
        dtable(random_floats(arena, rows * columns, 3)),
        ids(arena.take<int32_t>(count)) {
    for (int64_t i = 0; i < count; ++i) {
      ids[i] = static_cast<int32_t>(!with_mask ? i % rows : i % 5 == 0 ? rows - 1 : i * 7919 % rows);
    }
  }

  void forward() {
    run(device, EmbeddingBagForward<float>{.table = Matrix<const float>(table, rows, columns),
                                           .ids = Vector<const int32_t>(ids, count),
                                           .bag_offsets = Vector<const int64_t>::none(),
                                           .weights = Vector<const float>::none(),
                                           .mode = BagMode::kSum,
                                           .y = Matrix<float>(y, count, columns)});
  }
  void backward() {
    run(device, EmbeddingBagBackward<float>{.dy = Matrix<const float>(y, count, columns),
                                            .ids = Vector<const int32_t>(ids, count),
                                            .bag_offsets = Vector<const int64_t>::none(),
                                            .weights = Vector<const float>::none(),
                                            .mode = BagMode::kSum,
                                            .dtable = Matrix<float>(dtable, rows, columns)});
  }

  Device device;
  Arena arena;
  int64_t count, rows, columns;
  float *table, *y, *dtable;
  int32_t* ids;
};

std::string shape(int64_t a, int64_t b, int64_t c) {
  return std::to_string(a) + "x" + std::to_string(b) + "x" + std::to_string(c);
}

void add_loss(Suite& suite, int64_t rows, int64_t items, int64_t columns) {
  for (bool with_gradients : {true, false}) {
    suite.add({.name = (with_gradients ? "loss/gradients/" : "loss/value/") + shape(rows, items, columns),
               .flops = (with_gradients ? 6.0 : 2.0) * static_cast<double>(rows * items * columns),
               .prepare = [=]() -> std::function<void()> {
                 auto loss = std::make_shared<Loss>(rows, items, columns);
                 return [=] { loss->run(with_gradients); };
               }});
  }
}

void add_lookup(Suite& suite, const std::string& name, int64_t count, int64_t rows, int64_t columns, bool with_mask) {
  const std::string size = shape(count, rows, columns);
  suite.add({.name = "embedding/" + name + "_forward/" + size,
             .bytes = 8.0 * static_cast<double>(count * columns),
             .prepare = [=]() -> std::function<void()> {
               auto lookup = std::make_shared<Lookup>(count, rows, columns, with_mask);
               return [=] { lookup->forward(); };
             }});
  suite.add({.name = "embedding/" + name + "_backward/" + size,
             .bytes = 4.0 * static_cast<double>((count + 2 * std::min(count, rows)) * columns),
             .prepare = [=]() -> std::function<void()> {
               auto lookup = std::make_shared<Lookup>(count, rows, columns, with_mask);
               return [=] { lookup->backward(); };
             }});
}

void list_benches(Suite& suite) {
  add_loss(suite, 5530, 3416, 64);
  add_loss(suite, 5530, 3416, 128);
  add_loss(suite, 410, 12101, 64);
  add_loss(suite, 410, 12101, 128);
  for (int64_t columns : {64, 128}) {
    add_lookup(suite, "items", 27630, 3418, columns, true);
    add_lookup(suite, "items", 1720, 12103, columns, true);
    add_lookup(suite, "positions", 27630, 200, columns, false);
  }
}

const Registration kRegistration(list_benches);

}  // namespace
}  // namespace itemloom::bench
