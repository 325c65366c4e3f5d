#include "kernels/gemm.h"

#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kLine = kAlignment / static_cast<int64_t>(sizeof(float));

// Products whose A is not transposed: one task computes kRowBlock rows (whole micro-tiles of either height) by
// kColumnBlock columns. Sums over more than kDepthBlock are cut, so that the panels of a task stay in L2.
constexpr int64_t kRowBlock = 48;
constexpr int64_t kColumnBlock = 256;
constexpr int64_t kDepthBlock = 512;
// B is packed in tasks of about this many floats.
constexpr int64_t kPackedPerTask = 32768;

// Weight gradients: the tokens are cut into blocks, whole blocks into at most kTokenGroups groups of at least
// kBlocksPerGroup, and each group is summed into a partial C of its own. A task computes a part of one partial C whose
// operands, this block's and the next one's, stay in L2; there are kTokenTasks tasks or more if C has rows for them.
constexpr int64_t kTokenBlock = 256;
constexpr int64_t kBlocksPerGroup = 2;
constexpr int64_t kTokenGroups = 16;
constexpr int64_t kTokenTasks = 16;
constexpr int64_t kPartRows = 96;
constexpr int64_t kPartColumns = 128;

// Packs all of B, depth block by depth block: the block that starts at k = begin lies at packed + begin * padded n.
void pack_all(const Gemm<float>& args, int64_t k, int64_t n, float* packed) {
  const int64_t panels = block_count(n, kPanel), padded = panels * kPanel;
  const int64_t panels_per_task = std::max<int64_t>(kPackedPerTask / (std::max<int64_t>(k, 1) * kPanel), 1);
  parallel_blocks(panels, panels_per_task, [&](int64_t first, int64_t last) {
    for (int64_t begin = 0; begin < k; begin += kDepthBlock) {
      const int64_t depth = std::min(kDepthBlock, k - begin);
      for (int64_t column = first * kPanel; column < last * kPanel; column += kPanel) {
        const int64_t columns = std::min(kPanel, n - column);
        float* to = packed + begin * padded + column * depth;
        if (args.transpose_b) {
          pack_panel_transposed(args.b.row(column) + begin, k, depth, columns, to);
        } else {
          pack_panel(args.b.row(begin) + column, n, depth, columns, to);
        }
      }
    }
  });
}

// Rows [row, row + rows), columns [first, last) of C.
void multiply_block(const Gemm<float>& args, const float* packed, int64_t row, int64_t rows, int64_t first,
                    int64_t last) {
  const int64_t n = args.c.columns(), k = args.a.columns(), padded = block_count(n, kPanel) * kPanel;
  int64_t begin = 0;
  do {
    const int64_t depth = std::min(kDepthBlock, k - begin);
    for_tiles(rows, [&](int64_t tile_row, int64_t height) {
      const float* a = args.a.row(row + tile_row) + begin;
      float* c = args.c.row(row + tile_row);
      for (int64_t column = first; column < last; column += kPanel) {
        // The first panel's tile fetches the rows of A below, the others the rows of C that they will meet there.
        const float* ahead = column == first
                                 ? a + height * k
                                 : c + height * n + first + (column - first - kPanel) / kPanel * depth * kLine;
        kTiles<TileSource::kRows>[height - 1]({.a = a,
                                               .a_stride = k,
                                               .b = packed + begin * padded + column * depth,
                                               .b_stride = kPanel,
                                               .k = depth,
                                               .ahead = ahead,
                                               .ahead_step = kLine},
                                              {.c = c + column,
                                               .stride = n,
                                               .columns = std::min(kPanel, n - column),
                                               .bias = args.bias && begin == 0 ? args.bias.data() + column : nullptr,
                                               .add = args.accumulate || begin > 0});
      }
    });
    begin += depth;
  } while (begin < k);
}

void multiply_rows(float* packed, const Gemm<float>& args) {
  const int64_t m = args.c.rows(), n = args.c.columns(), k = args.a.columns();
  pack_all(args, k, n, packed);
  const int64_t row_blocks = block_count(m, kRowBlock), column_blocks = block_count(n, kColumnBlock);
  parallel_for(row_blocks * column_blocks, [&](int64_t task) {
    const int64_t row = task / column_blocks * kRowBlock, column = task % column_blocks * kColumnBlock;
    multiply_block(args, packed, row, std::min(kRowBlock, m - row), column, std::min(n, column + kColumnBlock));
  });
}

// A part of a weight gradient: rows and columns of C, summed over a range of tokens.
struct Part {
  int64_t row, rows, column, columns, first, last;
};

