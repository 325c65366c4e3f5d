// Kernel launches as objects made by nvcc ask for them.
#pragma once

namespace cuda_emulation {

// The mangled name of the kernel behind a host stub, nullptr for what is not a kernel.
const char* kernel_name_of_stub(const void* function);

}  // namespace cuda_emulation
