#include "device_library.h"

#include <cstdio>
#include <cstring>
#include <string>

#include "access.h"
#include "engine.h"

namespace cuda_emulation {
namespace {

const char* text_at(const unsigned char* parameter) {
  return reinterpret_cast<const char*>(load<uint64_t>(parameter));
}

// Reads the arguments of printf from the buffer that nvcc lays out: each aligned to its size.
class Arguments {
 public:
  explicit Arguments(const unsigned char* buffer) : buffer_(buffer) {}
  template <class T>
  T next() {
    offset_ = (offset_ + sizeof(T) - 1) / sizeof(T) * sizeof(T);
    const T value = load<T>(buffer_ + offset_);
    offset_ += sizeof(T);
    return value;
  }

 private:
  const unsigned char* buffer_;
  size_t offset_ = 0;
};

std::string formatted(const std::string& conversion, Arguments& arguments) {
  char text[512];
  const char last = conversion.back();
  if (std::strchr("eEfFgGaA", last)) {
    std::snprintf(text, sizeof text, conversion.c_str(), arguments.next<double>());
  } else if (last == 's') {
    std::snprintf(text, sizeof text, conversion.c_str(), reinterpret_cast<const char*>(arguments.next<uint64_t>()));
  } else if (last == 'p' || conversion.find_first_of("lzjt") != std::string::npos) {
    std::snprintf(text, sizeof text, conversion.c_str(), arguments.next<uint64_t>());
  } else {
    std::snprintf(text, sizeof text, conversion.c_str(), arguments.next<uint32_t>());
  }
  return text;
}

}  // namespace

uint32_t device_printf(const unsigned char* format, const unsigned char* arguments) {
  const char* text = text_at(format);
  Arguments values(reinterpret_cast<const unsigned char*>(load<uint64_t>(arguments)));
  std::string out;
  while (*text) {
    if (*text != '%') {
      out += *text++;
      continue;
    }
    const char* const begin = text++;
    while (*text && !std::strchr("diouxXcsfFeEgGaAp%", *text)) ++text;
    if (!*text) break;
    ++text;
    out += text[-1] == '%' ? "%" : formatted(std::string(begin, text), values);
  }
  std::fputs(out.c_str(), stdout);
  return 0;
}

void device_assert_failed(ThreadContext&, const unsigned char* message, const unsigned char* file,
                          const unsigned char* line, const unsigned char* function) {
  report("assertion", std::string(text_at(message)) + " in " + text_at(function) + " (" + text_at(file) + ":" +
                          std::to_string(load<uint32_t>(line)) + ")");
}

void device_trap(ThreadContext&) {
  report("trap", "the kernel stopped itself");
}

void bad_branch_index(ThreadContext&) {
  report("trap", "an indexed branch goes beyond its list");
}

void exit_thread(ThreadContext& thread) {
  copy_async_commit(thread);
  copy_async_wait(thread, 0);  // copies that nobody waits for still land
  engine.exit(thread);
}

uint64_t device_clock() {
  static uint64_t now = 0;
  return now += 7;
}

}  // namespace cuda_emulation