// Writes the part's product into partial (m, n).
void multiply_part(const Gemm<float>& args, const Part& part, float* partial, float* edge) {
  const int64_t m = args.c.rows(), n = args.c.columns();
  const int64_t whole = part.columns / kPanel * kPanel;
  const int64_t a_lines = block_count(part.rows, kLine), b_lines = block_count(part.columns, kLine);
  for (int64_t token = part.first; token < part.last; token += kTokenBlock) {
    const int64_t depth = std::min(kTokenBlock, part.last - token);
    const float *a = args.a.row(token) + part.row, *b = args.b.row(token) + part.column;
    if (whole < part.columns) pack_panel(b + whole, n, depth, part.columns - whole, edge);
    // The next block comes into L2 while this one is multiplied: with each tile one line of all its tokens' rows.
    int64_t line = 0;
    for_tiles(part.rows, [&](int64_t row, int64_t height) {
      for (int64_t column = 0; column < part.columns; column += kPanel, ++line) {
        const bool packed = column == whole, of_b = line < b_lines;
        kTiles<TileSource::kColumns>[height - 1](
            {.a = a + row,
             .a_stride = m,
             .b = packed ? edge : b + column,
             .b_stride = packed ? kPanel : n,
             .k = depth,
             .ahead = of_b ? b + depth * n + line * kLine : a + depth * m + std::min(line - b_lines, a_lines) * kLine,
             .ahead_step = of_b ? n : m},
            {.c = partial + (part.row + row) * n + part.column + column,
             .stride = n,
             .columns = std::min(kPanel, part.columns - column),
             .bias = nullptr,
             .add = token > part.first});
      }
    });
  }
}

// How a weight gradient is cut. The order of sums depends on the number of tokens alone.
struct Cut {
  Cut(int64_t m, int64_t n, int64_t tokens)
      : m(m),
        n(n),
        tokens(tokens),
        blocks(block_count(tokens, kTokenBlock)),
        groups(std::clamp<int64_t>(blocks / kBlocksPerGroup, 1, kTokenGroups)),
        panels(block_count(n, kPanel)),
        column_parts(block_count(n, kPartColumns)),
        row_parts(std::max(block_count(m, kPartRows),
                           std::min(block_count(kTokenTasks, groups * column_parts), block_count(m, kTileRows)))) {}

  int64_t tasks() const { return groups * row_parts * column_parts; }
  int64_t group(int64_t task) const { return task / (row_parts * column_parts); }
  Part part(int64_t task) const {
    const int64_t row_part = task / column_parts % row_parts, column_part = task % column_parts;
    Part part;
    part.row = m * row_part / row_parts;
    part.rows = m * (row_part + 1) / row_parts - part.row;
    part.column = panels * column_part / column_parts * kPanel;
    part.columns = std::min(n, panels * (column_part + 1) / column_parts * kPanel) - part.column;
    part.first = blocks * group(task) / groups * kTokenBlock;
    part.last = std::min(tokens, blocks * (group(task) + 1) / groups * kTokenBlock);
    return part;
  }

  int64_t m, n, tokens, blocks, groups, panels, column_parts, row_parts;
};

constexpr int64_t kEdge = kTokenBlock * kPanel;

// C = A^T B over the tokens (rows) of both.
void multiply_tokens(float* partials, const Gemm<float>& args) {
  const int64_t m = args.c.rows(), n = args.c.columns(), size = m * n;
  const Cut cut(m, n, args.a.rows());
  const int64_t groups = cut.groups;
  float* edges = partials + groups * size;
  if (cut.tokens == 0) std::fill_n(partials, size, 0.0f);
  parallel_for_with_thread(cut.tasks(), [&](int64_t task, int thread) {
    multiply_part(args, cut.part(task), partials + cut.group(task) * size, edges + thread * kEdge);
  });
  parallel_blocks(m, rows_per_task(n * groups), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      float* c = args.c.row(row);
      for_lanes(0, n, [&](int64_t column, auto lanes) HWY_ATTR {
        const float* partial = partials + row * n + column;
        FloatVector sum = lanes.load(partial);
        for (int64_t group = 1; group < groups; ++group) sum = hn::Add(sum, lanes.load(partial + group * size));
        if (args.bias) sum = hn::Add(sum, lanes.load(args.bias.data() + column));
        if (args.accumulate) sum = hn::Add(sum, lanes.load(c + column));
        lanes.store(sum, c + column);
      });
    }
  });
}

// B's panels, or partial Cs and an edge a thread.
int64_t scratch_floats(const Gemm<float>& args) {
  const int64_t m = args.c.rows(), n = args.c.columns();
  if (!args.transpose_a) return packed_size(std::max<int64_t>(args.a.columns(), 1), n);
  return Cut(m, n, args.a.rows()).groups * m * n + thread_count() * kEdge;
}

void multiply(CpuStream stream, const Gemm<float>& args) {
  if (args.c.size() == 0) return;
  float* scratch = stream.scratch->take<float>(scratch_floats(args));
  if (args.transpose_a) {
    multiply_tokens(scratch, args);
  } else {
    multiply_rows(scratch, args);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(multiply);
HWY_EXPORT(scratch_floats);

int64_t scratch_bytes(CpuStream, const Gemm<float>& args) {
  return HWY_DYNAMIC_DISPATCH(scratch_floats)(args) * static_cast<int64_t>(sizeof(float));
}

void launch(CpuStream stream, const Gemm<float>& args) {
  CHECK(!(args.transpose_a && args.transpose_b), "a product of two transposed matrices is not supported");
  CHECK(!args.tf32, "the CPU does not round to TF32");
  HWY_DYNAMIC_DISPATCH(multiply)(stream, args);
}

}  // namespace itemloom
#endif
