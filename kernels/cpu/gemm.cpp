#include "kernels/gemm.h"

#include <algorithm>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/gemm_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

// One task: kRowBlock rows by kColumnBlock columns. 96 rows of A (K <= 512) stay in L2 while the panels pass.
constexpr int64_t kRowBlock = 96;
constexpr int64_t kColumnBlock = 256;
// Sums over more than this are cut: a panel of it stays in L2.
constexpr int64_t kDepthBlock = 512;
// Weight gradients: tokens are cut into blocks of this many, the blocks into at most kTokenGroups groups, each of which
// is summed by one task into a partial result of its own.
constexpr int64_t kTokenBlock = 256;
constexpr int64_t kTokenGroups = 16;

// Packs all of B, depth block by depth block: block q starts at packed + q * kDepthBlock * padded columns.
void pack_all(const Gemm& args, int64_t k, int64_t n, float* packed) {
  const int64_t panels = block_count(n, kPanel), padded = panels * kPanel;
  const int64_t depths = block_count(k, kDepthBlock);
  parallel_for(panels * depths, [&](int64_t task) HWY_ATTR {
    const int64_t panel = task % panels, begin = task / panels * kDepthBlock;
    const int64_t depth = std::min(kDepthBlock, k - begin), column = panel * kPanel;
    const int64_t columns = std::min(kPanel, n - column);
    float* out = packed + begin * padded + panel * kPanel * depth;
    if (args.transpose_b) {
      pack_panel_transposed(args.b.row(column) + begin, k, depth, columns, out);
    } else {
      pack_panel(args.b.row(begin) + column, n, depth, columns, out);
    }
  });
}

void multiply_rows(CpuStream stream, const Gemm& args) {
  const int64_t m = args.c.rows(), n = args.c.columns(), k = args.a.columns();
  const int64_t padded = block_count(n, kPanel) * kPanel;
  float* packed = stream.scratch->take<float>(packed_size(std::max<int64_t>(k, 1), n));
  pack_all(args, k, n, packed);
  const int64_t row_blocks = block_count(m, kRowBlock), column_blocks = block_count(n, kColumnBlock);
  parallel_for(row_blocks * column_blocks, [&](int64_t task) HWY_ATTR {
    const int64_t row = task / column_blocks * kRowBlock, rows = std::min(kRowBlock, m - row);
    const int64_t first = task % column_blocks * kColumnBlock, last = std::min(n, first + kColumnBlock);
    int64_t begin = 0;
    do {
      const int64_t depth = std::min(kDepthBlock, k - begin);
      for (int64_t column = first; column < last; column += kPanel) {
        multiply_panel(args.a.row(row) + begin, k, rows, packed + begin * padded + column * depth, depth,
                       {.c = args.c.row(row) + column,
                        .stride = n,
                        .columns = std::min(kPanel, n - column),
                        .bias = args.bias && begin == 0 ? args.bias.data() + column : nullptr,
                        .add = args.accumulate || begin > 0});
      }
      begin += depth;
    } while (begin < k);
  });
}

// One group's token blocks, in order, into partial (m, n).
void multiply_group(const Gemm& args, int64_t first, int64_t last, float* partial, float* workspace) {
  const int64_t m = args.c.rows(), n = args.c.columns();
  float* strip = workspace;
  float* packed = workspace + strip_size(kTokenBlock);
  for (int64_t token = first; token < last; token += kTokenBlock) {
    const int64_t depth = std::min(kTokenBlock, last - token);
    for (int64_t column = 0; column < n; column += kPanel) {
      pack_panel(args.b.row(token) + column, n, depth, std::min(kPanel, n - column), packed + column * depth);
    }
    for (int64_t row = 0; row < m; row += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, m - row);
      pack_strip(args.a.row(token) + row, m, depth, rows, strip);
      for (int64_t column = 0; column < n; column += kPanel) {
        multiply_strip(strip, rows, packed + column * depth, depth,
                       {.c = partial + row * n + column,
                        .stride = n,
                        .columns = std::min(kPanel, n - column),
                        .bias = nullptr,
                        .add = token > first});
      }
    }
  }
}

// C = A^T B over the tokens (rows) of both.
void multiply_tokens(CpuStream stream, const Gemm& args) {
  const int64_t m = args.c.rows(), n = args.c.columns(), tokens = args.a.rows(), size = m * n;
  const int64_t blocks = block_count(tokens, kTokenBlock);
  const int64_t groups = std::min(kTokenGroups, blocks);
  const int64_t workspace = block_count(strip_size(kTokenBlock) + packed_size(kTokenBlock, n), 16) * 16;
  float* partials = stream.scratch->take<float>(groups * size + thread_count() * workspace);
  float* workspaces = partials + groups * size;
  parallel_for_with_thread(groups, [&](int64_t group, int thread) HWY_ATTR {
    const int64_t first = blocks * group / groups * kTokenBlock;
    const int64_t last = std::min(tokens, blocks * (group + 1) / groups * kTokenBlock);
    multiply_group(args, first, last, partials + group * size, workspaces + thread * workspace);
  });
  constexpr int64_t kSumBlock = 4096;
  parallel_for(block_count(size, kSumBlock), [&](int64_t task) HWY_ATTR {
    const int64_t begin = task * kSumBlock, end = std::min(size, begin + kSumBlock);
    float* c = args.c.data();
    for (int64_t i = begin; i < end; ++i) {
      float sum = 0;
      for (int64_t group = 0; group < groups; ++group) sum += partials[group * size + i];
      if (args.bias) sum += args.bias[i % n];
      c[i] = args.accumulate ? c[i] + sum : sum;
    }
  });
}

void multiply(CpuStream stream, const Gemm& args) {
  if (args.c.size() == 0) return;
  if (args.transpose_a) {
    multiply_tokens(stream, args);
  } else {
    multiply_rows(stream, args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(multiply);

void launch(CpuStream stream, const Gemm& args) {
  CHECK(!(args.transpose_a && args.transpose_b), "a product of two transposed matrices is not supported");
  HWY_DYNAMIC_DISPATCH(multiply)(stream, args);
}

}  // namespace itemloom
#endif
