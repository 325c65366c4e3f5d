// Starting the program as several ranks.
#pragma once

#include "tests/support/process.h"

namespace itemloom::test {

// False, with a word why, on a machine without mpirun.
bool has_mpirun();

// The command for this number of ranks; one is the command itself.
Words in_ranks(int ranks, const Words& command);

// With it mpirun works as root, and starts more ranks than there are processors.
extern const Words kRankEnvironment;

}  // namespace itemloom::test
