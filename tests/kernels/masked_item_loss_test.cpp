#include "kernels/masked_item_loss.h"

#include <cmath>
#include <fstream>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

struct Case {
  int64_t rows, items, columns;
  bool with_bias = true;
  bool gradients = true;
  float spread = 1;     // of the hidden rows: logits reach about spread * columns / 3
  int64_t filling = 0;  // the last rows, which ask for nothing
  int64_t most_tile_bytes = kMostLossTileBytes;
};

struct Reference {
  std::vector<double> row_losses, dhidden, dtable, dbias;
  double loss = 0;
};

class Problem {
 public:
  explicit Problem(const Case& options)
      : case_(options),
        hidden_(options.rows * options.columns, 1),
        table_(options.items * options.columns, 3),
        bias_(options.items, 1),
        row_losses_(options.rows, 1),
        dhidden_(options.rows * options.columns, 1),
        dtable_(options.items * options.columns, 5),
        dbias_(options.items, 3),
        targets_(options.rows, 1),
        loss_(1) {
    test::fill_random(hidden_, 1, -options.spread, options.spread);
    test::fill_random(table_, 2);
    test::fill_random(bias_, 3, -2, 2);
    test::fill_random(dhidden_, 4);
    test::fill_random(dtable_, 5);
    test::fill_random(dbias_, 6);
    std::fill(row_losses_.begin(), row_losses_.end(), NAN);
    loss_[0] = NAN;
    for (int64_t row = 0; row < options.rows; ++row) {
      targets_[row] = static_cast<int32_t>(test::random_int(7, row, options.items));
    }
    // The ends of the catalogue, and one item more than once.
    if (options.rows > 0) targets_[0] = 0;
    if (options.rows > 1) targets_[1] = static_cast<int32_t>(options.items - 1);
    if (options.rows > 3) targets_[3] = targets_[2];
    std::fill(targets_.end() - options.filling, targets_.end(), -1);
  }

  void run_loss(Device& device) {
    const bool gradients = case_.gradients;
    test::run_from_host(device,
                        MaskedItemLoss<float>{
                            .hidden = hidden_.matrix(case_.rows, case_.columns),
                            .table = table_.matrix(case_.items, case_.columns),
                            .bias = case_.with_bias ? Vector<const float>(bias_.vector()) : Vector<const float>::none(),
                            .targets = targets_.vector(),
                            .row_losses = row_losses_.vector(),
                            .loss = loss_.vector(),
                            .dhidden = gradients ? dhidden_.matrix(case_.rows, case_.columns) : Matrix<float>::none(),
                            .dtable = gradients ? dtable_.matrix(case_.items, case_.columns) : Matrix<float>::none(),
                            .dbias = gradients && case_.with_bias ? dbias_.vector() : Vector<float>::none(),
                            .most_tile_bytes = case_.most_tile_bytes,
                        });
  }

  // Call before run_loss(): the gradients are added into.
  Reference reference() {
    const int64_t items = case_.items, columns = case_.columns;
    Reference result{.row_losses = {},
                     .dhidden = {dhidden_.begin(), dhidden_.end()},
                     .dtable = {dtable_.begin(), dtable_.end()},
                     .dbias = {dbias_.begin(), dbias_.end()}};
    std::vector<double> z(items);
    for (int64_t row = 0; row < case_.rows; ++row) {
      if (targets_[row] < 0) {
        result.row_losses.push_back(0);
        continue;
      }
      const float* hidden = hidden_.data() + row * columns;
      double greatest = -INFINITY, sum = 0;
      for (int64_t item = 0; item < items; ++item) {
        z[item] = case_.with_bias ? bias_[item] : 0;
        for (int64_t c = 0; c < columns; ++c) z[item] += double(hidden[c]) * table_[item * columns + c];
        greatest = std::max(greatest, z[item]);
      }
      for (double value : z) sum += std::exp(value - greatest);
      result.row_losses.push_back(std::log(sum) + greatest - z[targets_[row]]);
      result.loss += result.row_losses.back();
      if (!case_.gradients) continue;
      for (int64_t item = 0; item < items; ++item) {
        const double dz = std::exp(z[item] - greatest) / sum - (item == targets_[row]);
        if (case_.with_bias) result.dbias[item] += dz;
        for (int64_t c = 0; c < columns; ++c) {
          result.dhidden[row * columns + c] += dz * table_[item * columns + c];
          result.dtable[item * columns + c] += dz * hidden[c];
        }
      }
    }
    return result;
  }

