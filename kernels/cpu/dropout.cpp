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

// body(i, lanes, keep) for every vector of the rows, i counting from the matrix's start. Masks are drawn for four
// chunks of 64 columns at a time, in the order of memory; the last ones are drawn again to fill an incomplete four.
template <class Body>
void for_masked_rows(const DropoutMask& mask, Vector<const uint32_t> row_ids, int64_t columns, const Body& body) {
  const int64_t row_chunks = block_count(columns, 64);
  parallel_blocks(row_ids.size(), rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    constexpr int kAtOnce = 4;
    const Body local = body;  // out of reach of the stores below, so that its members stay in registers
    const int64_t chunks = (end - begin) * row_chunks;
    int64_t row = begin, row_chunk = 0;
    for (int64_t first = 0; first < chunks; first += kAtOnce) {
      DropoutMask::Chunk wanted[kAtOnce];
      int64_t starts[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) {
        wanted[i] = {row_ids[row], row_chunk};
        starts[i] = row * columns + row_chunk * 64;
        if (first + i + 1 < chunks && ++row_chunk == row_chunks) {
          row_chunk = 0;
          ++row;
        }
      }
      uint64_t keep[kAtOnce];
      mask.keep_bits(wanted, keep);
      for (int i = 0; i < std::min<int64_t>(kAtOnce, chunks - first); ++i) {
        const int64_t count = std::min<int64_t>(64, columns - wanted[i].chunk * 64);
        uint64_t bits = keep[i];
        for_lanes(starts[i], starts[i] + count, [&](int64_t at, auto lanes) HWY_ATTR {
          local(at, lanes, mask_from_bits(Floats(), bits));
          bits >>= kFloatLanes;
        });
      }
    }
  });
}

void dropout_forward(CpuStream, const DropoutForward<float>& args) {
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

void dropout_backward(CpuStream, const DropoutBackward<float>& args) {
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

void launch(CpuStream stream, const DropoutForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(dropout_forward)(stream, args);
}

void launch(CpuStream stream, const DropoutBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(dropout_backward)(stream, args);
}

}  // namespace itemloom
#endif
