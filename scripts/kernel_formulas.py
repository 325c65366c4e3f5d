"""Bytes, FLOPs and the least time of every launch of a BERT4Rec training step. COMPUTED, NOT MEASURED.

Each array of a launch counts once as read and once as written, also where caches would hold it from one launch to the
next. Left out: launch latency, tails of grids, what a kernel reads again from the caches, integer work (Philox),
sequences of unequal length. scripts/kernel_report.py prints it, scripts/gpu_check.sh compares it with a GPU.
"""

# SXM modules, dense. TFLOP/s of fp32's FMA units and of the tensor cores, GB/s of memory. A100: data sheet "NVIDIA A100
# Tensor Core GPU", 80 GB. H100: "NVIDIA H100 Tensor Core GPU", half of its tensor figures, which are with sparsity.
# H200: "NVIDIA H200 Tensor Core GPU", likewise. B200: "NVIDIA Blackwell Architecture Technical Brief", HGX B200, one
# GPU.
DATA_SHEETS = {
    "A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "bandwidth": 2039.0},
    "H100": {"fp32": 67.0, "tf32": 494.5, "bf16": 989.0, "bandwidth": 3350.0},
    "H200": {"fp32": 67.0, "tf32": 494.5, "bf16": 989.0, "bandwidth": 4800.0},
    "B200": {"fp32": 80.0, "tf32": 1100.0, "bf16": 2250.0, "bandwidth": 8000.0},
}
# Of training.precision: bytes of an activation.
ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}

# By launch name (the `name` of cuda::start): what is read; what is written. n elements, r rows, c columns, e bytes of
# an activation and of what a product reads. The optimizer's parameters, their gradients, tables where rows are looked
# up, statistics, logits and partial sums have 4. An exp, erf or square root is one FLOP. Each gives (bytes, FLOPs).


