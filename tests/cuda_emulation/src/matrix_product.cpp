// The usual blocked product: both factors are packed into panels of floats, a block of k at a time, and a tile of
// 6 x 16 sums stays in registers while its two panels are read.
#include "matrix_product.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace cuda_emulation {
namespace {

constexpr int64_t kTileRows = 6;
constexpr int64_t kTileColumns = 16;
constexpr int64_t kBlock = 256;  // of k

float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// To the nearest, ties to even.
uint16_t to_bf16(float value) {
  if (std::isnan(value)) return 0x7FFF;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// 10 bits of mantissa, to the nearest, ties away from zero, as cvt.rna.tf32 does.
float to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x1000) & 0xFFFFE000);
}

float load(const std::byte* data, cudaDataType_t type, int64_t index) {
  if (type == CUDA_R_16BF) return from_bf16(reinterpret_cast<const uint16_t*>(data)[index]);
  return reinterpret_cast<const float*>(data)[index];
}

void store(std::byte* data, cudaDataType_t type, int64_t index, float value) {
  if (type == CUDA_R_16BF) {
    reinterpret_cast<uint16_t*>(data)[index] = to_bf16(value);
  } else {
    reinterpret_cast<float*>(data)[index] = value;
  }
}

int64_t offset(const Matrix& matrix, int64_t row, int64_t column) {
  return row * matrix.row_step + column * matrix.column_step;
}

// Columns [begin, begin + width) of k, as panels of `height` rows: panel p holds for each k the values of its rows,
// with zeros below the last row of the matrix. The rows of b are its columns, so b comes transposed.
void pack(const Matrix& matrix, int64_t height, int64_t begin, int64_t width, bool rounds_to_tf32,
          std::vector<float>& panels) {
  const int64_t count = (matrix.rows + height - 1) / height;
  panels.assign(static_cast<size_t>(count * height * width), 0);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    float* panel = panels.data() + row / height * height * width + row % height;
    for (int64_t k = 0; k < width; ++k) {
      const float value = load(matrix.data, matrix.type, offset(matrix, row, begin + k));
      panel[k * height] = rounds_to_tf32 ? to_tf32(value) : value;
    }
  }
}

// Adds the product of two panels to a tile of sums.
void multiply_panels(const float* a, const float* b, int64_t width, float* sums) {
  __m256 tile[kTileRows][2];
  for (int64_t row = 0; row < kTileRows; ++row) {
    tile[row][0] = _mm256_loadu_ps(sums + row * kTileColumns);
    tile[row][1] = _mm256_loadu_ps(sums + row * kTileColumns + 8);
  }
  for (int64_t k = 0; k < width; ++k) {
    const __m256 left = _mm256_loadu_ps(b + k * kTileColumns);
    const __m256 right = _mm256_loadu_ps(b + k * kTileColumns + 8);
    for (int64_t row = 0; row < kTileRows; ++row) {
      const __m256 factor = _mm256_broadcast_ss(a + k * kTileRows + row);
      tile[row][0] = _mm256_fmadd_ps(factor, left, tile[row][0]);
      tile[row][1] = _mm256_fmadd_ps(factor, right, tile[row][1]);
    }
  }
  for (int64_t row = 0; row < kTileRows; ++row) {
    _mm256_storeu_ps(sums + row * kTileColumns, tile[row][0]);
    _mm256_storeu_ps(sums + row * kTileColumns + 8, tile[row][1]);
  }
}

// The sums over k for all tiles, tile after tile along a row of tiles.
std::vector<float> tile_sums(const MatrixProduct& product, int64_t tile_rows, int64_t tile_columns) {
  constexpr int64_t kTile = kTileRows * kTileColumns;
  std::vector<float> sums(static_cast<size_t>(tile_rows * tile_columns * kTile), 0);
  std::vector<float> a_panels, b_panels;
  const Matrix b = product.b.transposed();
  for (int64_t begin = 0; begin < product.a.columns; begin += kBlock) {
    const int64_t width = std::min(kBlock, product.a.columns - begin);
    pack(product.a, kTileRows, begin, width, product.rounds_to_tf32, a_panels);
    pack(b, kTileColumns, begin, width, product.rounds_to_tf32, b_panels);
    for (int64_t column = 0; column < tile_columns; ++column) {
      const float* b_panel = b_panels.data() + column * kTileColumns * width;
      for (int64_t row = 0; row < tile_rows; ++row) {
        const float* a_panel = a_panels.data() + row * kTileRows * width;
        multiply_panels(a_panel, b_panel, width, sums.data() + (row * tile_columns + column) * kTile);
      }
    }
  }
  return sums;
}

}  // namespace

size_t element_bytes(cudaDataType_t type) {
  return type == CUDA_R_16BF ? 2 : 4;
}

void multiply(const MatrixProduct& product) {
  const Matrix& d = product.d;
  const int64_t tile_rows = (d.rows + kTileRows - 1) / kTileRows;
  const int64_t tile_columns = (d.columns + kTileColumns - 1) / kTileColumns;
  const std::vector<float> sums = tile_sums(product, tile_rows, tile_columns);
  for (int64_t row = 0; row < d.rows; ++row) {
    const float bias = product.bias.data ? load(product.bias.data, product.bias.type, row) : 0;
    for (int64_t column = 0; column < d.columns; ++column) {
      const int64_t tile = row / kTileRows * tile_columns + column / kTileColumns;
      const int64_t place = (tile * kTileRows + row % kTileRows) * kTileColumns + column % kTileColumns;
      float value = product.alpha * sums[static_cast<size_t>(place)];
      if (product.beta != 0) {
        value += product.beta * load(product.c.data, product.c.type, offset(product.c, row, column));
      }
      store(d.data, d.type, offset(d, row, column), value + bias);
    }
  }
}

}  // namespace cuda_emulation
