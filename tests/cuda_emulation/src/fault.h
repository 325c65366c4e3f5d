// Accesses that trap (guard pages, freed memory, protected device memory) become reports.
#pragma once

namespace cuda_emulation {

// Installs the handler, and a signal stack for the calling host thread; may be called again and again.
void watch_faults();

}  // namespace cuda_emulation
