// Which values of a config decide what training reaches.
//
// All do but paths of files (whose contents have hashes of their own), the number of threads, when to validate, save
// and stop, the device, and what is measured and exported. Epochs decide only where the learning rate's schedule ends
// with them.
#pragma once

#include <string>

#include "train/config.h"

namespace itemloom {

// A hash (64 hexadecimal digits) of the values that decide which parameters training reaches.
std::string config_fingerprint(const Config& config);

// The first value that decides and is not the same in two configs, as "model.heads is 4 here and 2 there"; empty when
// their fingerprints are equal. A value that both have goes before one that only one of them has, which is mostly there
// because of another.
std::string first_deciding_difference(const Config& here, const Config& there);

// The values that all ranks of a run must have in common, as a JSON text that another rank can send: what decides, and
// what says when ranks validate, save and stop together. And the first difference of two of them.
std::string common_text(const Config& config);
std::string first_difference(const std::string& here, const std::string& there);

}  // namespace itemloom
