#include "train/neighbors.h"

#include "kernels/gemm.h"
#include "kernels/unit_rows.h"

namespace itemloom {

NeighborSearch::NeighborSearch(OpenedRun& run, Similarity similarity)
    : device_(*run.device), table_(run.instance->model().item_embeddings()), tile_(device_) {
  if (similarity == Similarity::kDot) return;
  unit_ = device_.allocate(table_.size() * static_cast<int64_t>(sizeof(float)));
  const Matrix<float> unit(unit_.as<float>(table_.size()).data(), table_.rows(), table_.columns());
  itemloom::run(device_, UnitRows{.x = table_, .y = unit});
  table_ = unit;
}

BestItems NeighborSearch::nearest(int64_t first, int64_t items, int64_t count) {
  const Matrix<float> scores = tile_.begin(items, table_.rows());
  itemloom::run(device_, Gemm<float>{.a = table_.slice(first, items),
                                     .transpose_a = false,
                                     .b = table_,
                                     .transpose_b = true,
                                     .bias = Vector<const float>::none(),
                                     .c = scores,
                                     .accumulate = false});
  ItemLists selves;
  for (int64_t row = 0; row < items; ++row) {
    const auto self = static_cast<int32_t>(first + row);
    selves.add_row(Vector<const int32_t>(&self, 1));
  }
  tile_.exclude(selves);
  return tile_.best(count);
}

}  // namespace itemloom
