#!/usr/bin/env python3
"""check_exports.py FOLDER: opens what `itemloom export` wrote (export.h5, npy/, vectors.txt, vectors.bin, export.csv)
with h5py, numpy, pandas and gensim, and checks that they say the same. Exits with 1 and a message where they do not."""
import os
import sys

import h5py
import numpy as np
import pandas as pd
from gensim.models import KeyedVectors

folder = sys.argv[1]


def at(name):
    return os.path.join(folder, name)


with h5py.File(at("export.h5")) as file:
    ids = list(file["item/id"].asstr()[:])
    titles = list(file["item/title"].asstr()[:])
    vectors = file["item/embedding"][:]
    counts = file["item/count"][:]
    neighbors = file["neighbors/index"][:]
    neighbor_scores = file["neighbors/score"][:]
    associations = {name: file[f"association/{name}"][:] for name in file["association"]}
    assert int(file.attrs["format_version"]) >= 1, "no format_version"

items = len(ids)
assert len(set(ids)) == items, "item ids repeat"
assert vectors.shape[0] == items and vectors.dtype == np.float32, vectors.shape
assert (counts > 0).all(), "an item without a training interaction"

# Neighbours: what numpy finds, in the same order (up to rounding), never the item itself.
unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
similarity = unit @ unit.T
np.fill_diagonal(similarity, -np.inf)
k = neighbors.shape[1]
expected = -np.sort(-similarity, axis=1)[:, :k]
assert np.allclose(neighbor_scores, expected, atol=1e-5), np.abs(neighbor_scores - expected).max()
assert (neighbors != np.arange(items)[:, None]).all(), "an item is its own neighbour"

# Associations: probabilities over the other items, best first.
score = associations["score"]
assert ((score > 0) & (score < 1)).all() and (np.diff(score, axis=1) <= 0).all(), "scores are not sorted probabilities"
assert (score.sum(axis=1) <= 1 + 1e-4).all(), "probabilities sum to more than 1"
assert (associations["index"] != np.arange(items)[:, None]).all(), "an item is associated with itself"

matrix = np.load(at("npy/embedding.npy"))
assert np.array_equal(matrix, vectors), "npy differs from h5"
with open(at("npy/ids.txt"), encoding="utf-8") as file:
    assert file.read().splitlines() == ids, "ids.txt differs from h5"

for name, binary in (("vectors.txt", False), ("vectors.bin", True)):
    model = KeyedVectors.load_word2vec_format(at(name), binary=binary)
    assert len(model) == items
    for row in (0, items // 2, items - 1):
        assert np.allclose(model[ids[row].replace(" ", "_")], vectors[row], atol=1e-5), (name, ids[row])

frame = pd.read_csv(at("export.csv"), dtype={"id": str}, keep_default_na=False)
assert list(frame["id"]) == ids and list(frame["title"]) == titles, "csv differs from h5"
assert np.allclose(frame[[f"e{i}" for i in range(vectors.shape[1])]].to_numpy(), vectors, atol=1e-6)
print(f"{items} items read alike by h5py, numpy, gensim and pandas")