def up(value, unit):
    return -(-value // unit)


FORMULAS = {
    # y
    "fill": lambda n, e=4: (n * e, 0),
    # x, y; y
    "add_scaled": lambda n, e=4: (3 * n * e, 2 * n),
    # x of fp32; y of bf16
    "convert": lambda n: (6 * n, 0),
    # x; y
    "activation_forward": lambda n, e: (2 * n * e, 8 * n),
    # dy, x; dx, a partial row for each 32 rows
    "activation_backward": lambda r, c, e: (3 * r * c * e + 4 * c * up(r, 32), 13 * r * c),
    # x and the residual; y
    "dropout_forward": lambda n, e, residual: ((2 + residual) * n * e, (1 + residual) * n),
    # dy, dx and dresidual; dx and dresidual
    "dropout_backward": lambda n, e, residual: ((3 + 2 * residual) * n * e, (2 + residual) * n),
    # rows of x, indices; y
    "gather_rows": lambda r, c, e: (2 * r * c * e + 8 * r, 0),
    # dy, rows of dx, indices; rows of dx
    "scatter_add_rows": lambda r, c, e: (3 * r * c * e + 8 * r, r * c),
    # x and the residual, gamma, beta; the sum and y, mean, inverse_std. The second and third reading of a row is the
    # cache's.
    "layer_norm_forward": lambda r, c, e, sums=False, residual=False: (
        (2 + sums + residual) * r * c * e + 8 * c + 8 * r, (8 + sums + residual) * r * c),
    # dy and dsum, the sum or x, dx where no product's and dresidual, gamma, mean, inverse_std; dx and dresidual, two or
    # three partial rows for each 16 rows
    "layer_norm_backward": lambda r, c, e, sums=False, residual=False, dsum=False, product=False: (
        (4 - product + dsum + 2 * residual) * r * c * e + 4 * c + 8 * r + 4 * (2 + product) * c * up(r, 16),
        (16 + sums + residual + dsum) * r * c),
    # `count` partial rows of c numbers of e bytes, y; y
    "add_partials": lambda count, c, e=4: (count * c * e + 8 * c, count * c),
    # x; a partial row for each 64 rows
    "column_sum": lambda r, c, e: (r * c * e + 4 * c * up(r, 64), r * c),
    # x. The sums, one of many thousand elements, are left out.
    "sum_of_squares": lambda n: (4 * n, 2 * n),
    # sums of squares, one for each 16,384 elements
    "decide_step": lambda n: (8 * up(n, 16384), up(n, 16384)),
    # a loss; the sum of all
    "add_loss": lambda: (24, 1),
    # value, gradient and two moments, each read and written (the gradient as zero)
    "adam_step": lambda n: (32 * n, 14 * n),
    # the same with momentum's velocity in place of the moments
    "sgd_step": lambda n: (24 * n, 6 * n),
    "rmsprop_step": lambda n: (32 * n, 12 * n),
    # ids, rows of the table; y (bags of one id)
    "embedding_bag_forward": lambda r, c, e: (r * c * (4 + e) + 4 * r, r * c),
    # ids; keys, numbers
    "number_occurrences": lambda n: (12 * n, 0),
    # keys for the histogram; then pairs read and written for every 8 bits of the ids
    "radix sort": lambda n, bits: (4 * n + 16 * n * up(bits, 8), 0),
    # numbers, ids; rows, factors, pieces
    "cut_runs": lambda n: (24 * n, 0),
    # dy, rows, factors, pieces; `distinct` table rows read and written. Partial rows of long runs are left out.
    "embedding_bag_backward": lambda n, c, e, distinct: (n * c * e + 16 * n + 8 * distinct * c, n * c),
    # ids; a partial row of 64 occurrences, at most
    "embedding_bag_long_runs": lambda n, c: (4 * n + 4 * c * up(n, 64), c * up(n, 64)),
    # q of the queries, k and v of the rows (r, sequences of `length`); y, log_sum_exp. Scores stay in the kernel.
    "attention_forward": lambda queries, r, c, e, heads, length: (
        (2 * queries + 2 * r) * c * e + 4 * queries * heads, queries * length * (4 * c + 5 * heads)),
    # dy, y; delta, starts
    "attention_row_dots": lambda queries, c, e, heads: (2 * queries * c * e + 4 * queries * heads + 4 * queries,
                                                       2 * queries * c),
    # q, dy, dq of the queries, k and v of the rows, log_sum_exp, delta; dq. Scores are computed again.
    "attention_query_gradients": lambda queries, r, c, e, heads, length: (
        (4 * queries + 2 * r) * c * e + 8 * queries * heads, queries * length * (6 * c + 6 * heads)),
    # the same without dq, and dk, dv; dk, dv
    "attention_key_gradients": lambda queries, r, c, e, heads, length: (
        (2 * queries + 6 * r) * c * e + 8 * queries * heads, queries * length * (8 * c + 6 * heads)),
    # a (m, k), b (k, n), bias, c (m, n) where it is added into; c, of `out` bytes
    "cublasLtMatmul": lambda m, n, k, e, out, accumulate=False, bias=False: (
        (m * k + k * n) * e + m * n * out * (1 + accumulate) + n * e * bias, 2 * m * n * k),
    # logits; dz; targets and losses. Those of hundreds of rows are under way at a time: the second reading of a row of
    # up to 16,384 items is the cache's, longer ones are read again. Cut rows: also tops, sums and targets' logits.
    "masked_item_loss_rows": lambda r, c, e: (r * c * (4 + 4 * (c > 16384) + e) + 8 * r, 6 * r * c),
    "masked_item_loss_scan": lambda r, c: (r * c * 4 + 32 * r, 3 * r * c),
    "masked_item_loss_gradients": lambda r, c, e: (r * c * (4 + e) + 12 * r, 3 * r * c),
    # sums; dhidden twice
    "masked_item_loss_add": lambda n, e: (n * (4 + 2 * e), n),
    # losses of rows
    "masked_item_loss_sum": lambda r: (4 * r, r),
    # bias; c
    "write_bias": lambda n, c: (4 * n + 4 * c, 0),
    # scores; the best k with their places
    "top_k": lambda r, c, k: (4 * r * c + 8 * r * k, r * c),
    # scores, once for each target (from the cache from the second on)
    "count_ranks": lambda r, c: (4 * r * c, 2 * r * c),
    # gradients of activations, which start at zero
    "cudaMemset": lambda n, e: (n * e, 0),
}
for kind in ("forward", "query_gradients", "key_gradients"):
    FORMULAS[f"attention_{kind}_bf16"] = FORMULAS[f"attention_{kind}"]


def peak_of(name, precision):
    """The unit that a launch's FLOPs are done by: attention in fp32 and all that is no product take FMA units."""
    return precision if name == "cublasLtMatmul" or name.endswith("_bf16") else "fp32"


class Shape:
    """BERT4Rec as layers/models/bert4rec.cpp makes it by default, and a batch of sequences of one length."""

    def __init__(self, name, hidden, heads, items, length, sequences=256, layers=2, masked_share=0.2, piece=32768):
        self.name, self.hidden, self.heads, self.items, self.length = name, hidden, heads, items, length
        self.sequences, self.layers, self.masked_share = sequences, layers, masked_share
        self.pieces = up(sequences * length, piece) if piece else 1  # training.micro_batch_tokens

    def parameters(self):
        d = self.hidden
        return ((self.items + 1 + self.length) * d + self.layers * (12 * d * d + 13 * d) + d * d + 5 * d + self.items)

    def table(self):
        return vars(self) | {"parameters": self.parameters()}


SHAPES = [
    Shape("ml-1m-d64", hidden=64, heads=2, items=3416, length=200),
    Shape("ml-1m-d256", hidden=256, heads=4, items=3416, length=200),
    Shape("short-d64", hidden=64, heads=2, items=12101, length=9),
    Shape("short-d256", hidden=256, heads=4, items=12101, length=9),
    Shape("million-d64", hidden=64, heads=2, items=1_000_000, length=200),
    Shape("million-d256", hidden=256, heads=4, items=1_000_000, length=200),
]


class Calls:
    """The launches of a step: (launch name, arguments of its formula, how often)."""

    def __init__(self, shape, precision):
        self.shape, self.precision, self.e = shape, precision, ELEMENT_BYTES[precision]
        self.list, self.times = [], 1

    def __call__(self, name, **arguments):
        self.list.append((name, arguments, self.times))

    def product(self, m, n, k, **more):
        self("cublasLtMatmul", m=m, n=n, k=k, e=self.e, **({"out": self.e} | more))

    def zero(self, n):
        self("cudaMemset", n=n, e=self.e)

    def linear(self, r, n_in, n_out):
        self.product(r, n_out, n_in, bias=True)
        self.zero(r * n_out)
        self("column_sum", r=r, c=n_out, e=self.e)
        self("add_partials", count=up(r, 64), c=n_out)
        self.product(n_out, n_in, r, out=4, accumulate=True)
        self.product(r, n_in, n_out, accumulate=True)

    def linear_activation(self, r, n_in, n_out):
        self.product(r, n_out, n_in, bias=True)
        self("activation_forward", n=r * n_out, e=self.e)
        self.zero(r * n_out)
        self("activation_backward", r=r, c=n_out, e=self.e)
        self("add_partials", count=up(r, 32), c=n_out)
        self.product(n_out, n_in, r, out=4, accumulate=True)
        self.product(r, n_in, n_out, accumulate=True)

    def norm(self, r, dsum=False, product=False, **more):
        c = self.shape.hidden
        self("layer_norm_forward", r=r, c=c, e=self.e, **more)
        self.zero(r * c)
        if dsum:
            self.zero(r * c)
        self("layer_norm_backward", r=r, c=c, e=self.e, dsum=dsum, product=product, **more)
        self("add_partials", count=up(r, 16), c=(2 + product) * c)

    def linear_add_norm(self, r, n_in, dsum):
        n_out = self.shape.hidden
        self.product(r, n_out, n_in, bias=True)
        self.norm(r, dsum=dsum, product=True, sums=True, residual=True)
        self.product(n_out, n_in, r, out=4, accumulate=True)
        self.product(r, n_in, n_out, accumulate=True)

    def add(self, n):
        self("dropout_forward", n=n, e=self.e, residual=True)
        self.zero(n)
        self("dropout_backward", n=n, e=self.e, residual=True)

    def embedding(self, r, table_rows):
        c = self.shape.hidden
        self("embedding_bag_forward", r=r, c=c, e=self.e)
        self.zero(r * c)
        self("number_occurrences", n=r)
        self("radix sort", n=r, bits=max(1, (table_rows - 1).bit_length()))
        self("cut_runs", n=r)
        self("embedding_bag_backward", n=r, c=c, e=self.e, distinct=min(r, table_rows))
        self("embedding_bag_long_runs", n=r, c=c)

    def attention(self, queries, r):
        s = self.shape
        arguments = {"queries": queries, "r": r, "c": s.hidden, "e": self.e, "heads": s.heads, "length": s.length}
        kind = "_bf16" if self.precision == "bf16" else ""
        self(f"attention_forward{kind}", **arguments)
        self.zero(queries * s.hidden)
        self("attention_row_dots", queries=queries, c=s.hidden, e=self.e, heads=s.heads)
        self(f"attention_query_gradients{kind}", **arguments)
        self(f"attention_key_gradients{kind}", **arguments)

    def loss_tile(self, masked):
        """loss_tile() of kernels/masked_item_loss.h: rows and items."""
        c, items, e = self.shape.hidden, self.shape.items, self.e
        step, most = 32 // e, (1 << 30) // (4 if e == 4 else 4 + e)
        rows = min(masked, most // (up(items, step) * step), 1024)
        cut_rows = min(masked, most // 1024, 8192)
        cut_items = max(most // cut_rows, 1024) // step * step
        if rows == masked or (cut_items >= items and rows > 0):
            return rows, items
        computing = 2 * c / {"fp32": 10, "tf32": 75, "bf16": 150}[self.precision]

        def product(moved):
            return max(moved, computing)

        def whole_time(row):
            return product(4 + c * e * row) + 8 + e + product(e + c * e * row) + product(e + c * 8 * row)

        def cut_time(row, item):
            return (2 * product(4 + c * e * (row + item)) + 8 + e + product(e + c * (e * row + 8 * item))
                    + product(e + c * (8 * row + e * item)))

        cut = rows == 0 or cut_time(1 / cut_rows, cut_rows / most) < whole_time(1 / rows)
        return (cut_rows, cut_items) if cut else (rows, items)

    def loss(self, masked):
        """kernels/cuda/masked_item_loss.cu: tiles of logits, and of dz beside them where it is bf16, of up to 1 GiB."""
        c, items = self.shape.hidden, self.shape.items
        most_rows, most_items = self.loss_tile(masked)
        cut = most_items < items

        def pieces(count, most):
            return [most] * (count // most) + [count % most] * (count % most > 0)

        for rows in pieces(masked, most_rows):
            for launch in ("scan", "gradients") if cut else ("rows",):
                for tile_items in pieces(items, most_items):
                    self.product(rows, tile_items, c, out=4, bias=True)
                    self(f"masked_item_loss_{launch}", r=rows, c=tile_items,
                         **({} if launch == "scan" else {"e": self.e}))
                    if launch == "scan":
                        continue
                    self.product(rows, c, tile_items, accumulate=True, **({"out": 4} if cut else {}))
                    self.product(tile_items, c, rows, out=4, accumulate=True)
                    self("add_partials", count=rows, c=tile_items, e=self.e)
            if cut and self.e == 2:
                self("masked_item_loss_add", n=rows * c, e=self.e)
        self("masked_item_loss_sum", r=masked)


def step_calls(shape, precision):
    """Forward and backward of every piece in the order of bert4rec.cpp, then the optimizer."""
    calls = Calls(shape, precision)
    calls.times = shape.pieces
    c, rows = shape.hidden, shape.sequences * shape.length // shape.pieces
    masked = max(1, round(shape.masked_share * rows))
    calls.embedding(rows, shape.items + 1)
    calls.embedding(rows, shape.length)
    calls.add(rows * c)
    calls.norm(rows, sums=True, dsum=True)
    for layer in range(shape.layers):
        last = layer + 1 == shape.layers
        left = masked if last else rows  # the last block goes on with the masked rows only
        calls.linear(rows, c, 3 * c)
        calls.attention(left, rows)
        if left != rows:
            calls("gather_rows", r=left, c=c, e=calls.e)
            calls.zero(left * c)
            calls("scatter_add_rows", r=left, c=c, e=calls.e)
        calls.linear_add_norm(left, c, dsum=True)
        calls.linear_activation(left, c, 4 * c)
        calls.linear_add_norm(left, 4 * c, dsum=not last)  # nobody else reads the encoder's last sum
    calls.linear_activation(masked, c, c)
    calls.norm(masked)
    calls.loss(masked)
    calls("add_loss")
    calls.times = 1
    calls("sum_of_squares", n=shape.parameters())
    calls("decide_step", n=shape.parameters())
    calls("adam_step", n=shape.parameters())
    if precision == "bf16":
        calls("convert", n=shape.parameters())
    return calls.list


def model_flops(shape):
    """FLOPs of a step that the model needs: its products, without the scores that backward computes again."""
    total = 0
    for name, arguments, times in step_calls(shape, "fp32"):
        if name == "cublasLtMatmul":
            total += times * FORMULAS[name](**arguments)[1]
        elif name == "attention_forward":
            total += times * 12 * arguments["queries"] * arguments["length"] * arguments["c"]
    return total


def seconds(name, byte_count, flops, precision, sheet):
    """The larger of bytes over bandwidth and FLOPs over peak."""
    return max(byte_count / (sheet["bandwidth"] * 1e9), flops / (sheet[peak_of(name, precision)] * 1e12))


def roofline(shape, precision):
    """Per launch name of a step: launches, bytes, FLOPs and seconds on each GPU."""
    rows = {}
    for name, arguments, times in step_calls(shape, precision):
        row = rows.setdefault(name, {"launches": 0, "bytes": 0, "flops": 0, "seconds": dict.fromkeys(DATA_SHEETS, 0.0)})
        byte_count, flops = FORMULAS[name](**arguments)
        row["launches"] += times
        row["bytes"] += times * byte_count
        row["flops"] += times * flops
        for gpu, sheet in DATA_SHEETS.items():
            row["seconds"][gpu] += times * seconds(name, byte_count, flops, precision, sheet)
    return rows
