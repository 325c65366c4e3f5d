// From raw rows to a dataset.
#pragma once

#include "data/config.h"
#include "data/dataset.h"

namespace itemloom {

// Reads, cleans and orders what `config` names (format "prepared": loads it, and merges several by data/merge.h).
// Memory is O(interactions), the time about that of unpacking the files. Throws Error with one line for everything that
// is wrong with the input.
Dataset prepare(const DataConfig& config);

}  // namespace itemloom