  // Everything that was written, for comparisons of bits.
  std::vector<float> outputs() {
    std::vector<float> all{static_cast<float>(loss_[0])};
    for (Guarded<float>* part : {&row_losses_, &dhidden_, &dtable_, &dbias_}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    return all;
  }
  bool intact() const {
    return hidden_.intact() && table_.intact() && bias_.intact() && row_losses_.intact() && dhidden_.intact() &&
           dtable_.intact() && dbias_.intact() && targets_.intact() && loss_.intact();
  }
  Guarded<float>& row_losses() { return row_losses_; }
  Guarded<float>& dhidden() { return dhidden_; }
  Guarded<float>& dtable() { return dtable_; }
  Guarded<float>& dbias() { return dbias_; }
  double loss() { return loss_[0]; }

 private:
  Case case_;
  Guarded<float> hidden_, table_, bias_, row_losses_, dhidden_, dtable_, dbias_;
  Guarded<int32_t> targets_;
  Guarded<double> loss_;
};

void verify(Device& device, const Case& options, double tolerance = 1e-5) {
  INFO("rows " << options.rows << " items " << options.items << " columns " << options.columns << " bias "
               << options.with_bias << " gradients " << options.gradients << " spread " << options.spread);
  std::vector<float> first;
  const Reference expected = Problem(options).reference();
  for (int threads : test::thread_counts(device)) {
    test::Threads scope(threads);
    Problem problem(options);
    problem.run_loss(device);
    REQUIRE(problem.intact());
    if (!first.empty()) {
      REQUIRE(test::same_bits(first, problem.outputs()));
      continue;
    }
    first = problem.outputs();
    REQUIRE(test::worst_error(problem.row_losses().copy(), expected.row_losses) < tolerance);
    REQUIRE(std::abs(problem.loss() - expected.loss) <= tolerance * std::max(1.0, std::abs(expected.loss)));
    double sum = 0;
    for (float value : problem.row_losses()) sum += value;
    REQUIRE(std::abs(problem.loss() - sum) <= (device.kind() == DeviceKind::kCpu ? 0 : 1e-13 * std::abs(sum)));
    REQUIRE(test::worst_error(problem.dhidden().copy(), expected.dhidden) < tolerance);
    REQUIRE(test::worst_error(problem.dtable().copy(), expected.dtable) < tolerance);
    REQUIRE(test::worst_error(problem.dbias().copy(), expected.dbias) < tolerance);
  }
}

int64_t virtual_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages;
  return pages * 4096;
}

}  // namespace

TEST_CASE("the masked-item loss and its gradients match a double reference at any shape",
          "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    const auto all_rows = test::by_device<std::vector<int64_t>>(device, {0, 1, 3, 31, 33, 65}, {0, 1, 3, 33});
    const auto all_items = test::by_device<std::vector<int64_t>>(device, {1, 2, 31, 33, 65, 200}, {1, 31, 200});
    const auto all_columns = test::by_device<std::vector<int64_t>>(device, {1, 3, 31, 64, 65}, {1, 65});
    for (int64_t rows : all_rows) {
      for (int64_t items : all_items) {
        for (int64_t columns : all_columns) {
          verify(device, {.rows = rows, .items = items, .columns = columns, .with_bias = (rows + items) % 2 == 0});
        }
      }
    }
  });
}

