#include "host_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>

namespace host_test {
namespace {

constexpr const char* kWantedCase = "HOST_TEST_CASE";

// How a process ended and what it wrote to stderr.
struct Outcome {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string errors;
};

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

[[noreturn]] void start_again(int number, const Environment& environment) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  setenv(kWantedCase, std::to_string(number).c_str(), 1);
  execl("/proc/self/exe", "host_test", nullptr);
  fail(__FILE__, __LINE__, "cannot start the test again");
}

Outcome run_child(int number, const Environment& environment) {
  int ends[2];
  if (pipe(ends) != 0) fail(__FILE__, __LINE__, "no pipe");
  const pid_t child = fork();
  if (child < 0) fail(__FILE__, __LINE__, "no child");
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    start_again(number, environment);
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

// No outcome in a process that is on its way to its own case.
std::optional<Outcome> run_case(const Environment& environment, const Body& body) {
  static int number = 0;
  ++number;
  const char* wanted = std::getenv(kWantedCase);
  if (!wanted) return run_child(number, environment);
  if (std::atoi(wanted) != number) return std::nullopt;
  body();
  std::fflush(stdout);
  std::_Exit(0);
}

}  // namespace

void fail(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

void expect_success(const char* name, const Environment& environment, const Body& body) {
  const auto outcome = run_case(environment, body);
  if (!outcome) return;
  if (outcome->exit_code != 0) fail(__FILE__, __LINE__, std::string(name) + " ended with " + describe(*outcome));
  std::printf("ok: %s\n", name);
}

void expect_report(const char* name, const std::string& text, const Body& body, const Environment& environment) {
  const auto outcome = run_case(environment, body);
  if (!outcome) return;
  if (outcome->signal != SIGABRT || outcome->errors.find(text) == std::string::npos) {
    fail(__FILE__, __LINE__,
         std::string(name) + " should have been reported with '" + text + "' but ended with " + describe(*outcome));
  }
  std::printf("ok: %s is reported\n", name);
}

void expect_found(const char* name, const Body& body, Environment environment) {
  int found = 0, found_first = 0;
  for (int seed = 1; seed <= 10; ++seed) {
    environment["CUDA_EMULATION_SEED"] = std::to_string(seed);
    const auto outcome = run_case(environment, body);
    if (!outcome || outcome->exit_code == 0) continue;
    ++found;
    if (seed <= 3) ++found_first;
  }
  if (std::getenv(kWantedCase)) return;
  if (found_first == 0 || found < 2) {
    fail(__FILE__, __LINE__, std::string(name) + " was found by " + std::to_string(found) + " of 10 seeds");
  }
  std::printf("ok: %s is found by %d of 10 seeds, %d of the first three\n", name, found, found_first);
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
