#!/usr/bin/env python3
"""read_export.py EXPORT.h5 ITEM_ID: what a consumer does with an export (needs h5py and numpy)."""
import sys

import h5py
import numpy as np

path, wanted = sys.argv[1], sys.argv[2]
with h5py.File(path) as file:
    ids = file["item/id"].asstr()[:]
    titles = file["item/title"].asstr()[:]
    vectors = file["item/embedding"][:]
    row = int(np.flatnonzero(ids == wanted)[0])

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = np.argsort(-(unit @ unit[row]))[1:6]
    print(f"{wanted} {titles[row]}: nearest by cosine")
    for other in similar:
        print(f"  {ids[other]:12} {unit[other] @ unit[row]:.4f}  {titles[other]}")

    table = file["association"]
    print(f"most likely beside it ({table['score'].attrs['meaning']})")
    for other, score, count, lift in zip(*(table[name][row][:5] for name in ("index", "score", "count", "lift"))):
        print(f"  {ids[other]:12} P={score:.4f} together={count} lift={lift:.1f}  {titles[other]}")
