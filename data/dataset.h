// A prepared dataset: who had which items, in time order.
//
// File (HDF5, sealed, kind "dataset", version 1):
//   /sequences/offsets (sequences + 1) int64, /sequences/items (interactions) int32: sequence s is
//     items[offsets[s]] ... items[offsets[s + 1] - 1], oldest first
//   /sequences/timestamps (interactions) int64 and /sequences/baskets (interactions) int32, where known
//   /user/id (sequences) text; /item/id (items) text, /item/title text where known, /item/count int64
//   attributes of "/": sequence_by, timestamp_unit, sha256 (of the content, see Dataset::hash)
//   attributes of /provenance, each a JSON text: sources (name, bytes, sha256), config (how it was read and cleaned),
//     report
// /sequences is stored contiguous and uncompressed and is memory-mapped by readers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/view.h"
#include "data/config.h"
#include "data/vocabulary.h"

namespace itemloom {

// In memory or mapped from a file; copies share the sequences, which nobody writes to.
struct Dataset {
  Vector<const int64_t> offsets = Vector<const int64_t>::none();     // (sequences + 1), from 0
  Vector<const int32_t> items = Vector<const int32_t>::none();       // (interactions), numbers of item_ids
  Vector<const int64_t> timestamps = Vector<const int64_t>::none();  // (interactions) or none, in timestamp_unit
  // (interactions) or none: interactions of one basket have one number. Not used when the sequences are baskets.
  Vector<const int32_t> baskets = Vector<const int32_t>::none();

  Vocabulary sequence_ids;              // users, or baskets with sequence_by "basket"
  Vocabulary item_ids;                  // numbered in the order in which items first appear in the files
  std::vector<std::string> titles;      // by item; empty when none are known; UTF-8
  std::vector<int64_t> item_counts;     // (V) interactions by item
  std::string sequence_by = "user";     // "user" or "basket"
  std::string timestamp_unit;           // see TimestampScale::unit(); empty without timestamps
  std::string hash;                     // SHA-256 of all of the above
  std::string sources, config, report;  // JSON, see the file's /provenance

  int64_t sequence_count() const { return offsets.size() - 1; }
  int64_t item_count() const { return static_cast<int64_t>(item_counts.size()); }  // V
  int64_t interaction_count() const { return items.size(); }
  int64_t length(int64_t sequence) const { return offsets[sequence + 1] - offsets[sequence]; }
  Vector<const int32_t> sequence(int64_t sequence) const { return items.slice(offsets[sequence], length(sequence)); }
  // The title, or nothing.
  std::string title(int32_t item) const { return titles.empty() ? std::string() : titles[item]; }
  // The number of an item; throws Error with the nearest ids when there is none of this id.
  int32_t find_item(const std::string& id) const;

  // What the views point to.
  std::shared_ptr<const void> storage;
};

// The hash that Dataset::hash should be.
std::string content_hash(const Dataset& dataset);

// Written aside and renamed. Throws Error naming the path when it cannot be written.
void save_dataset(const Dataset& dataset, const std::string& path);

enum class DatasetUse {
  kAll,
  // The sequences, counts and the hash, without ids, titles and provenance, and unverified: for ranks beside one that
  // has verified the file.
  kTraining,
};

// Maps the sequences. Throws Error naming the file, and the place in it, when it is no dataset of ours or damaged, when
// offsets do not ascend or an item is out of range, and when the content does not match its hash.
Dataset load_dataset(const std::string& path, DatasetUse use = DatasetUse::kAll);

}  // namespace itemloom
