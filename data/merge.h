// Several prepared datasets as one: shards of one data set, a month or a region each.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"

namespace itemloom {

// What reading the shards' raw files one after the other would have given, filters apart, which stay as each shard was
// prepared with:
// * An id is the same item, and the same user (or, with sequence_by "basket", the same basket), in every shard. Both
//   are numbered in the order in which they first appear, shard after shard.
// * A user of several shards is one sequence, in time order. Equal times keep the order of the shards, and where there
//   are no timestamps the parts follow each other in it.
// * An item's title is the first one that is not empty.
// * Baskets of different shards are different ones, since a dataset does not know their ids.
// * The report adds up those of the shards; users and items that k_core dropped are counted once for each shard.
// Sources
//   are those of all shards.
// `names` are the shards' files, for messages and the provenance. Memory is O(interactions). Throws Error naming two
// files when their sequences or times are of different kinds, when only one of them has timestamps or baskets, and when
// both hold the same data.
Dataset merge_datasets(const std::vector<Dataset>& shards, const std::vector<std::string>& names);

}  // namespace itemloom