TEST_CASE("the masked-item loss goes on over several row chunks and item tiles", "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    verify(device, {.rows = 1100, .items = 701, .columns = 13});
    verify(device, {.rows = 577, .items = 1000, .columns = 33, .with_bias = false});
    verify(device, {.rows = 9, .items = 12101, .columns = 16});
    verify(device, {.rows = 40, .items = 3416, .columns = 128});
  });
}

TEST_CASE("rows that are cut into tiles of items have the same loss and gradients", "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    // Logits of up to about 30, so that a few items of each row have nearly all of its softmax.
    for (Case options : {Case{.rows = 100, .items = 3416, .columns = 96, .spread = 3},
                         {.rows = 41, .items = 2049, .columns = 128, .with_bias = false, .spread = 3},
                         {.rows = 100, .items = 2050, .columns = 96, .gradients = false, .spread = 3},
                         {.rows = 45, .items = 2500, .columns = 96, .spread = 3, .filling = 3}}) {
      options.most_tile_bytes = int64_t{40} * 1024 * 4;
      const LossTile tile =
          loss_tile<float>(options.rows, options.items, options.columns, false, options.most_tile_bytes);
      REQUIRE((tile.rows == 40 && tile.items == 1024 && tile.stride == 1024));
      verify(device, options, 2e-5);
    }
  });
}

namespace {

template <class T>
std::vector<int64_t> tile_of(int64_t rows, int64_t items, int64_t columns, bool tf32 = false) {
  const LossTile tile = loss_tile<T>(rows, items, columns, tf32, kMostLossTileBytes);
  return {tile.rows, tile.items, tile.stride};
}

}  // namespace

TEST_CASE("a loss's rows are cut where that takes less time", "[masked_item_loss]") {
  using Extents = std::vector<int64_t>;
  REQUIRE(tile_of<float>(0, 5, 4) == Extents{0, 5, 8});
  REQUIRE(tile_of<float>(5000, 3416, 64) == Extents{1024, 3416, 3416});
  REQUIRE(tile_of<Bf16>(5000, 12101, 64) == Extents{1024, 12101, 12112});
  // 268 rows of a million logits take 1 GiB, in bf16 178; of ten million 17, and the table would come by 295 times.
  REQUIRE(tile_of<float>(5000, 1'000'000, 64) == Extents{268, 1'000'000, 1'000'000});
  REQUIRE(tile_of<Bf16>(17, 10'000'000, 64) == Extents{17, 10'000'000, 10'000'000});
  REQUIRE(tile_of<Bf16>(5000, 10'000'000, 64) == Extents{5000, 35776, 35776});
  // The more columns a product has, the more computing again costs, except where it hardly costs anything.
  REQUIRE(tile_of<float>(5000, 2'000'000, 256) == Extents{134, 2'000'000, 2'000'000});
  REQUIRE(tile_of<float>(5000, 2'000'000, 256, true) == Extents{5000, 53680, 53680});
  REQUIRE(tile_of<Bf16>(5000, 1'000'000, 256) == Extents{5000, 35776, 35776});
  // A row that does not fit is cut in any case, and so are more rows than a tile has.
  REQUIRE(tile_of<float>(1, 500'000'000, 8) == Extents{1, 268'435'456, 268'435'456});
  REQUIRE(tile_of<Bf16>(500'000, 10'000'000, 64) == Extents{8192, 21840, 21840});
}

// A plan is made for the greatest number of rows, and a step of fewer must not find it too small.
TEST_CASE("a loss of fewer rows takes no more scratch memory", "[masked_item_loss]") {
  const auto scratch = []<class T>(T, int64_t rows, int64_t items, int64_t columns) {
    static float nothing[1];
    const auto matrix = [](int64_t r, int64_t c) { return Matrix<const T>(reinterpret_cast<const T*>(nothing), r, c); };
    const MaskedItemLoss<T> loss{.hidden = matrix(rows, columns),
                                 .table = matrix(items, columns),
                                 .bias = Vector<const float>::none(),
                                 .targets = Vector<const int32_t>::none(),
                                 .row_losses = Vector<float>::none(),
                                 .loss = Vector<double>::none(),
                                 .dhidden = Matrix<T>::none(),
                                 .dtable = Matrix<float>::none(),
                                 .dbias = Vector<float>::none()};
    return scratch_bytes(CudaStream(), loss);
  };
  // 967,328 items of 64 columns in bf16 are as long whole as cut.
  for (const int64_t items : {1, 3416, 500'000, 967'328, 1'000'000, 10'000'000, 20'000'000, 300'000'000}) {
    for (const int64_t columns : {8, 64, 256}) {
      CAPTURE(items, columns);
      int64_t fp32 = 0, bf16 = 0, rows_that_take_less = 0;
      for (int64_t rows = 1; rows <= 9'000; ++rows) {
        const int64_t fp32_before = fp32, bf16_before = bf16;
        fp32 = scratch(float(), rows, items, columns);
        bf16 = scratch(Bf16(), rows, items, columns);
        rows_that_take_less += (fp32 < fp32_before) + (bf16 < bf16_before);
      }
      REQUIRE(rows_that_take_less == 0);
      REQUIRE(fp32 <= kMostLossTileBytes + 4 * 256 + 3 * 8192 * 4);
      REQUIRE(bf16 <= kMostLossTileBytes + 6 * 256 + 8192 * 4 * (3 + columns));
    }
  }
}

TEST_CASE("the masked-item loss without gradients leaves them alone", "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    for (bool bias : {false, true}) {
      verify(device, {.rows = 0, .items = 5, .columns = 4, .with_bias = bias, .gradients = false});
      verify(device, {.rows = 7, .items = 1, .columns = 4, .with_bias = bias, .gradients = false});
      verify(device, {.rows = 533, .items = 701, .columns = 17, .with_bias = bias, .gradients = false});
    }
  });
}

