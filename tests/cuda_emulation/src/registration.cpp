// What objects made by nvcc expect at start-up: they register their kernels and variables. And the translated modules,
// which register themselves: the two meet by the kernels' mangled names.
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "check.h"
#include "engine.h"
#include "launch.h"

namespace cuda_emulation {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const ModuleInfo*> modules;
  std::map<std::string, std::pair<const KernelInfo*, const ModuleInfo*>> kernels;
  std::map<std::string, ModuleVariable*> variables;
  std::map<const void*, std::string> stubs;    // host function -> kernel
  std::map<const void*, std::string> symbols;  // host shadow variable -> device variable
  size_t loaded_modules = 0;
};

Registry& registry() {
  static Registry& all = *new Registry;
  return all;
}

}  // namespace

ModuleRegistration::ModuleRegistration(const ModuleInfo& module) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.modules.push_back(&module);
  for (uint32_t k = 0; k < module.kernel_count; ++k) {
    all.kernels[module.kernels[k].name] = {&module.kernels[k], &module};
  }
  for (uint32_t k = 0; k < module.variable_count; ++k) {
    all.variables[module.variables[k].name] = &module.variables[k];
  }
}

bool find_kernel(const char* name, const KernelInfo** kernel, const ModuleInfo** module) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.kernels.find(name);
  if (found == all.kernels.end()) return false;
  *kernel = found->second.first;
  *module = found->second.second;
  return true;
}

void load_variables() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (; all.loaded_modules < all.modules.size(); ++all.loaded_modules) {
    const ModuleInfo& module = *all.modules[all.loaded_modules];
    for (uint32_t k = 0; k < module.variable_count; ++k) {
      ModuleVariable& variable = module.variables[k];
      variable.address = static_cast<unsigned char*>(device_allocate(variable.bytes));
      if (!variable.address) report("internal", "no device memory for variable " + std::string(variable.name));
      const DeviceAccess access;
      std::memset(variable.address, 0, variable.bytes);
      if (variable.initial) std::memcpy(variable.address, variable.initial, variable.initial_bytes);
      mark_initialised(variable.address, variable.bytes);
    }
  }
}

void* symbol_address(const void* symbol, size_t* bytes) {
  load_variables();
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto name = all.symbols.find(symbol);
  if (name == all.symbols.end()) return nullptr;
  const auto variable = all.variables.find(name->second);
  if (variable == all.variables.end()) {
    report("variable", "'" + name->second + "' is in no translated file that is linked, or no kernel there uses it");
  }
  *bytes = variable->second->bytes;
  return variable->second->address;
}

const char* kernel_name_of_stub(const void* function) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.stubs.find(function);
  return found == all.stubs.end() ? nullptr : found->second.c_str();
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

void** __cudaRegisterFatBinary(void* image) {
  return static_cast<void**>(image);
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) {
  return 1;
}

void __cudaRegisterFunction(void**, const char* stub, char*, const char* kernel, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  const std::lock_guard lock(registry().mutex);
  registry().stubs[stub] = kernel;
}

void __cudaRegisterVar(void**, char* shadow, char*, const char* name, int, size_t, int, int) {
  const std::lock_guard lock(registry().mutex);
  registry().symbols[shadow] = name;
}

}  // extern "C"
