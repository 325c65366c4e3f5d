#include "kernels/elementwise.h"

#include "tests/support/cpu_paths.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

TEST_CASE("fill and add touch every element once and nothing else", "[elementwise]") {
  test::on_every_cpu_path([] {
    Device device;
    for (int threads : {1, 3}) {
      test::Threads scope(threads);
      for (int64_t count : {0, 1, 3, 15, 16, 17, 31, 33, 65, 16384, 50001}) {
        Guarded<float> x(count, 1), y(count, 3), filled(count, 1);
        test::fill_random(x, 1);
        test::fill_random(y, 2);
        const std::vector<float> before = y.copy(), x_before = x.copy();
        run(device, Fill{.value = -2.5f, .y = filled.vector()});
        run(device, AddScaled{.scale = 0.3f, .x = x.vector(), .y = y.vector()});
        for (int64_t i = 0; i < count; ++i) {
          REQUIRE(filled[i] == -2.5f);
          REQUIRE(y[i] == static_cast<float>(double{before[i]} + double{0.3f} * x[i]));
        }
        REQUIRE(test::same_bits(x_before, x.copy()));
        for (const Guarded<float>* buffer : {&x, &y, &filled}) REQUIRE(buffer->intact());
      }
    }
  });
}

}  // namespace itemloom
