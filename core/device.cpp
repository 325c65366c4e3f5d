#include "core/device.h"

#include <hwy/highway.h>

#include <cstdlib>
#include <string>

#include "core/check.h"

namespace itemloom {
namespace {

// hwy::SupportedTargets() points the dispatch at everything the processor has, even what was disabled: point it back.
int64_t supported_targets() {
  const int64_t targets = hwy::SupportedTargets();
  hwy::GetChosenTarget().Update(targets);
  return targets;
}

}  // namespace

void select_cpu_kernels() {
  CHECK(supported_targets() & HWY_AVX2,
        "this processor has no AVX2 and FMA; itemloom needs an x86-64 processor of 2013 or later");
  const char* forced = std::getenv("ITEMLOOM_CPU");
  if (!forced || !*forced) return;
  const std::string name = forced;
  CHECK(name == "avx2" || name == "avx512", "ITEMLOOM_CPU is '", name, "'; it can be avx2 or avx512");
  if (name == "avx512") {
    CHECK(supported_targets() & HWY_AVX3, "ITEMLOOM_CPU asks for avx512, which this processor does not have");
  } else {
    hwy::DisableTargets(HWY_AVX3);
  }
}

std::string cpu_kernels() {
  return supported_targets() & HWY_AVX3 ? "avx512" : "avx2";
}

}  // namespace itemloom
