// A vector in device memory, for the emulation's own tests.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "require.h"

template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    REQUIRE_CUDA(cudaMalloc(&data_, (count_ + 1) * sizeof(T)));
    REQUIRE_CUDA(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  explicit OnDevice(size_t zeros) : OnDevice(std::vector<T>(zeros)) {}
  ~OnDevice() { (void)cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    REQUIRE_CUDA(cudaGetLastError());
    REQUIRE_CUDA(cudaMemcpy(result.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};
