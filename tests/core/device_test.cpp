#include "core/device.h"

#include "tests/support/catch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/core/device_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

int64_t lanes_in_use() {
  return static_cast<int64_t>(hwy::HWY_NAMESPACE::Lanes(hwy::HWY_NAMESPACE::ScalableTag<float>()));
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <numeric>
#include <vector>

#include "tests/support/devices.h"

namespace itemloom {

HWY_EXPORT(lanes_in_use);

TEST_CASE("the instruction set that is named is the one that runs, also after it was forced", "[device]") {
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == (cpu_kernels() == "avx512" ? 16 : 8));
  hwy::DisableTargets(HWY_AVX3);
  REQUIRE(cpu_kernels() == "avx2");
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == 8);
  hwy::DisableTargets(0);
  select_cpu_kernels();
  REQUIRE(HWY_DYNAMIC_DISPATCH(lanes_in_use)() == (cpu_kernels() == "avx512" ? 16 : 8));
}

TEST_CASE("memory of a device is zeroed when taken, copied both ways and zeroed again", "[device]") {
  test::on_every_device([](Device& device) {
    for (int64_t count : {0, 1, 3, 1000, 70001}) {
      CAPTURE(count, device.kind());
      DeviceBlock block = device.allocate(count * 4), other = device.allocate(count * 4);
      REQUIRE(block.bytes() == count * 4);
      int32_t* first = reinterpret_cast<int32_t*>(block.data());
      int32_t* second = reinterpret_cast<int32_t*>(other.data());
      std::vector<int32_t> sent(static_cast<size_t>(count)), got(sent.size(), 7);
      device.copy_to_host(first, got.data(), count);
      REQUIRE(got == sent);
      std::iota(sent.begin(), sent.end(), 1);
      device.copy_from_host(sent.data(), first, count);
      device.copy_within(first, second, count);
      device.copy_to_host(second, got.data(), count);
      REQUIRE(got == sent);
      // All but the first element.
      if (count > 0) device.zero(second + 1, (count - 1) * 4);
      device.copy_to_host(second, got.data(), count);
      std::fill(sent.begin() + (count > 0), sent.end(), 0);
      REQUIRE(got == sent);
      device.synchronize();
    }
  });
}

TEST_CASE("what the host has sent may be changed at once, however much it is", "[device]") {
  test::on_every_device([](Device& device) {
    // More than any memory that it may pass through, in pieces that fit nowhere.
    constexpr int64_t kCount = 1000003;
    constexpr int32_t kPieces = 5;
    DeviceBlock block = device.allocate(kPieces * kCount * 4);
    const Vector<int32_t> all = block.as<int32_t>(kPieces * kCount);
    std::vector<int32_t> sent(kCount);
    for (int32_t piece = 0; piece < kPieces; ++piece) {
      std::iota(sent.begin(), sent.end(), piece << 24);
      device.copy_from_host(sent.data(), all.data() + piece * kCount, kCount);
    }
    std::fill(sent.begin(), sent.end(), -1);
    std::vector<int32_t> got(kCount), expected(kCount);
    for (int32_t piece = 0; piece < kPieces; ++piece) {
      std::iota(expected.begin(), expected.end(), piece << 24);
      device.copy_to_host(all.data() + piece * kCount, got.data(), kCount);
      REQUIRE(got == expected);
    }
  });
}

TEST_CASE("pieces that are sent as one lie behind each other, each at a multiple of the alignment", "[device]") {
  test::on_every_device([](Device& device) {
    // The last ones fit together into nothing that they may pass through.
    for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
             {0}, {3, 0, 16, 17}, {100, 1, 0}, {900000, 5, 140000}, {500000, 3}, {500000, 4, 600000, 600000}}) {
      std::vector<std::vector<int32_t>> sent;
      std::vector<cuda_backend::HostPiece> pieces;
      int64_t bytes = 0;
      for (const int64_t count : counts) {
        sent.emplace_back(static_cast<size_t>(count));
        std::iota(sent.back().begin(), sent.back().end(), static_cast<int32_t>(sent.size()) << 24);
        bytes += round_up(count * 4, kAlignment);
      }
      for (const auto& piece : sent) pieces.push_back({piece.data(), static_cast<int64_t>(piece.size()) * 4});
      const DeviceBlock block = device.allocate(bytes);
      device.gather_from_host(pieces, block.data());
      const std::vector<std::vector<int32_t>> expected = sent;
      for (auto& piece : sent) std::fill(piece.begin(), piece.end(), -1);
      const std::byte* place = block.data();
      for (const auto& piece : expected) {
        std::vector<int32_t> got(piece.size());
        device.copy_to_host(reinterpret_cast<const int32_t*>(place), got.data(), static_cast<int64_t>(got.size()));
        REQUIRE(got == piece);
        place += round_up(static_cast<int64_t>(piece.size()) * 4, kAlignment);
      }
    }
  });
}

TEST_CASE("what is copied to pinned memory is there at a mark behind it", "[device]") {
  test::on_every_device([](Device& device) {
    DeviceBlock block = device.allocate(8);
    PinnedBlock pinned(device.kind(), 8);
    DeviceMark begin(device), end(device);
    for (const int32_t value : {1, 2, 3}) {
      begin.set();
      device.copy_from_host(&value, block.as<int32_t>(2).data() + 1, 1);
      device.copy_to_pinned(block.as<int32_t>(2).data(), pinned.as<int32_t>(), 2);
      end.set();
      end.wait();
      REQUIRE(pinned.as<int32_t>()[0] == 0);
      REQUIRE(pinned.as<int32_t>()[1] == value);
      REQUIRE(end.seconds_since(begin) >= 0);
    }
  });
}

TEST_CASE("pinned memory is given back after what was still to be copied there", "[device]") {
  test::on_every_device([](Device& device) {
    const DeviceBlock block = device.allocate(8);
    {
      PinnedBlock pinned(device.kind(), 8);
      device.copy_to_pinned(block.as<int32_t>(2).data(), pinned.as<int32_t>(), 2);
    }
    device.synchronize();
  });
}

TEST_CASE("blocks of a device move, and what they held is given back once", "[device]") {
  test::on_every_device([](Device& device) {
    DeviceBlock block = device.allocate(64);
    std::byte* data = block.data();
    DeviceBlock moved = std::move(block);
    REQUIRE(moved.data() == data);
    moved = device.allocate(128);
    REQUIRE(moved.bytes() == 128);
    REQUIRE(DeviceBlock().data() == nullptr);
  });
}

#ifdef ITEMLOOM_CUDA
// With one GPU alone any rank takes it, which a launcher may have chosen for it.
TEST_CASE("a GPU that is not there is refused by its number", "[device][gpus]") {
  REQUIRE_THROWS_WITH(Device(DeviceKind::kCuda, 1000),
                      Catch::Contains("this rank is number 1000 of its host and wants a GPU of its own") &&
                          Catch::Contains("start at most one rank a GPU"));
}
#else
TEST_CASE("a build without CUDA refuses a GPU and says how to get one", "[device]") {
  REQUIRE_THROWS_WITH(Device(DeviceKind::kCuda),
                      "device is cuda, but this program was built without CUDA; take device cpu, or build it with "
                      "scripts/build.sh cuda");
  REQUIRE(cuda_backend::describe() == "not built");
}
#endif

}  // namespace itemloom
#endif
