// Runs a test body once for each instruction set that the kernels are compiled for and this processor has.
#pragma once

#include <hwy/highway.h>

namespace itemloom::test {

template <class Body>
void on_every_cpu_path(Body body) {
  body();
  if (hwy::SupportedTargets() & HWY_AVX3) {
    struct Lower {
      Lower() { hwy::DisableTargets(HWY_AVX3); }
      ~Lower() { hwy::DisableTargets(0); }
    } lower;
    body();
  }
}

}  // namespace itemloom::test
