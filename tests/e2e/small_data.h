// A small data set with structure to learn, made on the spot.
#pragma once

#include <string>

#include "tests/support/process.h"

namespace itemloom::test {

// Writes `sequences.txt` (a random walk on a ring of items for each user, so that the next item can be learned) and
// `config.json` into the folder; returns the config's path.
std::string write_small_run(const TemporaryFolder& folder, const std::string& extra = "");

}  // namespace itemloom::test
