// Points in time as they are written in data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace itemloom {

// A time as a whole number and millionths of the unit it is written in: whatever unit the numbers of a source are in,
// or seconds since 1970-01-01 00:00:00 UTC for a date.
struct Timestamp {
  int64_t whole = 0;
  int64_t millionths = 0;  // 0 to 999,999; digits beyond are cut off
  bool is_date = false;
};

// Reads an integer ("978300760"), a decimal number ("881250949.5", "8.8e8") or an ISO 8601 date ("2011-12-09",
// "2011-12-09 12:50", "2011-12-09T12:50:00.25Z", "...+01:00"; without an offset: UTC). False when it is none.
bool parse_timestamp(std::string_view text, Timestamp& timestamp);

// Times of one source in one unit. They are kept in whole units until the first one with a fraction comes, and in
// millionths from then on, so that integers stay what they are in the source.
class TimestampScale {
 public:
  static constexpr int64_t kMillion = 1'000'000;

  // The time in ticks. `rescale` is set when all ticks given before must be multiplied by a million. Returns a reason
  // why not ("a date where earlier rows have numbers"), or null.
  const char* to_ticks(const Timestamp& timestamp, int64_t& ticks, bool& rescale);

  bool is_date() const { return kind_ == Kind::kDate; }
  int64_t ticks_per_unit() const { return ticks_per_unit_; }
  // "1 (unit of the source)", "1e-6 (...)", "seconds since 1970-01-01 UTC", "microseconds since 1970-01-01 UTC".
  std::string unit() const;

 private:
  enum class Kind { kUnknown, kNumber, kDate };
  Kind kind_ = Kind::kUnknown;
  int64_t ticks_per_unit_ = 1;
};

// The ticks of a time that a person gives ("2011-09-01" or a number), in a dataset whose TimestampScale::unit() is
// `unit`; rounded up to the next tick, so that "t < ticks" means before it. Throws Error naming `key`.
int64_t ticks_of(std::string_view text, std::string_view unit, std::string_view key);

// Ticks as a person reads them: a date, or the number of the source.
std::string format_ticks(int64_t ticks, std::string_view unit);

}  // namespace itemloom
