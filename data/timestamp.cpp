#include "data/timestamp.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/check.h"
#include "data/text.h"

namespace itemloom {
namespace {

constexpr int64_t kMillion = TimestampScale::kMillion;
constexpr std::string_view kSeconds = "seconds since 1970-01-01 UTC";
constexpr std::string_view kMicroseconds = "microseconds since 1970-01-01 UTC";
constexpr std::string_view kUnits = "unit of the source";
constexpr std::string_view kMillionths = "millionth of the unit of the source";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Takes exactly `count` digits from the front.
bool take_digits(std::string_view& text, int count, int64_t& value) {
  if (text.size() < static_cast<size_t>(count)) return false;
  value = 0;
  for (int i = 0; i < count; ++i) {
    if (!is_digit(text[i])) return false;
    value = 10 * value + (text[i] - '0');
  }
  text.remove_prefix(count);
  return true;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// Takes the digits of a fraction, the point being gone: at least one.
bool take_fraction(std::string_view& text, int64_t& millionths) {
  if (text.empty() || !is_digit(text[0])) return false;
  millionths = 0;
  int64_t weight = kMillion / 10;
  for (; !text.empty() && is_digit(text[0]); text.remove_prefix(1), weight /= 10)
    millionths += weight * (text[0] - '0');
  return true;
}

// Days from 1970-01-01 in the proleptic Gregorian calendar: years are counted from March, so that the leap day is the
// last of a year, and a cycle of 400 years has 146,097 days.
int64_t days_from_date(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2;
  const int64_t cycle = year / 400, year_of_cycle = year % 400;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  const int64_t day_of_cycle = 365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
  return 146'097 * cycle + day_of_cycle - 719'468;
}

int64_t days_of_month(int64_t year, int64_t month) {
  if (month == 2) return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

// [Z | +hh:mm | +hhmm | +hh], in seconds; nothing is UTC.
bool take_offset(std::string_view& text, int64_t& offset) {
  offset = 0;
  if (text.empty() || take(text, 'Z') || take(text, 'z')) return true;
  const int64_t sign = text[0] == '-' ? -1 : 1;
  if (!take(text, '+') && !take(text, '-')) return false;
  int64_t hours = 0, minutes = 0;
  if (!take_digits(text, 2, hours)) return false;
  if (!text.empty()) {
    take(text, ':');
    if (!take_digits(text, 2, minutes)) return false;
  }
  offset = sign * (3600 * hours + 60 * minutes);
  return hours <= 23 && minutes <= 59;
}

bool parse_date(std::string_view text, Timestamp& timestamp) {
  int64_t year, month, day, hour = 0, minute = 0, second = 0, offset = 0;
  timestamp.millionths = 0;
  if (!take_digits(text, 4, year) || !take(text, '-') || !take_digits(text, 2, month) || !take(text, '-') ||
      !take_digits(text, 2, day)) {
    return false;
  }
  if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_of_month(year, month)) return false;
  if (!text.empty()) {
    if (!take(text, ' ') && !take(text, 'T') && !take(text, 't')) return false;
    if (!take_digits(text, 2, hour) || !take(text, ':') || !take_digits(text, 2, minute)) return false;
    if (take(text, ':')) {
      if (!take_digits(text, 2, second)) return false;
      if ((take(text, '.') || take(text, ',')) && !take_fraction(text, timestamp.millionths)) return false;
    }
    take(text, ' ');
    if (!take_offset(text, offset) || !text.empty()) return false;
    if (hour > 23 || minute > 59 || second > 60) return false;  // 60: a leap second is the next minute's first
  }
  timestamp.whole = 86'400 * days_from_date(year, month, day) + 3600 * hour + 60 * minute + second - offset;
  timestamp.is_date = true;
  return true;
}

bool parse_number(std::string_view text, Timestamp& timestamp) {
  timestamp = {};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, timestamp.whole);
  if (error != std::errc()) return false;
  if (stop == end) return true;
  std::string_view rest(stop, static_cast<size_t>(end - stop));
  if (take(rest, '.')) {
    if (rest.empty()) return true;
    if (take_fraction(rest, timestamp.millionths) && rest.empty()) {
      if (text[0] == '-' && timestamp.millionths > 0) {  // the fraction counts upwards from the whole number below
        timestamp.whole -= 1;
        timestamp.millionths = kMillion - timestamp.millionths;
      }
      return true;
    }
  }
  double value = 0;  // an exponent
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || !(std::abs(value) < 9e18)) return false;
  const double floor = std::floor(value);
  timestamp.whole = static_cast<int64_t>(floor);
  timestamp.millionths = static_cast<int64_t>((value - floor) * kMillion);
  return true;
}

}  // namespace

