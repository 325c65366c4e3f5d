// The signals that ask a run to save its state and end.
#pragma once

namespace itemloom {

// From now on SIGINT, SIGTERM and SIGUSR1 (which mpirun hands on to the ranks, where it kills them at SIGTERM) ask the
// run to stop at the next step. A second SIGINT, of a person, ends it at once, as by default. The others may come again
// until the process has ended, as SIGTERM does at a time limit of Slurm: they must not cost the state that is saved
// then, nor the good exit of a rank that another one has already stopped.
void stop_at_signals();

// Whether one has come since then.
bool asked_to_stop();

}  // namespace itemloom
