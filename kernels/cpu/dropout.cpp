#include "kernels/dropout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dropout.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/dropout-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// body(i, lanes, dropped) for every vector of the rows, i counting from the matrix's start.
template <class Body>
void for_dropped_rows(const RowDropout& dropout, int64_t rows, int64_t columns, const Body& body) {
  if (!dropout.drops()) {
    return parallel_lanes(rows * columns, [&](int64_t i, auto lanes) HWY_ATTR { body(i, lanes, NotDropped()); });
  }
  parallel_blocks(rows, rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    const Body local = body;  // out of reach of the stores below, so that its members stay in registers
    dropout.for_pieces(begin, end, columns, [&](int64_t row, int64_t column, int64_t count, auto dropped) HWY_ATTR {
      const int64_t start = row * columns + column;
      for_lanes(start, start + count, [&](int64_t i, auto lanes) HWY_ATTR { local(i, lanes, dropped); });
    });
  });
}

void dropout_forward(CpuStream, const DropoutForward<float>& args) {
  const float *x = args.x.data(), *residual = args.residual.data();
  float* y = args.y.data();
  for_dropped_rows(RowDropout(args.row_ids, args.probability, args.key), args.x.rows(), args.x.columns(),
                   [=](int64_t i, auto lanes, auto&& dropped) HWY_ATTR {
                     const FloatVector kept = dropped(lanes.load(x + i));
                     lanes.store(residual ? hn::Add(lanes.load(residual + i), kept) : kept, y + i);
                   });
}

void dropout_backward(CpuStream, const DropoutBackward<float>& args) {
  const float* dy = args.dy.data();
  float *dx = args.dx.data(), *dresidual = args.dresidual.data();
  for_dropped_rows(RowDropout(args.row_ids, args.probability, args.key), args.dy.rows(), args.dy.columns(),
                   [=](int64_t i, auto lanes, auto&& dropped) HWY_ATTR {
                     const FloatVector gradient = lanes.load(dy + i);
                     lanes.store(hn::Add(lanes.load(dx + i), dropped(gradient)), dx + i);
                     if (dresidual) lanes.store(hn::Add(lanes.load(dresidual + i), gradient), dresidual + i);
                   });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(dropout_forward);
HWY_EXPORT(dropout_backward);

void launch(CpuStream stream, const DropoutForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(dropout_forward)(stream, args);
}

void launch(CpuStream stream, const DropoutBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(dropout_backward)(stream, args);
}

}  // namespace itemloom
#endif
