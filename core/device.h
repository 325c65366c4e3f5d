// Where kernels run. A kernel is an argument struct plus one launch() overload per backend; call sites say
// run(device, LayerNormForward{...}) and never name a backend.
#pragma once

#include <string>

#include "core/memory.h"

namespace itemloom {

// What a CPU kernel gets beside its arguments: working memory for the length of one launch.
struct CpuStream {
  Scratch* scratch;
};

// The device a run works on. One object a process (or, in tests, a thread that acts as a rank).
class Device {
 public:
  CpuStream cpu_stream() { return CpuStream{&scratch_}; }

 private:
  Scratch scratch_;
};

// The one dispatch from a device to a backend's launch().
template <class Arguments>
void run(Device& device, const Arguments& arguments) {
  launch(device.cpu_stream(), arguments);
}

// Checks that this processor can run the kernels (AVX2 and FMA at least) and applies ITEMLOOM_CPU, which may force the
// lower path (ITEMLOOM_CPU=avx2). Throws Error with one clear line otherwise. Call once, before any kernel.
void select_cpu_kernels();

// The instruction set in use: "avx2" or "avx512".
std::string cpu_kernels();

}  // namespace itemloom
