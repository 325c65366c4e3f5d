#!/usr/bin/env python3
"""Writes bert4rec.h5: logits, loss and every gradient of two tiny BERT4Rec models, as PyTorch computes them in double.

The models are written in plain torch calls from the description in layers/models/bert4rec.h and share nothing with the
C++ code but the parameter names. Needs torch, numpy and h5py. Run it from anywhere; the file lands beside the script.
"""
import os

import h5py
import numpy as np
import torch
import torch.nn.functional as F

V, C, HEADS, LAYERS, INNER, LENGTH = 13, 16, 2, 2, 24, 7
SEQUENCES = [[3, 1, 12, 5], [7], [0, 2, 2, 9, 11, 4, 6], [8, 10, 1]]
MASKED = [[1, 3], [0], [0, 2, 6], [2]]
EPSILON = 1e-5

CASES = {
    "pre": dict(norm="pre", activation="gelu", tied=True, transform=True, bias=True),
    "post": dict(norm="post", activation="gelu_tanh", tied=False, transform=True, bias=False),
    "bare": dict(norm="post", activation="relu", tied=True, transform=False, bias=True),
}


def parameters(case, rng):
    shapes = {"item_embedding.weight": (V + 1, C), "position_embedding.weight": (LENGTH, C)}
    norm = "encoder.norm" if case["norm"] == "pre" else "embedding_norm"
    shapes |= {f"{norm}.gamma": (C,), f"{norm}.beta": (C,)}
    for layer in range(LAYERS):
        p = f"encoder.{layer}."
        shapes |= {p + "attention.qkv.weight": (3 * C, C), p + "attention.qkv.bias": (3 * C,),
                   p + "attention.output.weight": (C, C), p + "attention.output.bias": (C,),
                   p + "attention_norm.gamma": (C,), p + "attention_norm.beta": (C,),
                   p + "feed_forward.inner.weight": (INNER, C), p + "feed_forward.inner.bias": (INNER,),
                   p + "feed_forward.outer.weight": (C, INNER), p + "feed_forward.outer.bias": (C,),
                   p + "feed_forward_norm.gamma": (C,), p + "feed_forward_norm.beta": (C,)}
    if case["transform"]:
        shapes |= {"head.dense.weight": (C, C), "head.dense.bias": (C,), "head.norm.gamma": (C,), "head.norm.beta": (C,)}
    if not case["tied"]:
        shapes["head.output.weight"] = (V, C)
    if case["bias"]:
        shapes["head.output_bias"] = (V,)
    values = {}
    for name, shape in shapes.items():
        value = rng.normal(0, 0.4, shape) + (1.0 if name.endswith("gamma") else 0.0)
        # Rounded to float first: both sides start from the same numbers.
        values[name] = torch.tensor(value.astype(np.float32).astype(np.float64), requires_grad=True)
    return values


def activation(x, kind):
    if kind == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")


def forward(w, case):
    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name):
        return F.layer_norm(x, (C,), w[name + ".gamma"], w[name + ".beta"], EPSILON)

    pre = case["norm"] == "pre"
    logits, targets = [], []
    for sequence, masked in zip(SEQUENCES, MASKED):
        items = torch.tensor([V if place in masked else item for place, item in enumerate(sequence)])
        positions = torch.arange(LENGTH - len(sequence), LENGTH)
        x = w["item_embedding.weight"][items] + w["position_embedding.weight"][positions]
        if not pre:
            x = norm(x, "embedding_norm")
        for layer in range(LAYERS):
            p = f"encoder.{layer}."
            h = norm(x, p + "attention_norm") if pre else x
            q, k, v = linear(h, p + "attention.qkv").chunk(3, dim=1)
            split = lambda t: t.reshape(len(sequence), HEADS, C // HEADS).transpose(0, 1)
            scores = split(q) @ split(k).transpose(1, 2) / (C // HEADS) ** 0.5
            attended = (torch.softmax(scores, -1) @ split(v)).transpose(0, 1).reshape(len(sequence), C)
            x = x + linear(attended, p + "attention.output")
            if not pre:
                x = norm(x, p + "attention_norm")
            h = norm(x, p + "feed_forward_norm") if pre else x
            h = linear(activation(linear(h, p + "feed_forward.inner"), case["activation"]), p + "feed_forward.outer")
            x = x + h
            if not pre:
                x = norm(x, p + "feed_forward_norm")
        x = x[masked]
        if pre:
            x = norm(x, "encoder.norm")
        if case["transform"]:
            x = norm(activation(linear(x, "head.dense"), case["activation"]), "head.norm")
        table = w["item_embedding.weight"][:V] if case["tied"] else w["head.output.weight"]
        z = x @ table.T
        if case["bias"]:
            z = z + w["head.output_bias"]
        logits.append(z)
        targets += [sequence[place] for place in masked]
    logits = torch.cat(logits)
    return logits, F.cross_entropy(logits, torch.tensor(targets), reduction="sum")


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bert4rec.h5")
    rng = np.random.default_rng(20240607)
    with h5py.File(path, "w") as file:
        for name, case in CASES.items():
            w = parameters(case, rng)
            logits, loss = forward(w, case)
            loss.backward()
            group = file.create_group(name)
            group["logits"] = logits.detach().numpy()
            group["loss"] = np.array([loss.item()])
            for parameter, value in w.items():
                group[f"value/{parameter}"] = value.detach().numpy().astype(np.float32)
                group[f"gradient/{parameter}"] = value.grad.numpy()


if __name__ == "__main__":
    main()
