#include "data/interactions.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/rank_status.h"

namespace itemloom {
namespace {

constexpr size_t kSequencesPerBeat = 4096;

// Numbers for what has rows left: 0, 1, 2, ... in the old order, -1 for the rest.
std::vector<int32_t> renumber(const std::vector<int64_t>& rows) {
  std::vector<int32_t> numbers(rows.size(), -1);
  int32_t next = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] > 0) numbers[i] = next++;
  }
  return numbers;
}

std::vector<int64_t> count_rows(const std::vector<int32_t>& column, int32_t size) {
  std::vector<int64_t> counts(static_cast<size_t>(size));
  for (int32_t number : column) ++counts[number];
  return counts;
}

void apply(const std::vector<int32_t>& numbers, std::vector<int32_t>& column) {
  for (int32_t& number : column) number = numbers[number];
}

// Keeps the rows of sequences and items with enough rows; returns whether any went.
bool drop_rows(InteractionLog& log, int64_t users, int64_t items) {
  const auto sequence_rows = count_rows(log.sequence, log.sequences.size());
  const auto item_rows = count_rows(log.item, log.items.size());
  size_t kept = 0;
  for (size_t row = 0; row < log.item.size(); ++row) {
    if (sequence_rows[log.sequence[row]] < users || item_rows[log.item[row]] < items) continue;
    log.sequence[kept] = log.sequence[row];
    log.item[kept] = log.item[row];
    if (!log.time.empty()) log.time[kept] = log.time[row];
    if (!log.basket.empty()) log.basket[kept] = log.basket[row];
    ++kept;
  }
  const bool dropped = kept < log.item.size();
  log.sequence.resize(kept);
  log.item.resize(kept);
  if (!log.time.empty()) log.time.resize(kept);
  if (!log.basket.empty()) log.basket.resize(kept);
  return dropped;
}

struct Sequences {
  std::vector<int64_t> offsets;     // (sequences + 1)
  std::vector<int32_t> items;       // (interactions)
  std::vector<int64_t> timestamps;  // (interactions) or empty
  std::vector<int32_t> baskets;     // (interactions) or empty
};

// Moves `column` into sequence order: places[s] is where the next row of sequence s goes.
template <class T>
std::vector<T> scatter(std::vector<T>& column, const std::vector<int32_t>& sequence, std::vector<int64_t> places) {
  heartbeat();
  std::vector<T> scattered(column.size());
  for (size_t row = 0; row < column.size(); ++row) scattered[places[sequence[row]]++] = column[row];
  std::vector<T>().swap(column);
  return scattered;
}

template <class T>
void permute(std::vector<T>& values, int64_t begin, const std::vector<int64_t>& order, std::vector<T>& scratch) {
  if (values.empty()) return;
  scratch.clear();
  for (int64_t place : order) scratch.push_back(values[place]);
  std::copy(scratch.begin(), scratch.end(), values.begin() + begin);
}

// Returns how many interactions have the time of the one before them.
int64_t sort_by_time(Sequences& sequences) {
  int64_t ties = 0;
  std::vector<int64_t>& times = sequences.timestamps;
  std::vector<int64_t> order, times_scratch;
  std::vector<int32_t> scratch;
  for (size_t s = 0; s + 1 < sequences.offsets.size(); ++s) {
    if (s % kSequencesPerBeat == 0) heartbeat();
    const int64_t begin = sequences.offsets[s], end = sequences.offsets[s + 1];
    if (!std::is_sorted(times.begin() + begin, times.begin() + end)) {
      order.resize(static_cast<size_t>(end - begin));
      std::iota(order.begin(), order.end(), begin);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return times[a] < times[b]; });
      permute(sequences.items, begin, order, scratch);
      permute(sequences.baskets, begin, order, scratch);
      permute(times, begin, order, times_scratch);
    }
    for (int64_t i = begin + 1; i < end; ++i) ties += times[i] == times[i - 1];
  }
  return ties;
}

// Numbers the baskets anew, as they come: filters may have left gaps.
void renumber_baskets(std::vector<int32_t>& baskets) {
  if (baskets.empty()) return;
  std::vector<int32_t> numbers(static_cast<size_t>(*std::max_element(baskets.begin(), baskets.end())) + 1, -1);
  int32_t next = 0;
  for (int32_t& basket : baskets) {
    if (numbers[basket] < 0) numbers[basket] = next++;
    basket = numbers[basket];
  }
}

// Takes the log's columns, and frees each as soon as it is done with.
Sequences group_by_sequence(InteractionLog& log) {
  Sequences sequences;
  sequences.offsets.assign(static_cast<size_t>(log.sequences.size()) + 1, 0);
  for (int32_t sequence : log.sequence) ++sequences.offsets[sequence + 1];
  std::partial_sum(sequences.offsets.begin(), sequences.offsets.end(), sequences.offsets.begin());
  sequences.items = scatter(log.item, log.sequence, sequences.offsets);
  sequences.timestamps = scatter(log.time, log.sequence, sequences.offsets);
  sequences.baskets = scatter(log.basket, log.sequence, sequences.offsets);
  std::vector<int32_t>().swap(log.sequence);
  return sequences;
}

// Hands the vectors over to the dataset.
void own_sequences(Dataset& dataset, Sequences&& sequences) {
  const auto owned = std::make_shared<Sequences>(std::move(sequences));
  const auto view = [](const auto& vector) {
    using Element = typename std::remove_cvref_t<decltype(vector)>::value_type;
    return vector.empty() ? Vector<const Element>::none() : Vector<const Element>(vector.data(), vector.size());
  };
  dataset.offsets = view(owned->offsets);
  dataset.items = view(owned->items);
  dataset.timestamps = view(owned->timestamps);
  dataset.baskets = view(owned->baskets);
  dataset.storage = owned;
}

}  // namespace

