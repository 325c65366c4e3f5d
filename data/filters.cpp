#include "data/filters.h"

#include <charconv>
#include <regex>

#include "core/check.h"
#include "data/hashing.h"
#include "data/text.h"
#include "data/vocabulary.h"

namespace itemloom {
namespace {

// A rule's columns, given by the user, looked up in each file.
class ColumnList {
 public:
  ColumnList(std::vector<std::string> names, std::string key) : names_(std::move(names)), key_(std::move(key)) {}
  void begin_file(const Header& header) {
    indices_.clear();
    for (const std::string& name : names_) indices_.push_back(static_cast<size_t>(header.find(name, key_)));
  }
  const std::vector<size_t>& indices() const { return indices_; }
  std::string joined(const char* between) const {
    std::string text;
    for (const std::string& name : names_) text += (text.empty() ? "" : between) + name;
    return text;
  }

 private:
  std::vector<std::string> names_;
  std::string key_;
  std::vector<size_t> indices_;
};

// Regular expressions are slow and columns repeat themselves, so answers are remembered.
class MatchRule : public RowRule {
 public:
  MatchRule(const FilterConfig& config, const std::string& key)
      : column_({config.column}, key + ".column"), pattern_(config.pattern), drop_matches_(config.action == "drop") {
    try {
      expression_.assign(config.pattern, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& error) {
      fail(key, ".pattern: ", in_quotes(config.pattern), " is no regular expression (", error.what(), ")");
    }
  }
  void begin_file(const Header& header) override { column_.begin_file(header); }
  bool drops(const Row& row) override {
    const std::string_view field = row.fields[column_.indices()[0]];
    return matches(field.substr(0, kLongestField)) == drop_matches_;
  }
  std::string reason() const override {
    return join_message(column_.joined(""), drop_matches_ ? " matches " : " does not match ", in_quotes(pattern_));
  }

 private:
  // The standard library's matcher recurses by letter: a longer field could exhaust the stack.
  static constexpr size_t kLongestField = 1024;
  static constexpr int32_t kMostRemembered = 1 << 18;

  bool matches(std::string_view field) {
    const int32_t known = remembered_.find(field);
    if (known >= 0) return answers_[known];
    const bool answer = std::regex_search(field.begin(), field.end(), expression_);
    if (remembered_.size() < kMostRemembered) {
      remembered_.add(field);
      answers_.push_back(answer);
    }
    return answer;
  }

  ColumnList column_;
  std::string pattern_;
  bool drop_matches_;
  std::regex expression_;
  Vocabulary remembered_;
  std::vector<bool> answers_;
};

class MissingRule : public RowRule {
 public:
  MissingRule(const FilterConfig& config, const std::string& key) : columns_(config.columns, key + ".columns") {}
  void begin_file(const Header& header) override { columns_.begin_file(header); }
  bool drops(const Row& row) override {
    for (size_t index : columns_.indices()) {
      if (row.fields[index].find_first_not_of(" \t") == std::string_view::npos) return true;
    }
    return false;
  }
  std::string reason() const override { return columns_.joined(" or ") + " is empty"; }

 private:
  ColumnList columns_;
};

class PositiveRule : public RowRule {
 public:
  PositiveRule(const FilterConfig& config, const std::string& key) : columns_(config.columns, key + ".columns") {}
  void begin_file(const Header& header) override { columns_.begin_file(header); }
  bool drops(const Row& row) override {
    for (size_t index : columns_.indices()) {
      const std::string_view field = row.fields[index];
      const char* end = field.data() + field.size();
      double value = 0;
      const auto [stop, error] = std::from_chars(field.data(), end, value);
      if (error != std::errc() || stop != end || !(value > 0)) return true;
    }
    return false;
  }
  std::string reason() const override { return columns_.joined(" or ") + " is not above zero"; }

 private:
  ColumnList columns_;
};

// Remembers 128 bits of a hash a row instead of the row.
class DuplicatesRule : public RowRule {
 public:
  DuplicatesRule(const FilterConfig& config, const std::string& key) : columns_(config.columns, key + ".columns") {}
  void begin_file(const Header& header) override { columns_.begin_file(header); }
  bool drops(const Row& row) override {
    key_.clear();
    if (columns_.indices().empty()) {
      for (std::string_view field : {row.user, row.item, row.timestamp, row.basket}) append(field);
    } else {
      for (size_t index : columns_.indices()) append(row.fields[index]);
    }
    return !seen_.insert(hash128(key_));
  }
  std::string reason() const override {
    const std::string names = columns_.joined(", ");
    return "the same " + (names.empty() ? "user, item, time and basket" : names) + " as an earlier row";
  }

 private:
  // The length goes before the text, so that "ab","c" and "a","bc" differ.
  void append(std::string_view field) {
    const uint64_t size = field.size();
    key_.append(reinterpret_cast<const char*>(&size), sizeof(size));
    key_ += field;
  }

  ColumnList columns_;
  std::string key_;
  HashSet seen_;
};

std::unique_ptr<RowRule> make_rule(const FilterConfig& config, const std::string& key) {
  if (config.rule == "match") {
    CHECK(!config.column.empty(), key, ".column is empty: name the column that the pattern is searched in");
    return std::make_unique<MatchRule>(config, key);
  }
  if (config.rule == "duplicates") return std::make_unique<DuplicatesRule>(config, key);
  CHECK(!config.columns.empty(), key, ".columns is empty: name the columns that the rule ", in_quotes(config.rule),
        " looks at");
  if (config.rule == "missing") return std::make_unique<MissingRule>(config, key);
  return std::make_unique<PositiveRule>(config, key);
}

}  // namespace

RowFilters::RowFilters(const std::vector<FilterConfig>& filters) {
  bool after_core = false;
  for (size_t i = 0; i < filters.size(); ++i) {
    const std::string key = join_message("data.filters[", i, "]");
    if (filters[i].rule == "k_core") {
      after_core = true;
      continue;
    }
    CHECK(!after_core, key, ": the rule ", in_quotes(filters[i].rule),
          " comes after k_core, which looks at the rows that all others leave; put k_core last");
    entries_.push_back({filters[i].rule, make_rule(filters[i], key)});
  }
}

void RowFilters::begin_file(const Header& header) {
  for (Entry& entry : entries_) entry.rule->begin_file(header);
}

bool RowFilters::keep(const Row& row) {
  for (Entry& entry : entries_) {
    if (entry.rule->drops(row)) {
      ++entry.dropped;
      return false;
    }
  }
  return true;
}

std::vector<RuleReport> RowFilters::reports() const {
  std::vector<RuleReport> reports;
  for (const Entry& entry : entries_) {
    reports.push_back({.rule = entry.name, .reason = entry.rule->reason(), .rows = entry.dropped});
  }
  return reports;
}

}  // namespace itemloom
