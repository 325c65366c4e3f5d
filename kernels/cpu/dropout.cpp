#include "kernels/dropout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dropout.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// body(i, lanes, keep) for every vector of the rows, i counting from the matrix's start.
template <class Body>
void for_masked_rows(const DropoutMask& mask, Vector<const uint32_t> row_ids, int64_t columns, const Body& body) {
  parallel_blocks(row_ids.size(), rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < columns; column += 64) {
        uint64_t keep = mask.keep_bits(row_ids[row], column / 64);
        const int64_t first = row * columns + column;
        for_lanes(first, first + std::min<int64_t>(64, columns - column), [&](int64_t i, auto lanes) HWY_ATTR {
          body(i, lanes, mask_from_bits(Floats(), keep));
          keep >>= kFloatLanes;
        });
      }
    }
  });
}

void dropout_forward(CpuStream, const DropoutForward& args) {
  const float *x = args.x.data(), *residual = args.residual.data();
  float* y = args.y.data();
  if (dropout_threshold(args.probability) == 0) {
    return parallel_lanes(args.x.size(), [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVector kept = lanes.load(x + i);
      lanes.store(residual ? hn::Add(lanes.load(residual + i), kept) : kept, y + i);
    });
  }
  const FloatVector scale = hn::Set(Floats(), dropout_scale(args.probability));
  for_masked_rows(DropoutMask(args.key, args.probability), args.row_ids, args.x.columns(),
                  [=](int64_t i, auto lanes, auto keep) HWY_ATTR {
                    const FloatVector kept = hn::IfThenElseZero(keep, hn::Mul(lanes.load(x + i), scale));
                    lanes.store(residual ? hn::Add(lanes.load(residual + i), kept) : kept, y + i);
                  });
}

void dropout_backward(CpuStream, const DropoutBackward& args) {
  const float* dy = args.dy.data();
  float *dx = args.dx.data(), *dresidual = args.dresidual.data();
  const auto add = [=](int64_t i, auto lanes, FloatVector gradient, FloatVector kept) HWY_ATTR {
    lanes.store(hn::Add(lanes.load(dx + i), kept), dx + i);
    if (dresidual) lanes.store(hn::Add(lanes.load(dresidual + i), gradient), dresidual + i);
  };
  if (dropout_threshold(args.probability) == 0) {
    return parallel_lanes(args.dy.size(), [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVector gradient = lanes.load(dy + i);
      add(i, lanes, gradient, gradient);
    });
  }
  const FloatVector scale = hn::Set(Floats(), dropout_scale(args.probability));
  for_masked_rows(DropoutMask(args.key, args.probability), args.row_ids, args.dy.columns(),
                  [=](int64_t i, auto lanes, auto keep) HWY_ATTR {
                    const FloatVector gradient = lanes.load(dy + i);
                    add(i, lanes, gradient, hn::IfThenElseZero(keep, hn::Mul(gradient, scale)));
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

void launch(CpuStream stream, const DropoutForward& args) {
  HWY_DYNAMIC_DISPATCH(dropout_forward)(stream, args);
}

void launch(CpuStream stream, const DropoutBackward& args) {
  HWY_DYNAMIC_DISPATCH(dropout_backward)(stream, args);
}

}  // namespace itemloom
#endif
