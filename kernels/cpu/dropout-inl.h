// Dropout of rows, for the kernels that have it in them; compiled once per instruction set (include it as
// core/simd-inl.h is included).
#if defined(ITEMLOOM_KERNELS_CPU_DROPOUT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_KERNELS_CPU_DROPOUT_INL_H
#undef ITEMLOOM_KERNELS_CPU_DROPOUT_INL_H
#else
#define ITEMLOOM_KERNELS_CPU_DROPOUT_INL_H
#endif

#include "core/simd-inl.h"
#include "core/view.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

// What dropout leaves of the vectors of up to 64 columns of a row, given to it one after the other.
struct Dropped {
  uint64_t keep;
  FloatVector scale;
  HWY_INLINE FloatVector operator()(FloatVector value) {
    const auto kept = mask_from_bits(Floats(), keep);
    keep >>= kFloatLanes;
    return hn::IfThenElseZero(kept, hn::Mul(value, scale));
  }
};
struct NotDropped {
  HWY_INLINE FloatVector operator()(FloatVector value) const { return value; }
};

class RowDropout {
 public:
  RowDropout(Vector<const uint32_t> row_ids, float probability, const DropoutKey& key)
      : row_ids_(row_ids.data()),
        drops_(dropout_threshold(probability) > 0),
        scale_(dropout_scale(probability)),
        mask_(key, probability) {}

  bool drops() const { return drops_; }

  // body(row, column, count, dropped) for pieces of the rows of [begin, end), in the order of memory: columns
  // [column, column + count), and what dropout leaves of them. Masks are drawn for four pieces of 64 columns at a time;
  // the last ones are drawn again to fill an incomplete four.
  template <class Body>
  HWY_INLINE void for_pieces(int64_t begin, int64_t end, int64_t columns, const Body& body) const {
    if (!drops_) {
      for (int64_t row = begin; row < end; ++row) body(row, int64_t{0}, columns, NotDropped());
      return;
    }
    constexpr int kAtOnce = 4;
    const FloatVector scale = hn::Set(Floats(), scale_);
    const int64_t row_pieces = block_count(columns, 64), pieces = (end - begin) * row_pieces;
    int64_t row = begin, piece = 0;
    for (int64_t first = 0; first < pieces; first += kAtOnce) {
      DropoutMask::Chunk wanted[kAtOnce];
      int64_t rows[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) {
        wanted[i] = {row_ids_[row], piece};
        rows[i] = row;
        if (first + i + 1 < pieces && ++piece == row_pieces) {
          piece = 0;
          ++row;
        }
      }
      uint64_t keep[kAtOnce];
      mask_.keep_bits(wanted, keep);
      for (int i = 0; i < std::min<int64_t>(kAtOnce, pieces - first); ++i) {
        const int64_t column = wanted[i].chunk * 64;
        body(rows[i], column, std::min<int64_t>(64, columns - column), Dropped{keep[i], scale});
      }
    }
  }

 private:
  const uint32_t* row_ids_;
  bool drops_;
  float scale_;
  DropoutMask mask_;
};

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
