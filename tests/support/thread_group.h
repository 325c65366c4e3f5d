// Ranks as threads of the test: the same meetings in shared memory that processes have, where a debugger and the thread
// sanitizer see all of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/communicator.h"

namespace itemloom::test {

// Runs body(communicator) on `ranks` threads and returns when all have ended. Gives what each of them threw, by rank;
// empty where it ended well. Assertions belong into the main thread: hand values out.
std::vector<std::string> run_ranks(int ranks, const std::function<void(Communicator&)>& body);

// The same for a body that must not throw: fails the test with the first message.
void run_ranks_well(int ranks, const std::function<void(Communicator&)>& body);

}  // namespace itemloom::test
