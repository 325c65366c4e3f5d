#include <algorithm>
#include <cstdint>

#include "core/memory.h"
#include "core/parallel.h"
#include "scripts/bench/bench.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "scripts/bench/probe.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace itemloom::bench {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;

// More chains than latency times throughput of any x86-64 processor with AVX2 asks for (8 to 10).
constexpr int kChains = 12;
constexpr int64_t kStepsPerTask = 20000;

// FLOPs of one task; `sink` keeps the compiler from dropping the work.
double fma_task(float* sink) {
  const Floats d;
  const auto scale = hn::Set(d, 0.999f), shift = hn::Set(d, 0.001f);
  hn::Vec<Floats> chains[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = hn::Set(d, *sink + static_cast<float>(i));
  for (int64_t step = 0; step < kStepsPerTask; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chains[i] = hn::MulAdd(chains[i], scale, shift);
  }
  auto sum = hn::Zero(d);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sum = hn::Add(sum, chains[i]);
  *sink = hn::GetLane(sum);
  return 2.0 * kStepsPerTask * kChains * static_cast<double>(hn::Lanes(d));
}

void triad_block(float* a, const float* b, const float* c, int64_t count) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, 0.5f);
  for (int64_t i = 0; i < count; i += lanes) {
    hn::Store(hn::MulAdd(scale, hn::Load(d, c + i), hn::Load(d, b + i)), d, a + i);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom::bench {
namespace {

HWY_EXPORT(fma_task);
HWY_EXPORT(triad_block);

}  // namespace

double probe_fma(double flops) {
  float unused = 0;
  static const double flops_per_task = HWY_DYNAMIC_DISPATCH(fma_task)(&unused);
  const int64_t tasks = std::max<int64_t>(static_cast<int64_t>(flops / flops_per_task), thread_count());
  const double begin = now();
  parallel_for(tasks, [](int64_t) {
    float sink = 0;
    HWY_DYNAMIC_DISPATCH(fma_task)(&sink);
    volatile float kept = sink;
    static_cast<void>(kept);
  });
  return flops_per_task * static_cast<double>(tasks) / (now() - begin);
}

double probe_triad() {
  constexpr int64_t kCount = int64_t{16} << 20, kBlock = int64_t{1} << 16;
  static const HostBlock memory(3 * kCount * static_cast<int64_t>(sizeof(float)));
  float* a = reinterpret_cast<float*>(memory.data());
  const double begin = now();
  parallel_for(kCount / kBlock, [&](int64_t block) {
    float* part = a + block * kBlock;
    HWY_DYNAMIC_DISPATCH(triad_block)(part, part + kCount, part + 2 * kCount, kBlock);
  });
  return 12.0 * kCount / (now() - begin);
}

}  // namespace itemloom::bench
#endif