InteractionCollector::InteractionCollector(const DataConfig& config)
    : by_basket_(config.sequence_by == "basket" && config.format != "sequences"),
      has_baskets_(!by_basket_ && config.format != "sequences" && !config.columns.basket.empty()),
      has_times_(config.format != "sequences" && !resolved_columns(config).timestamp.empty()),
      has_titles_(config.format != "sequences" && !config.columns.title.empty()) {}

const char* InteractionCollector::take(const Row& row) {
  // RecBole tables need not have times; an absent column gives views without data, an empty field does not.
  if (has_times_ && row.timestamp.data() != nullptr) {
    if (const char* reason = take_time(row.timestamp)) return reason;
  }
  const std::string_view sequence = by_basket_ ? row.basket : row.user;
  if (last_sequence_number_ < 0 || sequence != last_sequence_) {
    last_sequence_number_ = log_.sequences.add(sequence);
    last_sequence_ = sequence;
  }
  log_.sequence.push_back(last_sequence_number_);
  log_.item.push_back(log_.items.add(row.item));
  if (has_baskets_) {
    if (last_basket_number_ < 0 || row.basket != last_basket_) {
      last_basket_number_ = log_.baskets.add(row.basket);
      last_basket_ = row.basket;
    }
    log_.basket.push_back(last_basket_number_);
  }
  if (has_titles_) vote_for_title(log_.item.back(), row.title);
  return nullptr;
}

const char* InteractionCollector::take_time(std::string_view text) {
  Timestamp timestamp;
  if (!parse_timestamp(text, timestamp)) {
    return text.empty() ? "the timestamp is empty"
                        : "the timestamp is neither a number nor a date like 2011-12-09 or 2011-12-09T12:50:00Z";
  }
  int64_t ticks = 0;
  bool rescale = false;
  if (const char* reason = log_.scale.to_ticks(timestamp, ticks, rescale)) return reason;
  if (rescale) {
    for (int64_t& earlier : log_.time) {
      CHECK(!__builtin_mul_overflow(earlier, TimestampScale::kMillion, &earlier),
            "the times are too large to be kept in millionths, and some have fractions: round them in the data");
    }
  }
  log_.time.push_back(ticks);
  return nullptr;
}

void InteractionCollector::vote_for_title(int32_t item, std::string_view title) {
  if (title.empty()) return;
  if (log_.titles.size() <= static_cast<size_t>(item)) {
    log_.titles.resize(static_cast<size_t>(log_.items.size()));
    title_votes_.resize(log_.titles.size());
  }
  if (log_.titles[item] == title) {
    ++title_votes_[item];
  } else if (title_votes_[item] == 0) {
    log_.titles[item] = title;
    title_votes_[item] = 1;
  } else {
    --title_votes_[item];
  }
}

void InteractionCollector::set_title(std::string_view id, std::string_view title) {
  const int32_t item = log_.items.find(id);
  if (item < 0 || title.empty()) return;
  log_.titles.resize(static_cast<size_t>(log_.items.size()));
  log_.titles[item] = title;
}

InteractionLog InteractionCollector::finish() {
  CHECK(log_.time.empty() || log_.time.size() == log_.item.size(),
        "some of the data.files have timestamps and some have none: name only files of one kind");
  if (!log_.titles.empty()) log_.titles.resize(static_cast<size_t>(log_.items.size()));
  return std::move(log_);
}

RuleReport drop_to_k_core(InteractionLog& log, int64_t users, int64_t items) {
  RuleReport report{
      .rule = "k_core",
      .reason = join_message("a user with fewer than ", users, " or an item with fewer than ", items, " interactions")};
  const int64_t rows = log.size();
  do {
    heartbeat();
    ++report.rounds;
  } while (drop_rows(log, users, items));
  report.rows = rows - log.size();

  const auto sequence_numbers = renumber(count_rows(log.sequence, log.sequences.size()));
  const auto item_numbers = renumber(count_rows(log.item, log.items.size()));
  apply(sequence_numbers, log.sequence);
  apply(item_numbers, log.item);
  for (size_t item = 0; item < log.titles.size(); ++item) {
    // Moves towards the front only; a title on its own place stays.
    const int32_t number = item_numbers[item];
    if (number >= 0 && static_cast<size_t>(number) != item) log.titles[number] = std::move(log.titles[item]);
  }
  Vocabulary kept_sequences = log.sequences.renumbered(sequence_numbers);
  Vocabulary kept_items = log.items.renumbered(item_numbers);
  report.users = log.sequences.size() - kept_sequences.size();
  report.items = log.items.size() - kept_items.size();
  log.sequences = std::move(kept_sequences);
  log.items = std::move(kept_items);
  if (!log.titles.empty()) log.titles.resize(static_cast<size_t>(log.items.size()));
  return report;
}

Dataset make_dataset(InteractionLog& log, const std::string& sequence_by, const std::string& timestamp_unit,
                     int64_t& ties) {
  Sequences sequences = group_by_sequence(log);
  ties = sequences.timestamps.empty() ? 0 : sort_by_time(sequences);
  renumber_baskets(sequences.baskets);
  Dataset dataset;
  own_sequences(dataset, std::move(sequences));
  dataset.sequence_ids = std::move(log.sequences);
  dataset.item_ids = std::move(log.items);
  dataset.titles = std::move(log.titles);
  dataset.item_counts.resize(static_cast<size_t>(dataset.item_ids.size()));
  for (int32_t item : dataset.items) ++dataset.item_counts[item];
  dataset.sequence_by = sequence_by;
  if (dataset.timestamps) dataset.timestamp_unit = timestamp_unit;
  dataset.hash = content_hash(dataset);
  return dataset;
}

}  // namespace itemloom
