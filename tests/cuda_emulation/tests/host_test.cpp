#include "host_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace host_test {
namespace {

std::string read_all(int descriptor) {
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t bytes = read(descriptor, buffer, sizeof buffer);
    if (bytes <= 0) return text;
    text.append(buffer, static_cast<size_t>(bytes));
  }
}

std::string describe(const Outcome& outcome) {
  const std::string end = outcome.signal != 0 ? "signal " + std::to_string(outcome.signal)
                                              : "exit code " + std::to_string(outcome.exit_code);
  return end + "\n" + outcome.errors;
}

}  // namespace

void fail(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

Outcome run_in_child(const Environment& environment, const std::function<void()>& body) {
  int ends[2];
  if (pipe(ends) != 0) fail(__FILE__, __LINE__, "no pipe");
  const pid_t child = fork();
  if (child < 0) fail(__FILE__, __LINE__, "no child");
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    body();
    std::fflush(stderr);
    std::_Exit(0);
  }
  close(ends[1]);
  Outcome outcome;
  outcome.errors = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  return outcome;
}

void expect_success(const char* name, const Environment& environment, const std::function<void()>& body) {
  const Outcome outcome = run_in_child(environment, body);
  if (outcome.exit_code != 0) fail(__FILE__, __LINE__, std::string(name) + " ended with " + describe(outcome));
  std::printf("ok: %s\n", name);
}

void expect_report(const char* name, const std::string& text, const std::function<void()>& body,
                   const Environment& environment) {
  const Outcome outcome = run_in_child(environment, body);
  if (outcome.signal != SIGABRT || outcome.errors.find(text) == std::string::npos) {
    fail(__FILE__, __LINE__,
         std::string(name) + " should have been reported with '" + text + "' but ended with " + describe(outcome));
  }
  std::printf("ok: %s is reported\n", name);
}

int seeds_that_find(const std::function<void()>& body, Environment environment) {
  int found = 0;
  for (int seed = 1; seed <= 10; ++seed) {
    environment["CUDA_EMULATION_SEED"] = std::to_string(seed);
    if (run_in_child(environment, body).exit_code != 0) ++found;
  }
  return found;
}

float* upload(const std::vector<float>& values) {
  void* device = nullptr;
  EXPECT_CUDA(cudaMalloc(&device, values.size() * sizeof(float)));
  EXPECT_CUDA(cudaMemcpy(device, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaDeviceSynchronize());
  return static_cast<float*>(device);
}

std::vector<float> download(const float* device, size_t count) {
  std::vector<float> values(count);
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_CUDA(cudaMemcpy(values.data(), device, count * sizeof(float), cudaMemcpyDeviceToHost));
  return values;
}

}  // namespace host_test
