// A disk that fills up, played by the limit on the size of files.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace itemloom::test {

// The message of the Error that `work` throws when no file may grow beyond `bytes`; empty when it throws none. It runs
// in a child process: the limit must not meet the test program's own output, and HDF5 keeps memory for ever when it
// cannot write what it holds.
std::string message_on_full_disk(int64_t bytes, const std::function<void()>& work);

}  // namespace itemloom::test
