#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "core/device.h"

int main(int argc, char** argv) {
  itemloom::select_cpu_kernels();
  return Catch::Session().run(argc, argv);
}
