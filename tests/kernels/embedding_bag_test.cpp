#include "kernels/embedding_bag.h"

#include <cmath>
#include <numeric>

#include "kernels/cuda/sort_pairs.h"
#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

// How the ids of a case are drawn.
enum class Ids {
  kUniform,
  kHot,     // three of four are one id, as a mask token's
  kCyclic,  // as positions: 0, 1, 2, ...
};

struct Case {
  int64_t rows, columns, bags;
  bool with_offsets, with_weights;
  BagMode mode;
  Ids ids = Ids::kUniform;
  uint64_t seed = 1;
};

// Inputs and outputs of a case, guarded, and their naive double references.
class Problem {
 public:
  explicit Problem(const Case& options)
      : case_(options),
        offsets_values_(make_offsets(options)),
        odd_(options.bags % 2),
        table_(options.rows * options.columns, odd_),
        weights_(count(), 1),
        dy_(options.bags * options.columns, 3 * odd_),
        y_(options.bags * options.columns, odd_),
        dtable_(options.rows * options.columns, 5 * odd_),
        ids_(count(), 1),
        offsets_(options.bags + 1, 1) {
    std::copy(offsets_values_.begin(), offsets_values_.end(), offsets_.begin());
    test::fill_random(table_, options.seed);
    test::fill_random(weights_, options.seed + 1, -2, 2);
    test::fill_random(dy_, options.seed + 2);
    test::fill_random(dtable_, options.seed + 3);
    std::fill(y_.begin(), y_.end(), NAN);
    for (int64_t i = 0; i < count(); ++i) {
      const bool hot = options.ids == Ids::kHot && test::random_int(9, i, 4) > 0;
      int64_t id = hot ? options.rows / 2 : test::random_int(options.seed, i, options.rows);
      if (options.ids == Ids::kCyclic) id = i % options.rows;
      ids_[i] = static_cast<int32_t>(id);
    }
  }

  void run_both(Device& device) {
    const Matrix<const float> table = table_.matrix(case_.rows, case_.columns);
    const Vector<const int64_t> offsets =
        case_.with_offsets ? Vector<const int64_t>(offsets_.vector()) : Vector<const int64_t>::none();
    const Vector<const float> weights =
        case_.with_weights ? Vector<const float>(weights_.vector()) : Vector<const float>::none();
    test::run_from_host(device, EmbeddingBagForward<float>{.table = table,
                                                           .ids = ids_.vector(),
                                                           .bag_offsets = offsets,
                                                           .weights = weights,
                                                           .mode = case_.mode,
                                                           .y = y_.matrix(case_.bags, case_.columns)});
    test::run_from_host(device, EmbeddingBagBackward<float>{.dy = dy_.matrix(case_.bags, case_.columns),
                                                            .ids = ids_.vector(),
                                                            .bag_offsets = offsets,
                                                            .weights = weights,
                                                            .mode = case_.mode,
                                                            .dtable = dtable_.matrix(case_.rows, case_.columns)});
  }

  std::vector<double> expected_y() {
    std::vector<double> y(y_.size());
    for_each_use([&](int64_t bag, int64_t id, double factor) {
      for (int64_t c = 0; c < case_.columns; ++c) {
        y[bag * case_.columns + c] += factor * table_[id * case_.columns + c];
      }
    });
    return y;
  }
  // Call before run_both(): dtable is added into.
  std::vector<double> expected_dtable() {
    std::vector<double> dtable(dtable_.begin(), dtable_.end());
    for_each_use([&](int64_t bag, int64_t id, double factor) {
      for (int64_t c = 0; c < case_.columns; ++c) {
        dtable[id * case_.columns + c] += factor * dy_[bag * case_.columns + c];
      }
    });
    return dtable;
  }

  Guarded<float>& y() { return y_; }
  Guarded<float>& dtable() { return dtable_; }
  bool intact() const {
    return table_.intact() && weights_.intact() && dy_.intact() && y_.intact() && dtable_.intact() && ids_.intact() &&
           offsets_.intact();
  }

 private:
  // One id a bag without offsets; else 0 to 5 ids, the first and the last bag empty.
  static std::vector<int64_t> make_offsets(const Case& options) {
    std::vector<int64_t> offsets(options.bags + 1);
    for (int64_t bag = 0; bag < options.bags; ++bag) {
      int64_t size = 1;
      if (options.with_offsets) {
        size = bag == 0 || bag + 1 == options.bags ? 0 : test::random_int(options.seed + 7, bag, 6);
      }
      offsets[bag + 1] = offsets[bag] + size;
    }
    return offsets;
  }
  int64_t count() const { return offsets_values_.back(); }

  template <class Body>
  void for_each_use(Body body) {
    for (int64_t bag = 0; bag < case_.bags; ++bag) {
      const int64_t begin = offsets_values_[bag], end = offsets_values_[bag + 1];
      for (int64_t i = begin; i < end; ++i) {
        const double weight = case_.with_weights ? weights_[i] : 1.0;
        body(bag, ids_[i], case_.mode == BagMode::kMean ? weight / double(end - begin) : weight);
      }
    }
  }

