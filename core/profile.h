// Ranges that a profiler of GPUs (Nsight Systems) shows above the kernels; nothing in a build without CUDA.
#pragma once

#ifdef ITEMLOOM_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace itemloom {

// What the calling thread does during its life. Ranges of a thread nest.
class ProfileRange {
 public:
#ifdef ITEMLOOM_CUDA
  explicit ProfileRange(const char* name) {
    nvtxRangePushA(name);
  }
  ~ProfileRange() {
    nvtxRangePop();
  }
#else
  explicit ProfileRange(const char*) {}
#endif
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
};

}  // namespace itemloom
