#!/usr/bin/env python3
"""Writes bert4rec.h5: logits, loss and every gradient of three tiny BERT4Rec models, as PyTorch computes them in
double, and the errors that a plain bf16 version would make of them.

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
STEPS, LEARNING_RATE = 20, 0.01

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


class Rounded(torch.autograd.Function):
    """Rounds to bf16 what goes forward, or the gradient on its way back, or both."""

    @staticmethod
    def forward(context, x, forward, backward):
        context.backward_too = backward
        return x.bfloat16().double() if forward else x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.bfloat16().double() if context.backward_too else gradient, None, None


class Exact:
    """What the model does with the results of its ops."""

    @staticmethod
    def stored(x):
        return x

    factor = logits = stored


class PlainBf16:
    """What README.md says of precision bf16, with nothing fused: results and their gradients are stored as bf16,
    products read a bf16 copy of a parameter whose gradient is fp32, and what a softmax reads is fp32 but not its
    gradient."""

    @staticmethod
    def stored(x):
        return Rounded.apply(x, True, True)

    @staticmethod
    def factor(x):
        return Rounded.apply(x, True, False)

    @staticmethod
    def logits(x):
        return Rounded.apply(x, False, True)


def activation(x, kind):
    if kind == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")


def forward(w, case, precision=Exact):
    """Logits and loss."""
    store, factor = precision.stored, precision.factor

    def linear(x, name):
        return store(x @ factor(w[name + ".weight"]).T + factor(w[name + ".bias"]))

    def norm(x, name):
        return store(F.layer_norm(x, (C,), w[name + ".gamma"], w[name + ".beta"], EPSILON))

    pre = case["norm"] == "pre"
    logits, targets = [], []
    for sequence, masked in zip(SEQUENCES, MASKED):
        items = torch.tensor([V if place in masked else item for place, item in enumerate(sequence)])
        positions = torch.arange(LENGTH - len(sequence), LENGTH)
        x = store(w["item_embedding.weight"][items] + w["position_embedding.weight"][positions])
        if not pre:
            x = norm(x, "embedding_norm")
        for layer in range(LAYERS):
            p = f"encoder.{layer}."
            h = norm(x, p + "attention_norm") if pre else x
            q, k, v = linear(h, p + "attention.qkv").chunk(3, dim=1)
            split = lambda t: t.reshape(len(sequence), HEADS, C // HEADS).transpose(0, 1)
            scores = precision.logits(split(q) @ split(k).transpose(1, 2) / (C // HEADS) ** 0.5)
            attended = store(store(torch.softmax(scores, -1)) @ split(v)).transpose(0, 1).reshape(len(sequence), C)
            x = store(x + linear(attended, p + "attention.output"))
            if not pre:
                x = norm(x, p + "attention_norm")
            h = norm(x, p + "feed_forward_norm") if pre else x
            h = store(activation(linear(h, p + "feed_forward.inner"), case["activation"]))
            x = store(x + linear(h, p + "feed_forward.outer"))
            if not pre:
                x = norm(x, p + "feed_forward_norm")
        x = x[masked]
        if pre:
            x = norm(x, "encoder.norm")
        if case["transform"]:
            x = norm(store(activation(linear(x, "head.dense"), case["activation"])), "head.norm")
        table = factor(w["item_embedding.weight"][:V] if case["tied"] else w["head.output.weight"])
        z = x @ table.T
        if case["bias"]:
            z = z + w["head.output_bias"]
        logits.append(precision.logits(z))
        targets += [sequence[place] for place in masked]
    logits = torch.cat(logits)
    return logits, F.cross_entropy(logits, torch.tensor(targets), reduction="sum")


def near(values, count):
    """These parameters, and others within 1 % of them."""
    rng = np.random.default_rng(1)
    yield values
    for _ in range(count):
        yield {name: value * torch.tensor(1 + rng.uniform(-0.01, 0.01, value.shape)) for name, value in values.items()}


def likely(errors):
    """A version may be lucky: its error from these parameters or, where that is more, the root of the mean square of
    those from others near them."""
    return {name: max(error, np.mean([one[name] ** 2 for one in errors[1:]]) ** 0.5)
            for name, error in errors[0].items()}


def step_errors(values, case):
    """Of a plain bf16 version: of the loss and of each parameter's gradient, by its norm."""
    exact, plain = ({name: value.clone().requires_grad_() for name, value in values.items()} for _ in range(2))
    loss, plain_loss = forward(exact, case)[1], forward(plain, case, PlainBf16)[1]
    loss.backward()
    plain_loss.backward()
    errors = {name: (plain[name].grad - exact[name].grad).norm().item() for name in values}
    return errors | {"loss": abs(plain_loss.item() - loss.item())}


def train(values, case, precision):
    """STEPS steps of Adam on the batch: the losses and the parameters after them."""
    values = {name: value.clone().requires_grad_() for name, value in values.items()}
    optimizer = torch.optim.Adam(values.values(), lr=LEARNING_RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        _, loss = forward(values, case, precision)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), {name: value.detach() for name, value in values.items()}


def without_keys(name, value):
    """Whose biases' gradients are zero, which a rounding makes a whole step of Adam: they walk at random."""
    return torch.cat([value[:C], value[2 * C:]]) if name.endswith("qkv.bias") else value


def training_errors(values, case):
    """Of a plain bf16 version: of all losses and of each parameter in the end, by their norms."""
    losses, exact = train(values, case, Exact)
    plain_losses, plain = train(values, case, PlainBf16)
    errors = {name: without_keys(name, plain[name] - exact[name]).norm().item() for name in values}
    return errors | {"loss": np.linalg.norm(plain_losses - losses)}


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
            if case["activation"] == "relu":
                continue
            values = {parameter: value.detach() for parameter, value in w.items()}
            errors = likely([step_errors(some, case) for some in near(values, 16)])
            later_errors = likely([training_errors(some, case) for some in near(values, 8)])
            for parameter in w:
                group[f"bf16_error/{parameter}"] = np.array([errors[parameter]])
                group[f"bf16_error_after_steps/{parameter}"] = np.array([later_errors[parameter]])
            group["bf16_error_of_loss"] = np.array([errors["loss"]])
            group["bf16_error_of_losses"] = np.array([later_errors["loss"]])


if __name__ == "__main__":
    main()
