#define CATCH_CONFIG_RUNNER
#include "core/device.h"
#include "tests/support/catch.h"

int main(int argc, char** argv) {
  itemloom::select_cpu_kernels();
  return Catch::Session().run(argc, argv);
}
