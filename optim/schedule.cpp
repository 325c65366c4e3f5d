#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace itemloom {

double schedule_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps) {
  if (step < schedule.warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
  if (schedule.name == "constant") return 1;
  const int64_t falling = std::max<int64_t>(1, total_steps - 1 - schedule.warmup_steps);
  const double progress =
      std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(falling));
  const double fall = 1 - schedule.final_share;
  if (schedule.name == "linear") return 1 - fall * progress;
  CHECK(schedule.name == "cosine", "optimizer.schedule.name is '", schedule.name, "'");
  return schedule.final_share + fall * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

void check_warmup_ends(const ScheduleConfig& schedule, int64_t total_steps) {
  CHECK(schedule.warmup_steps <= total_steps, "optimizer.schedule.warmup_steps ", schedule.warmup_steps,
        " is more than the ", total_steps,
        " steps of the run, so that the learning rate would never be reached; lower it, or raise training.epochs");
}

}  // namespace itemloom
