// What a run hands to other programs: item embeddings, nearest items and associations.
//
// HDF5 (kind "export", version 1); V items, row i is item i; K neighbours:
//   /item/id, /item/title (V) text, /item/count (V) int64 training interactions
//   /item/embedding (V, C) float32, /item/bias (V) float32 where the model has one
//   /special/name (1) text, /special/embedding (1, C): the mask's
//   /neighbors/index (V, K) int32, /neighbors/score (V, K) float32: nearest by cosine; /neighbors_dot: by dot product
//   /association/{index,score,log_ratio,count,support,confidence,lift} (V, K): see train/associations.h
// Missing places have index -1. Attributes "meaning" say what a dataset holds; attributes of "/" name config, dataset,
// checkpoint and test metrics.
#pragma once

#include <string>

#include "train/run_folder.h"

namespace itemloom {

// Neighbours, associations and metrics are computed on the run's device.
void export_hdf5(OpenedRun& run, const std::string& path);

// A folder with embedding.npy (V, C), bias.npy (V) where the model has one, ids.txt and titles.txt (a line an item).
void export_npy(OpenedRun& run, const std::string& folder);

// word2vec's format, text or binary; spaces in ids become underscores, because the format ends a word at a space.
// Throws Error naming two ids that would become one word.
void export_word2vec(OpenedRun& run, const std::string& path, bool binary);

// id, title, count, bias, e0 ... a line an item, quoted as RFC 4180 says.
void export_csv(OpenedRun& run, const std::string& path);

}  // namespace itemloom
