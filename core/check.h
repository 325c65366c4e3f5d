// Errors as exceptions that carry values.
//
// CHECK(cond, "heads ", heads, " do not divide hidden size ", hidden) throws itemloom::Error with the message's parts
// joined. The message is what a user reads as one line, so it names the file, line, key or id and what to do about it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace itemloom {

// What a user can act on: wrong input, a full disk, an unreadable file. main prints what() as one line and exits
// with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string join_message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(join_message(parts...));
}

// Says an error in one line on standard error, whatever it was made of.
void report_error(std::string message);

}  // namespace itemloom

#define CHECK(condition, ...)        \
  do {                               \
    if (!(condition)) [[unlikely]]   \
      ::itemloom::fail(__VA_ARGS__); \
  } while (false)
