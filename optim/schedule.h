// Learning rate schedules.
#pragma once

#include <cstdint>

#include "optim/config.h"

namespace itemloom {

// The factor on optimizer.learning_rate for 0-based step `step` of `total_steps`: a linear warm-up over
// schedule.warmup_steps ((step + 1) / warmup_steps), then constant 1, or a linear or half-cosine fall from 1 to
// schedule.final_share at the last step, where it stays.
double schedule_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps);

// Throws Error naming both numbers when the warm-up would not end within a run of `total_steps` steps.
void check_warmup_ends(const ScheduleConfig& schedule, int64_t total_steps);

}  // namespace itemloom
