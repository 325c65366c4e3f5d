// What the tests of the host side share: checks, and bodies that run in a process of their own, because the emulation
// reads its settings once and ends the process when it finds something.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace host_test {

[[noreturn]] void fail(const char* file, int line, const std::string& message);

// How a process ended and what it wrote to stderr.
struct Outcome {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string errors;
};

using Environment = std::map<std::string, std::string>;

// Runs the body in a child of this process, which must not have used the emulation itself.
Outcome run_in_child(const Environment& environment, const std::function<void()>& body);

// The body must end well.
void expect_success(const char* name, const Environment& environment, const std::function<void()>& body);
// The emulation must report and abort; the report must hold the text.
void expect_report(const char* name, const std::string& text, const std::function<void()>& body,
                   const Environment& environment = {});
// Seeds of 1 to 10 for which the body, which plants a bug, does not end well.
int seeds_that_find(const std::function<void()>& body, Environment environment = {});

// A float array in device memory and back, with nothing but API calls that wait.
float* upload(const std::vector<float>& values);
std::vector<float> download(const float* device, size_t count);

}  // namespace host_test

#define EXPECT(condition)                                                      \
  do {                                                                         \
    if (!(condition)) host_test::fail(__FILE__, __LINE__, "not: " #condition); \
  } while (false)

#define EXPECT_CUDA(call) EXPECT((call) == cudaSuccess)
