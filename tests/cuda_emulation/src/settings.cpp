#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "internal.h"

namespace cuda_emulation {
namespace {

long long number_from_environment(const char* name, long long absent) {
  const char* text = std::getenv(name);
  if (!text || !*text) return absent;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (*end || value < 0) report("environment", std::string(name) + " is '" + text + "', which is not a number");
  return value;
}

std::optional<NcclError> nccl_error_from_environment() {
  const char* text = std::getenv("CUDA_EMULATION_NCCL_ERROR");
  if (!text || !*text) return {};
  NcclError error{};
  char end = 0;
  if (std::sscanf(text, "%d:%" SCNd64 "%c", &error.rank, &error.collective, &end) != 2) {
    report("environment", std::string("CUDA_EMULATION_NCCL_ERROR is '") + text + "', which is not RANK:COLLECTIVE");
  }
  return error;
}

Settings read_settings() {
  Settings result;
  result.check = number_from_environment("CUDA_EMULATION_CHECK", 0) != 0;
  result.seed = static_cast<uint64_t>(number_from_environment("CUDA_EMULATION_SEED", 1));
  result.host_protect = number_from_environment("CUDA_EMULATION_HOST_PROTECT", result.check ? 1 : 0) != 0;
  result.device_bytes = static_cast<size_t>(number_from_environment("CUDA_EMULATION_DEVICE_MB", 4096)) << 20;
  result.devices = static_cast<int>(number_from_environment("CUDA_EMULATION_DEVICES", 1));
  result.nccl_error = nccl_error_from_environment();
  if (const char* file = std::getenv("CUDA_EMULATION_COUNTERS")) result.counters = file;
  if (!result.counters.empty()) result.check = true;  // only the checks see every access
  return result;
}

}  // namespace

const Settings& settings() {
  static const Settings result = read_settings();
  return result;
}

}  // namespace cuda_emulation
