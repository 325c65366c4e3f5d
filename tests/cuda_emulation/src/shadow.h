// Shadow memory: for every byte of device and shared memory its state, and for every two bytes a cell with the last
// write and the last reads. Pages of it exist only where something was touched.
#pragma once

#include <cstddef>
#include <cstdint>

#include "module.h"

namespace cuda_emulation {

// The thread of an access (10 bits) and what is known about it.
constexpr uint16_t kThreadBits = 0x03ff;
constexpr uint16_t kStrong = 0x0400;     // an atomic or another strong access
constexpr uint16_t kManyLanes = 0x0800;  // reads by several threads of one warp
constexpr uint16_t kManyWarps = 0x1000;  // reads by several warps
constexpr uint16_t kLowByte = 0x4000;    // which bytes of the cell were touched
constexpr uint16_t kHighByte = 0x8000;
constexpr uint16_t kBothBytes = kLowByte | kHighByte;

struct Cell {
  uint32_t write_epoch, read_epoch;
  int32_t write_line, read_line;  // as pack_line makes them
  uint16_t writer, reader;

  bool operator==(const Cell&) const = default;
};

struct ShadowRegion {
  const unsigned char* begin;
  size_t bytes;
  uint8_t* states;
  Cell* cells;
  bool is_shared;

  bool holds(const void* at) const {
    return static_cast<size_t>(static_cast<const unsigned char*>(at) - begin) < bytes;
  }
  size_t offset(const void* at) const { return static_cast<size_t>(static_cast<const unsigned char*>(at) - begin); }
};

// The region that holds an address, nullptr for none.
const ShadowRegion* shadow_region(const void* at);
// Forgets all cells; the states stay.
void clear_cells();

// A source line in 32 bits: its distance from a fixed object of this program.
int32_t pack_line(const SourceLine* line);
const SourceLine* unpack_line(int32_t packed);

}  // namespace cuda_emulation