TEST_CASE("logits of up to a thousand keep the masked-item loss finite and exact", "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    // A float logit of 1e3 is itself only known to 6e-5; the loss is the difference of two.
    verify(device, {.rows = 35, .items = 500, .columns = 33, .spread = 90}, 2e-4);
    verify(device, {.rows = 35, .items = 500, .columns = 3, .spread = 600}, 2e-4);
  });
}

TEST_CASE("rows that fill up a batch count for nothing in the masked-item loss", "[masked_item_loss][device]") {
  test::on_every_device([](Device& device) {
    for (bool gradients : {true, false}) {
      verify(device, {.rows = 33, .items = 31, .columns = 8, .gradients = gradients, .filling = 5});
      verify(device, {.rows = 3, .items = 200, .columns = 3, .gradients = gradients, .filling = 3});
    }
    Problem without({.rows = 28, .items = 200, .columns = 16}),
        with({.rows = 33, .items = 200, .columns = 16, .filling = 5});
    without.run_loss(device);
    with.run_loss(device);
    REQUIRE(with.loss() == without.loss());
  });
}

TEST_CASE("the workspace of the masked-item loss does not grow with the number of rows", "[masked_item_loss]") {
  constexpr int64_t kItems = 4001, kColumns = 3;
  for (bool gradients : {true, false}) {
    int64_t first = 0;
    for (int64_t rows : {1500, 6000}) {
      Problem problem({.rows = rows, .items = kItems, .columns = kColumns, .gradients = gradients});
      Device device;
      const int64_t before = virtual_bytes();
      problem.run_loss(device);
      const int64_t used = virtual_bytes() - before;
      INFO("rows " << rows << " workspace " << used << " gradients " << gradients);
      REQUIRE(used < 1500 * kItems * 4);
      if (first == 0) first = used;
      REQUIRE(used <= first + (1 << 20));
    }
  }
}

}  // namespace itemloom
