#include "core/device.h"

#include "tests/support/catch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/core/device_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

int64_t lanes_in_use() {
  return static_cast<int64_t>(hwy::HWY_NAMESPACE::Lanes(hwy::HWY_NAMESPACE::ScalableTag<float>()));
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(lanes_in_use);

TEST_CASE("the instruction set that is named is the one that runs, also after it was forced", "[device]") {
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == (cpu_kernels() == "avx512" ? 16 : 8));
  hwy::DisableTargets(HWY_AVX3);
  REQUIRE(cpu_kernels() == "avx2");
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == 8);
  hwy::DisableTargets(0);
  select_cpu_kernels();
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == (cpu_kernels() == "avx512" ? 16 : 8));
}

}  // namespace itemloom
#endif
