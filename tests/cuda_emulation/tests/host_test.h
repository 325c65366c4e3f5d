// What the tests of the host side share: checks, and bodies that run in a process of their own, because the emulation
// reads its settings when a program starts and ends it when it finds something.
//
// Such a process is the same program again, told to run one body only: it passes by all others on its way through main.
// So main does nothing but call the functions below, always in the same order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace host_test {

[[noreturn]] void fail(const char* file, int line, const std::string& message);

using Environment = std::map<std::string, std::string>;
using Body = std::function<void()>;

// The body must end well.
void expect_success(const char* name, const Environment& environment, const Body& body);
// The emulation must report and abort; the report must hold the text.
void expect_report(const char* name, const std::string& text, const Body& body, const Environment& environment = {});
// The body, which plants a bug, must not end well for two seeds of 1 to 10 at least, and for one of 1 to 3, under
// which all tests are run.
void expect_found(const char* name, const Body& body, Environment environment = {});

// A float array in device memory and back, with nothing but API calls that wait.
float* upload(const std::vector<float>& values);
std::vector<float> download(const float* device, size_t count);

}  // namespace host_test

#define EXPECT(condition)                                                      \
  do {                                                                         \
    if (!(condition)) host_test::fail(__FILE__, __LINE__, "not: " #condition); \
  } while (false)

#define EXPECT_CUDA(call) EXPECT((call) == cudaSuccess)
