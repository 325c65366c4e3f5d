#include "launch.h"

#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "engine.h"
#include "report.h"

namespace cuda_emulation {
namespace {

constexpr uint32_t kParameterBytes = 32764;  // since sm_70 and CUDA 12.1

struct Configuration {
  dim3 grid, block;
  size_t dynamic_shared;
  cudaStream_t stream;
};

// <<<...>>> pushes the configuration, and the stub that nvcc made pops it.
thread_local std::vector<Configuration> configurations;

// The kernel behind a stub; a stub whose PTX was not translated and linked is an error of the build.
bool find_stub(const void* function, const KernelInfo** kernel, const ModuleInfo** module) {
  const char* const name = kernel_name_of_stub(function);
  if (!name) return false;
  if (!find_kernel(name, kernel, module)) {
    report("link", "no translated PTX is linked for kernel " + demangle(name) +
                       "; pass its .cu to cuda_emulation_translate and link what comes out");
  }
  return true;
}

cudaError_t validate(const Configuration& configuration, const KernelInfo& kernel, const void* function) {
  const dim3 grid = configuration.grid, block = configuration.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaximumThreads || block.x > 1024 || block.y > 1024 || block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (uint64_t{grid.x} * grid.y * grid.z > 0xffffffffu) {
    report("launch", "a grid of more than 2^32 blocks is not emulated");
  }
  // A launch that breaks __launch_bounds__ asks for more registers than there are.
  if (kernel.maximum_threads != 0 && threads > kernel.maximum_threads) return cudaErrorLaunchOutOfResources;
  if (configuration.dynamic_shared > dynamic_shared_limit(function)) return cudaErrorInvalidValue;
  if (configuration.dynamic_shared + kernel.static_shared_bytes > (size_t{227} << 10)) return cudaErrorInvalidValue;
  return cudaSuccess;
}

Launch make_launch(const Configuration& configuration, const KernelInfo& kernel, const ModuleInfo& module,
                   void** arguments) {
  Launch launch{
      &kernel, &module, configuration.grid, configuration.block, static_cast<uint32_t>(configuration.dynamic_shared),
      nullptr, 0};
  for (uint32_t k = 0; k < kernel.parameter_count; ++k) {
    launch.parameter_bytes = kernel.parameters[k].offset + kernel.parameters[k].bytes;
  }
  if (launch.parameter_bytes > kParameterBytes) {
    report("launch", "the parameters of " + demangle(kernel.name) + " are larger than the device takes");
  }
  launch.parameters = std::shared_ptr<unsigned char[]>(new unsigned char[launch.parameter_bytes + 64]());
  for (uint32_t k = 0; k < kernel.parameter_count; ++k) {
    std::memcpy(launch.parameters.get() + kernel.parameters[k].offset, arguments[k], kernel.parameters[k].bytes);
  }
  return launch;
}

cudaError_t launch_stub(const void* function, const Configuration& configuration, void** arguments) {
  const KernelInfo* kernel = nullptr;
  const ModuleInfo* module = nullptr;
  if (!find_stub(function, &kernel, &module)) return remember_error(cudaErrorInvalidDeviceFunction);
  const cudaError_t error = validate(configuration, *kernel, function);
  if (error != cudaSuccess) return remember_error(error);
  load_variables();  // here, where no lock of the host side is held
  Launch launch = make_launch(configuration, *kernel, *module, arguments);
  return enqueue(configuration.stream, kernel->name, [launch = std::move(launch)] { run_launch(launch); });
}

bool is_plain(const cudaLaunchConfig_t& config) {
  for (unsigned k = 0; k < config.numAttrs; ++k) {
    const cudaLaunchAttributeID id = config.attrs[k].id;
    // Programmatic serialisation only allows more overlap than these streams have.
    if (id != cudaLaunchAttributeIgnore && id != cudaLaunchAttributeProgrammaticStreamSerialization) {
      return false;
    }
  }
  return true;
}

}  // namespace

const KernelFacts* kernel_facts(const void* function) {
  static std::mutex mutex;
  static std::map<const void*, KernelFacts>& known = *new std::map<const void*, KernelFacts>;
  const KernelInfo* kernel = nullptr;
  const ModuleInfo* module = nullptr;
  if (!find_stub(function, &kernel, &module)) return nullptr;
  const std::lock_guard lock(mutex);
  const int threads = kernel->maximum_threads != 0 ? static_cast<int>(kernel->maximum_threads) : 1024;
  return &known.try_emplace(function, KernelFacts{kernel->name, kernel->static_shared_bytes, threads}).first->second;
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_shared, cudaStream_t stream) {
  configurations.push_back({grid, block, dynamic_shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic_shared, void* stream) {
  if (configurations.empty()) report("launch", "a kernel's stub was called without <<<...>>>");
  const Configuration configuration = configurations.back();
  configurations.pop_back();
  *grid = configuration.grid;
  *block = configuration.block;
  *dynamic_shared = configuration.dynamic_shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t dynamic_shared,
                             cudaStream_t stream) {
  return launch_stub(function, {grid, block, dynamic_shared, stream}, arguments);
}

// A kernel handle is the stub's address here.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t dynamic_shared,
                               cudaStream_t stream) {
  return launch_stub(kernel, {grid, block, dynamic_shared, stream}, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  if (!is_plain(*config)) {
    report("launch", "clusters, cooperative launches and other launch attributes are not emulated");
  }
  return launch_stub(function, {config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream},
                     arguments);
}

}  // extern "C"
