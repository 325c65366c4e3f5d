#include "core/check.h"

#include <algorithm>
#include <cstdio>

namespace itemloom {

void report_error(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "itemloom: %s\n", message.c_str());
}

}  // namespace itemloom
