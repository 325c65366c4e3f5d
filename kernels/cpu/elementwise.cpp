#include "kernels/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

void fill(CpuStream, const Fill& args) {
  parallel_lanes(args.y.size(), [value = args.value, y = args.y.data()](int64_t i, auto lanes)
                                    HWY_ATTR { lanes.store(hn::Set(Floats(), value), y + i); });
}

void add_scaled(CpuStream, const AddScaled& args) {
  parallel_lanes(args.y.size(),
                 [scale = args.scale, x = args.x.data(), y = args.y.data()](int64_t i, auto lanes) HWY_ATTR {
                   lanes.store(hn::MulAdd(lanes.load(x + i), hn::Set(Floats(), scale), lanes.load(y + i)), y + i);
                 });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(fill);
HWY_EXPORT(add_scaled);

void launch(CpuStream stream, const Fill& args) {
  HWY_DYNAMIC_DISPATCH(fill)(stream, args);
}

void launch(CpuStream stream, const AddScaled& args) {
  HWY_DYNAMIC_DISPATCH(add_scaled)(stream, args);
}

}  // namespace itemloom
#endif
