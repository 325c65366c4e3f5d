#include "kernels/rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

void gather_rows(CpuStream, const GatherRows<float>& args) {
  const int64_t columns = args.x.columns();
  parallel_blocks(args.indices.size(), rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x.row(args.indices[row]);
      float* y = args.y.row(row);
      for_lanes(0, columns, [=](int64_t c, auto lanes) HWY_ATTR { lanes.store(lanes.load(x + c), y + c); });
    }
  });
}

void scatter_add_rows(CpuStream, const ScatterAddRows<float>& args) {
  const int64_t columns = args.dy.columns();
  parallel_blocks(args.indices.size(), rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      const float* dy = args.dy.row(row);
      float* dx = args.dx.row(args.indices[row]);
      for_lanes(0, columns, [=](int64_t c, auto lanes) HWY_ATTR {
        lanes.store(hn::Add(lanes.load(dx + c), lanes.load(dy + c)), dx + c);
      });
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(gather_rows);
HWY_EXPORT(scatter_add_rows);

void launch(CpuStream stream, const GatherRows<float>& args) {
  HWY_DYNAMIC_DISPATCH(gather_rows)(stream, args);
}

void launch(CpuStream stream, const ScatterAddRows<float>& args) {
  HWY_DYNAMIC_DISPATCH(scatter_add_rows)(stream, args);
}

}  // namespace itemloom
#endif