bool parse_timestamp(std::string_view text, Timestamp& timestamp) {
  if (text.size() >= 10 && text[4] == '-') return parse_date(text, timestamp);
  return parse_number(text, timestamp);
}

const char* TimestampScale::to_ticks(const Timestamp& timestamp, int64_t& ticks, bool& rescale) {
  const Kind kind = timestamp.is_date ? Kind::kDate : Kind::kNumber;
  if (kind_ == Kind::kUnknown) kind_ = kind;
  if (kind_ != kind) {
    return timestamp.is_date ? "a date where earlier rows have numbers" : "a number where earlier rows have dates";
  }
  rescale = timestamp.millionths != 0 && ticks_per_unit_ == 1;
  const int64_t ticks_per_unit = rescale ? kMillion : ticks_per_unit_;
  if (__builtin_mul_overflow(timestamp.whole, ticks_per_unit, &ticks) ||
      __builtin_add_overflow(ticks, ticks_per_unit == 1 ? 0 : timestamp.millionths, &ticks)) {
    rescale = false;
    return "a time too large to be kept in millionths of its unit";
  }
  ticks_per_unit_ = ticks_per_unit;
  return nullptr;
}

std::string TimestampScale::unit() const {
  if (is_date()) return std::string(ticks_per_unit_ == 1 ? kSeconds : kMicroseconds);
  return std::string(ticks_per_unit_ == 1 ? kUnits : kMillionths);
}

int64_t ticks_of(std::string_view text, std::string_view unit, std::string_view key) {
  const bool dates = unit == kSeconds || unit == kMicroseconds;
  const int64_t ticks_per_unit = unit == kMicroseconds || unit == kMillionths ? kMillion : 1;
  Timestamp timestamp;
  CHECK(parse_timestamp(text, timestamp) && timestamp.is_date == dates, key, ": ", in_quotes(text), " is not a time ",
        dates ? "like the data's (a date: 2011-09-01 or 2011-09-01T12:00:00Z)" : "like the data's (a number)");
  int64_t ticks = 0;
  CHECK(!__builtin_mul_overflow(timestamp.whole, ticks_per_unit, &ticks) && ticks < INT64_MAX - kMillion, key, ": ",
        in_quotes(text), " is too large");
  if (ticks_per_unit == 1) return ticks + (timestamp.millionths > 0 ? 1 : 0);
  return ticks + timestamp.millionths;
}

std::string format_ticks(int64_t ticks, std::string_view unit) {
  const int64_t ticks_per_unit = unit == kMicroseconds || unit == kMillionths ? kMillion : 1;
  const int64_t millionths = ((ticks % ticks_per_unit) + ticks_per_unit) % ticks_per_unit;
  const int64_t whole = (ticks - millionths) / ticks_per_unit;
  char fraction[16] = "";
  if (millionths > 0) std::snprintf(fraction, sizeof(fraction), ".%06d", static_cast<int>(millionths));
  if (unit != kSeconds && unit != kMicroseconds) return std::to_string(whole) + fraction;
  // The inverse of days_from_date, see there.
  const int64_t second_of_day = ((whole % 86'400) + 86'400) % 86'400;
  const int64_t days = (whole - second_of_day) / 86'400 + 719'468;
  const int64_t cycle = days / 146'097, day_of_cycle = days % 146'097;
  const int64_t year_of_cycle =
      (day_of_cycle - day_of_cycle / 1'460 + day_of_cycle / 36'524 - day_of_cycle / 146'096) / 365;
  const int64_t day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
  const int64_t month_from_march = (5 * day_of_year + 2) / 153;
  const int64_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
  char text[64];
  std::snprintf(text, sizeof(text), "%04ld-%02ld-%02ld %02ld:%02ld:%02ld%s",
                static_cast<long>(400 * cycle + year_of_cycle + (month <= 2)), static_cast<long>(month),
                static_cast<long>(day_of_year - (153 * month_from_march + 2) / 5 + 1),
                static_cast<long>(second_of_day / 3600), static_cast<long>(second_of_day / 60 % 60),
                static_cast<long>(second_of_day % 60), fraction);
  return text;
}

}  // namespace itemloom
