// Words for reports.
#pragma once

#include <string>

#include "thread.h"

namespace cuda_emulation {

std::string describe_line(const SourceLine* line);         // "kernels.cu:12 (inlined at kernels.cu:40)"
std::string describe_thread(const ThreadContext& thread);  // "(3,0,0)"
std::string describe_thread_number(uint32_t number);       // the same, of the running block
std::string describe_mask(uint32_t mask);                  // "0x0000ffff"
std::string demangle(const char* name);

}  // namespace cuda_emulation