  Case case_;
  std::vector<int64_t> offsets_values_;
  int64_t odd_;  // whether every buffer begins at another distance from a cache line
  Guarded<float> table_, weights_, dy_, y_, dtable_;
  Guarded<int32_t> ids_;
  Guarded<int64_t> offsets_;
};

// Values against the references, guards, and the same bits for any number of threads and in every run.
void verify(Device& device, const Case& options, double tolerance) {
  INFO("rows " << options.rows << " columns " << options.columns << " bags " << options.bags << " offsets "
               << options.with_offsets << " weights " << options.with_weights << " mean "
               << (options.mode == BagMode::kMean) << " ids " << static_cast<int>(options.ids));
  std::vector<float> first_y, first_dtable;
  for (int threads : test::thread_counts(device)) {
    test::Threads scope(threads);
    Problem problem(options);
    const std::vector<double> y = problem.expected_y(), dtable = problem.expected_dtable();
    problem.run_both(device);
    REQUIRE(problem.intact());
    REQUIRE(test::worst_error(problem.y().copy(), y) < 1e-6);
    REQUIRE(test::worst_error(problem.dtable().copy(), dtable) < tolerance);
    if (first_y.empty()) {
      first_y = problem.y().copy();
      first_dtable = problem.dtable().copy();
    }
    REQUIRE(test::same_bits(first_y, problem.y().copy()));
    REQUIRE(test::same_bits(first_dtable, problem.dtable().copy()));
  }
}

}  // namespace

TEST_CASE("bags are summed and averaged, and their gradients are added into the table", "[embedding_bag][device]") {
  test::on_every_device([](Device& device) {
    using Sizes = std::vector<int64_t>;
    const Sizes all_columns = test::by_device<Sizes>(device, {0, 1, 3, 16, 31, 33, 64, 65, 130}, {0, 3, 36});
    const Sizes all_bags = test::by_device<Sizes>(device, {0, 1, 3, 32, 65}, {0, 3, 64});
    const Sizes all_rows = test::by_device<Sizes>(device, {1, 3, 33}, {1, 33});
    for (int64_t columns : all_columns) {
      for (int64_t bags : all_bags) {
        for (int64_t rows : all_rows) {
          for (int options = 0; options < 8; ++options) {
            verify(device,
                   {.rows = rows,
                    .columns = columns,
                    .bags = bags,
                    .with_offsets = (options & 1) != 0,
                    .with_weights = (options & 2) != 0,
                    .mode = (options & 4) != 0 ? BagMode::kMean : BagMode::kSum,
                    .seed = static_cast<uint64_t>(options)},
                   5e-5);
          }
        }
      }
    }
  });
}

TEST_CASE("ids that fill most of a batch give the same table gradient for any number of threads",
          "[embedding_bag][device]") {
  test::on_every_device([](Device& device) {
    for (Ids ids : {Ids::kUniform, Ids::kHot, Ids::kCyclic}) {
      for (int64_t rows : test::by_device<std::vector<int64_t>>(device, {1, 2, 7, 200, 5000}, {1, 7, 5000})) {
        for (bool offsets : {false, true}) {
          verify(device,
                 {.rows = rows,
                  .columns = 33,
                  .bags = 3001,
                  .with_offsets = offsets,
                  .with_weights = offsets,
                  .mode = BagMode::kSum,
                  .ids = ids},
                 1e-4);
        }
      }
    }
  });
}

TEST_CASE("what an id receives does not depend on the other ids of the batch", "[embedding_bag][device]") {
  // Id 1 occurs 1,000 times; before it in the sorted order stand `others` occurrences of id 0.
  constexpr int64_t kColumns = 17, kRuns = 1000;
  test::on_every_device([](Device& device) {
    std::vector<float> first;
    for (int64_t others : {0, 1, 100, 257, 1000}) {
      const int64_t total = kRuns + others;
      Guarded<float> dy(total * kColumns), dtable(2 * kColumns);
      Guarded<int32_t> ids(total);
      for (int64_t i = 0; i < total; ++i) {
        ids[i] = i < kRuns;
        for (int64_t c = 0; c < kColumns; ++c) {
          dy[i * kColumns + c] = test::random_float(i < kRuns ? 5 : 6, i * kColumns + c);
        }
      }
      test::run_from_host(device, EmbeddingBagBackward<float>{.dy = dy.matrix(total, kColumns),
                                                              .ids = ids.vector(),
                                                              .bag_offsets = Vector<const int64_t>::none(),
                                                              .weights = Vector<const float>::none(),
                                                              .mode = BagMode::kSum,
                                                              .dtable = dtable.matrix(2, kColumns)});
      const std::vector<float> row(dtable.begin() + kColumns, dtable.end());
      if (first.empty()) first = row;
      REQUIRE(test::same_bits(first, row));
    }
  });
}

#ifdef ITEMLOOM_CUDA
TEST_CASE("a sort takes no more working memory than is planned for it", "[embedding_bag][device]") {
  for (const int64_t pairs : {1, 100, 10'000, 1'000'000, 300'000'000}) {
    for (const int bits : {1, 12, 32}) {
      REQUIRE(cuda::SortPairs{.count = pairs, .bits = bits}.working_bytes() <= most_sort_bytes(pairs));
    }
  }
}
#endif

}  // namespace itemloom
