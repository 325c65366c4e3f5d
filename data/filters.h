// Cleaning: each rule says how many rows it dropped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/readers.h"

namespace itemloom {

// What one rule did.
struct RuleReport {
  std::string rule;              // "match", "missing", "positive", "duplicates", "k_core"
  std::string reason;            // why rows were dropped: "InvoiceNo matches \"^C\""
  int64_t rows = 0;              // rows dropped
  int64_t users = 0, items = 0;  // k_core: users and items that were left with no row
  int64_t rounds = 0;            // k_core: how often it had to look again
};

// A rule that judges rows one by one, in the order of the files.
class RowRule {
 public:
  virtual ~RowRule() = default;
  // A file begins: looks up the columns.
  virtual void begin_file(const Header& header) = 0;
  virtual bool drops(const Row& row) = 0;
  // What makes a row be dropped, for the report.
  virtual std::string reason() const = 0;
};

// The row rules of a config, in its order; a row that one drops is not seen by the next.
class RowFilters {
 public:
  // Throws Error naming data.filters[i] when a pattern is no regular expression, when columns are missing, or when a
  // row rule comes after a k_core, which needs all rows that remain.
  explicit RowFilters(const std::vector<FilterConfig>& filters);

  void begin_file(const Header& header);
  bool keep(const Row& row);
  std::vector<RuleReport> reports() const;

 private:
  struct Entry {
    std::string name;
    std::unique_ptr<RowRule> rule;
    int64_t dropped = 0;
  };
  std::vector<Entry> entries_;
};

}  // namespace itemloom
