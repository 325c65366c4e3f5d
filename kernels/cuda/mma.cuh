// Tensor cores, the loads that feed them, and copies that run beside a kernel's work: what only PTX has words for, on
// compute capability 8.0 and later. A fragment is a warp's share-out of a small matrix, a lane being (group, member) =
// (lane / 4, lane % 4); the layouts are those of the PTX reference, "Matrix Fragments for mma.m16n8k16".
#pragma once

#include <cstdint>

namespace itemloom::cuda {

// Four registers of two bf16 each. As the left operand, 16 x 16: rows group and group + 8, columns 2 * member + {0, 1},
// then the same rows eight columns on. As two right operands, each 16 x 8: column group, rows 2 * member + {0, 1}, then
// eight rows on.
struct Fragments {
  uint32_t at[4];
};

// A product of 16 x 8: at[2 * i + e] is in row group + 8 * i and column 2 * member + e.
struct Product {
  float at[4] = {};
};

// product += left * right, for the first or second right operand.
__device__ inline void multiply_add(const Fragments& left, const Fragments& right, int which, Product& product) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(product.at[0]), "+f"(product.at[1]), "+f"(product.at[2]), "+f"(product.at[3])
      : "r"(left.at[0]), "r"(left.at[1]), "r"(left.at[2]), "r"(left.at[3]), "r"(right.at[2 * which]),
        "r"(right.at[2 * which + 1]));
}

// Where something lies in shared memory, as the functions below want to know it.
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four matrices of 8 x 8 bf16 from shared memory: lane 8 * m + r says where row r of matrix m begins, and each lane
// gets of matrix m, in at[m], columns 2 * member + {0, 1} of row group; transposed, rows 2 * member + {0, 1} of column
// group.
__device__ inline Fragments load_matrices(uint32_t row) {
  Fragments result;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result.at[0]), "=r"(result.at[1]), "=r"(result.at[2]), "=r"(result.at[3])
               : "r"(row)
               : "memory");
  return result;
}
__device__ inline Fragments load_matrices_transposed(uint32_t row) {
  Fragments result;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result.at[0]), "=r"(result.at[1]), "=r"(result.at[2]), "=r"(result.at[3])
               : "r"(row)
               : "memory");
  return result;
}

// 2^x to about two units in the last place; a result below the normal numbers is 0.
__device__ inline float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Begins to copy kBytes (4 or 16, both ends aligned to it) from device to shared memory, or zeros when `from` is not to
// be read. The copies between two commits are a group; wait_copies<kLeft> waits until at most the newest kLeft groups
// of this thread are under way. Others see what was copied after a barrier behind the wait.
template <int kBytes>
__device__ void copy_async(uint32_t to, const void* from, bool reads) {
  const uint32_t bytes = reads ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
  } else {
    static_assert(kBytes == 4);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
  }
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" : : : "memory");
}
template <int kLeft>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
}

}  // namespace itemloom::cuda
