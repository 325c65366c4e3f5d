// Tables that a translated PTX file hands to the engine: its kernels, variables, shared memory and source lines.
#pragma once

#include <cstdint>

namespace cuda_emulation {

struct ThreadContext;

// A place in the sources. `outer_*` is the line into which the place was inlined, itself when it was not.
struct SourceLine {
  const char* file;
  uint32_t line;
  const char* outer_file;
  uint32_t outer_line;
};

// A __device__ or __constant__ variable. `initial` holds its first bytes; the rest is zero.
struct ModuleVariable {
  const char* name;
  uint64_t bytes;
  uint32_t align;
  const unsigned char* initial;
  uint64_t initial_bytes;
  unsigned char* address;  // in emulated device memory, once the module is loaded
};

// A static shared variable and its offset in the window of shared memory.
struct SharedVariable {
  const char* name;
  uint32_t offset;
  uint32_t bytes;
};

struct ParameterSlot {
  uint32_t offset;
  uint32_t bytes;
};

struct KernelInfo {
  const char* name;
  void (*run)(ThreadContext&, const unsigned char* parameters);
  const ParameterSlot* parameters;
  uint32_t parameter_count;
  const uint32_t* shared;  // indices of the shared variables that it may use
  uint32_t shared_count;
  uint32_t static_shared_bytes;  // as nvcc lays them out, without red zones
  uint32_t dynamic_align;
  uint32_t maximum_threads;  // of __launch_bounds__, 0 when there are none
  uint32_t local_bytes;
  bool waits_for_blocks;  // it polls global memory, so blocks start in order
};

struct ModuleInfo {
  const char* name;
  const KernelInfo* kernels;
  uint32_t kernel_count;
  ModuleVariable* variables;
  uint32_t variable_count;
  const SharedVariable* shared;
  uint32_t shared_count;
  uint32_t shared_end;
  const SourceLine* lines;
  uint32_t line_count;
};

// A translated file makes one of these, so that its kernels are known before main runs.
class ModuleRegistration {
 public:
  explicit ModuleRegistration(const ModuleInfo& module);
};

// The kernel with this (mangled) name and its module; false when no translated file has it.
bool find_kernel(const char* name, const KernelInfo** kernel, const ModuleInfo** module);
// Gives the variables of all modules their memory, once.
void load_variables();

}  // namespace cuda_emulation
