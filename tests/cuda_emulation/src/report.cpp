#include "report.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>

#include "engine.h"

namespace cuda_emulation {
namespace {

std::string triple(uint32_t x, uint32_t y, uint32_t z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

// Not from settings(): those may be what is reported about.
std::string seed_text() {
  const char* const text = std::getenv("CUDA_EMULATION_SEED");
  return text && *text ? text : "1";
}

std::string where() {
  const Engine& now = engine;
  if (!now.launch) return "";
  std::string text = "  kernel " + demangle(now.launch->kernel->name) + "\n";
  const uint32_t* const block = now.block.index;
  text += "  block " + triple(block[0], block[1], block[2]);
  if (now.current) {
    text += ", thread " + describe_thread(*now.current);
    text += "\n  at " + describe_line(now.current->here);
  }
  return text + "\n";
}

}  // namespace

std::string describe_line(const SourceLine* line) {
  if (!line) return "an unknown line";
  std::string text = std::string(line->file) + ":" + std::to_string(line->line);
  if (line->outer_line != line->line || std::string(line->outer_file) != line->file) {
    text += " (inlined at " + std::string(line->outer_file) + ":" + std::to_string(line->outer_line) + ")";
  }
  return text;
}

std::string describe_thread(const ThreadContext& thread) {
  return triple(thread.index[0], thread.index[1], thread.index[2]);
}

std::string describe_thread_number(uint32_t number) {
  return describe_thread(engine.threads[number]);
}

std::string describe_mask(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string demangle(const char* name) {
  int status = 0;
  char* const readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  const std::string result = status == 0 ? readable : name;
  std::free(readable);
  return result;
}

void report(const char* kind, const std::string& message) {
  std::fflush(stdout);
  const std::string text = "CUDA emulation: " + std::string(kind) + ": " + message + "\n" +
                           (inside_launch() ? where() : "") + "  repeat with CUDA_EMULATION_SEED=" + seed_text() + "\n";
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}

}  // namespace cuda_emulation
