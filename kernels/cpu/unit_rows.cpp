// Once a question or an export, and less work than the products behind it: a plain loop.
#include "kernels/unit_rows.h"

#include <cmath>

#include "core/parallel.h"

namespace itemloom {

void launch(CpuStream, const UnitRows& args) {
  const int64_t columns = args.x.columns();
  parallel_for(args.x.rows(), [&](int64_t row) {
    const float* x = args.x.row(row);
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c) sum += double{x[c]} * x[c];
    const float scale = sum > 0 ? static_cast<float>(1 / std::sqrt(sum)) : 0.0f;
    for (int64_t c = 0; c < columns; ++c) args.y.row(row)[c] = scale * x[c];
  });
}

}  // namespace itemloom
