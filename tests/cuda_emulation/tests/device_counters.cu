// The counters of a transposition: with a padded tile neither side conflicts, without padding the columns do, and a
// strided load of device memory touches a sector per lane. The test reads the file that it asked for.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "on_device.h"

namespace counter_test {

constexpr int kTile = 32;

template <int kPadding>
__global__ void transpose(const float* in, float* out) {
  __shared__ float tile[kTile][kTile + kPadding];
  tile[threadIdx.y][threadIdx.x] = in[threadIdx.y * kTile + threadIdx.x];
  __syncthreads();
  out[threadIdx.y * kTile + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

__global__ void strided(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x * 8];
}

}  // namespace counter_test

namespace {

void run_kernels() {
  OnDevice<float> in(std::vector<float>(counter_test::kTile * counter_test::kTile, 1.0f)), out(in.values());
  const dim3 block(counter_test::kTile, counter_test::kTile);
  counter_test::transpose<0><<<1, block>>>(in.data(), out.data());
  counter_test::transpose<1><<<1, block>>>(in.data(), out.data());
  counter_test::strided<<<1, 32>>>(in.data(), out.data());
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

// The line of the file that belongs to a kernel and holds `words`.
std::string line_of(const std::string& text, const std::string& kernel, const std::string& words) {
  size_t at = text.find(kernel);
  REQUIRE(at != std::string::npos);
  at = text.find(words, at);
  REQUIRE(at != std::string::npos);
  return text.substr(at, text.find('\n', at) - at);
}

void require_line(const std::string& text, const std::string& kernel, const std::string& words,
                  const std::string& counts) {
  const std::string line = line_of(text, kernel, words);
  if (line.find(counts) == std::string::npos) std::fprintf(stderr, "%s: %s\n", kernel.c_str(), line.c_str());
  REQUIRE(line.find(counts) != std::string::npos);
}

}  // namespace

int main(int count, char**) {
  if (count > 1) {
    run_kernels();
    return 0;
  }
  // Of this process alone: the same test runs beside it under other seeds.
  const std::string process = std::to_string(getpid()), file = "device_counters_" + process + ".json";
  REQUIRE(std::system(("CUDA_EMULATION_COUNTERS=" + file + " /proc/" + process + "/exe run").c_str()) == 0);
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  std::remove(file.c_str());
  const std::string shared_load = "\"space\": \"shared\", \"access\": \"load\"";
  require_line(text.str(), "transpose<0>", shared_load, "\"requests\": 32, \"bank_cycles\": 1024, \"ideal\": 32");
  require_line(text.str(), "transpose<1>", shared_load, "\"requests\": 32, \"bank_cycles\": 32, \"ideal\": 32");
  const std::string device_load = "\"space\": \"device\", \"access\": \"load\"";
  require_line(text.str(), "transpose<1>", device_load, "\"requests\": 32, \"sectors\": 128, \"ideal\": 128");
  require_line(text.str(), "strided", device_load, "\"requests\": 1, \"sectors\": 32, \"ideal\": 4");
  std::puts("ok");
}
