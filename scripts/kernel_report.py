#!/usr/bin/env python3
"""What the compiler made of the CUDA kernels, and the time that a training step's bytes and FLOPs need at least.

Kernels: every entry that nvcc finds in kernels/cuda/*.cu with the flags and architectures of kernels/cuda/toolkit.cmake;
registers, static shared memory, spills and local memory are ptxas's words. Threads and dynamic shared memory are what
the launch asks for (LAUNCHES below, checked against the kernel's launch bounds), since no compiler knows them. Blocks a
multiprocessor is NVIDIA's cuda_occupancy.h, fed with the limits of LIMITS.

Step: per launch name (the `name` of cuda::start) bytes and FLOPs by FORMULAS, for SHAPES, and the larger of bytes over
bandwidth and FLOPs over peak, from DATA_SHEETS. Each array of a launch counts once as read and once as written, also
where caches would hold it from one launch to the next. Left out: launch latency, tails of grids, what a kernel reads again
from the caches, integer work (Philox), imbalance of sequence lengths. COMPUTED, NOT MEASURED.
"""

import argparse
import collections
import concurrent.futures
import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Data sheets, SXM modules, dense. TFLOP/s of fp32 FMA units and of bf16 tensor cores, GB/s of memory. A100: "NVIDIA A100
# Tensor Core GPU", 80 GB. H100: "NVIDIA H100 Tensor Core GPU" (its tensor figures are with sparsity: half). B200: "NVIDIA
# Blackwell Architecture Technical Brief", HGX B200, a GPU. Products in fp32 take FMA units: TF32 is not allowed for them.
DATA_SHEETS = {
    "A100": {"arch": "sm_80", "fp32": 19.5, "bf16": 312.0, "bandwidth": 2039.0},
    "H100": {"arch": "sm_90", "fp32": 67.0, "bf16": 989.0, "bandwidth": 3350.0},
    "B200": {"arch": "sm_100", "fp32": 80.0, "bf16": 2250.0, "bandwidth": 8000.0},
}

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": multiprocessors, KiB of shared memory of
# a multiprocessor and of a block. Everywhere 65,536 registers, 2,048 threads, 1 KiB a block for the system.
LIMITS = {
    "sm_80": {"major": 8, "minor": 0, "sms": 108, "shared": 164, "block_shared": 163},
    "sm_90": {"major": 9, "minor": 0, "sms": 132, "shared": 228, "block_shared": 227},
    "sm_100": {"major": 10, "minor": 0, "sms": 148, "shared": 228, "block_shared": 227},
}

OCCUPANCY = r"""
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
  int major, minor, sms, shared, block_shared, registers, static_shared, dynamic, threads, barriers;
  while (std::scanf("%d %d %d %d %d %d %d %d %d %d", &major, &minor, &sms, &shared, &block_shared, &registers,
                    &static_shared, &dynamic, &threads, &barriers) == 10) {
    cudaOccDeviceProp device;
    device.computeMajor = major;
    device.computeMinor = minor;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = 2048;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = 48 << 10;
    device.sharedMemPerMultiprocessor = size_t(shared) << 10;
    device.numSms = sms;
    device.sharedMemPerBlockOptin = size_t(block_shared) << 10;
    device.reservedSharedMemPerBlock = 1 << 10;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = INT_MAX;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = static_shared;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = INT_MAX;
    kernel.numBlockBarriers = barriers;
    cudaOccDeviceState state;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic)) return 1;
    std::printf("%d %d\n", result.activeBlocksPerMultiprocessor, int(result.limitingFactors));
  }
}
"""
LIMITING = {1: "warps", 2: "registers", 4: "shared memory", 8: "blocks", 16: "barriers"}


# --- launches --------------------------------------------------------------------------------------------------------


def attention_tiles(stay):
    """Dynamic shared bytes of kernels/cuda/attention_tiles.cuh's Tile<size, own>, with `stay` tiles that stay."""

    def dynamic(size, own):
        rows, stride = 16 * own, size + 4
        return 4 * (stay * rows * stride + 2 * 32 * stride + rows * 40)

    return dynamic


def no_shared(*_):
    return 0


# Launch name, what the demangled kernel's name holds (groups: what the dynamic shared memory depends on), threads of a
# block, dynamic shared bytes. The first that fits counts.
LAUNCHES = [
    ("attention_forward", r"cuda_attention::forward<.*?(\d+), (\d+)>", 128, attention_tiles(1)),
    ("attention_query_gradients", r"cuda_attention::add_query_gradients<.*?(\d+), (\d+)>", 128, attention_tiles(2)),
    ("attention_key_gradients", r"cuda_attention::add_key_gradients<.*?(\d+), (\d+)>", 128, attention_tiles(2)),
    ("attention_row_dots", r"cuda_attention::row_dots\b", 128, no_shared),
    ("activation_forward", r"cuda_activation::ForwardFours", 256, no_shared),
    ("activation_backward", r"cuda_activation::BackwardFours", 256, no_shared),
    ("dropout_forward", r"cuda_dropout::ForwardFours", 256, no_shared),
    ("dropout_backward", r"cuda_dropout::BackwardFours", 256, no_shared),
    ("fill", r"cuda_elementwise::FillFours", 256, no_shared),
    ("add_scaled", r"cuda_elementwise::AddScaledFours", 256, no_shared),
    ("gather_rows", r"cuda_rows::GatherFours", 256, no_shared),
    ("scatter_add_rows", r"cuda_rows::ScatterFours", 256, no_shared),
    ("embedding_bag_forward", r"cuda_embedding_bag::BagFours", 256, no_shared),
    ("embedding_bag_backward", r"cuda_embedding_bag::PieceFours", 256, no_shared),
    ("embedding_bag_long_runs", r"cuda_embedding_bag::add_long_runs", 256, no_shared),
    ("number_occurrences", r"cuda_embedding_bag::number_occurrences", 256, no_shared),
    ("cut_runs", r"cuda_embedding_bag::cut_runs", 256, no_shared),
    ("layer_norm_forward", r"cuda_layer_norm::normalise_rows", 256, no_shared),
    ("layer_norm_backward", r"cuda_layer_norm::add_gradients", 256, no_shared),
    ("masked_item_loss_rows", r"cuda_masked_item_loss::finish_rows", 256, no_shared),
    ("masked_item_loss_sum", r"cuda_masked_item_loss::sum_losses", 256, no_shared),
    ("adam_step", r"cuda_optimizer_step::AdamFours", 256, no_shared),
    ("sgd_step", r"cuda_optimizer_step::SgdFours", 256, no_shared),
    ("rmsprop_step", r"cuda_optimizer_step::RmspropFours", 256, no_shared),
    ("sum_of_squares", r"cuda_reduce::sum_of_squares", 256, no_shared),
    ("column_sum", r"cuda_reduce::sum_row_block", 256, no_shared),
    ("add_partials", r"cuda_reduce::add_partials", 1024, no_shared),
    ("write_bias", r"cuda_gemm::write_bias", 256, no_shared),
    # Room for power_of_two(k + 1024) keys; 16 KiB for any k of up to 1,024.
    ("top_k", r"cuda_top_k::best_of_rows", 256, lambda: 16384),
    # CUB's: it chooses threads by what it finds at run time.
    ("radix sort", r"\bcub::", None, no_shared),
    # What profilers show of cuBLASLt.
    ("cublasLtMatmul", r"(?i:gemm|cutlass|cublas|splitk)", None, no_shared),
]


def launch_of(kernel):
    """(launch name, threads, dynamic shared bytes) of a demangled kernel; None for what is not known."""
    for name, pattern, threads, dynamic in LAUNCHES:
        match = re.search(pattern, kernel)
        if match:
            return name, threads, dynamic(*map(int, match.groups()))
    return None, None, None


# --- the compiler ----------------------------------------------------------------------------------------------------


def find_nvcc():
    """As kernels/cuda/toolkit.cmake does."""
    own = ROOT / "build/cuda-toolkit"
    places = [own / "nvidia/cu13/bin/nvcc"] if (own / "complete").exists() else []
    if "CUDA_HOME" in os.environ:
        places.append(pathlib.Path(os.environ["CUDA_HOME"]) / "bin/nvcc")
    for place in places:
        if place.exists():
            return str(place)
    return shutil.which("nvcc")


def toolkit_settings():
    text = (ROOT / "kernels/cuda/toolkit.cmake").read_text()
    flags = re.search(r"set\(ITEMLOOM_NVCC_FLAGS ([^)]*)\)", text).group(1).split()
    architectures = re.search(r"set\(ITEMLOOM_CUDA_ARCHITECTURES ([\d ]+) ", text).group(1).split()
    return flags, architectures


def output_of(command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"kernel_report.py: {command[0]} failed: {' '.join(map(str, command))}\n{done.stderr}")
    return done


def demangled(names):
    if not names:
        return {}
    return dict(zip(names, output_of(["c++filt"], "\n".join(names)).stdout.splitlines()))


def parse_ptxas(text):
    """One dict a kernel and architecture, of what `ptxas -v` says."""
    found, row = [], None
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            row = {"symbol": match[1], "arch": match[2]}
            found.append(row)
        elif "Function properties for" in line and row is not None and line.split()[-1] != row["symbol"]:
            row = None  # a device function that was not inlined
        elif row is None:
            continue
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            row["local"], row["spill_stores"], row["spill_loads"] = map(int, match.groups())
        elif match := re.search(r"Used (\d+) registers", line):
            row["registers"] = int(match[1])
            for field, pattern in {"static_shared": r"(\d+) bytes smem", "barriers": r"used (\d+) barriers"}.items():
                other = re.search(pattern, line)
                row[field] = int(other[1]) if other else 0
    return found


def parse_bounds(ptx):
    """The most threads that a kernel was compiled for, where it has launch bounds."""
    return {match[1]: int(match[2])
            for match in re.finditer(r"\.entry (\w+)\([^)]*\)\s*(?:\.\w+ [\d, ]+\s*)*?\.maxntid (\d+)", ptx)}


def compile_file(nvcc, flags, architectures, source):
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *flags, f"-I{ROOT}", "-fatbin", "-Xptxas", "-v", "--keep", "--keep-dir", folder]
        for number in architectures:
            command += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        rows = parse_ptxas(output_of([*command, str(source), "-o", f"{folder}/out.fatbin"]).stderr)
        bounds = {}
        for ptx in pathlib.Path(folder).glob("*.ptx"):
            bounds |= parse_bounds(ptx.read_text())
    return [row | {"file": source.name, "bound": bounds.get(row["symbol"])} for row in rows]


def add_occupancy(rows, include):
    known = [row for row in rows if row["threads"] and row["arch"] in LIMITS]
    if not (pathlib.Path(include) / "cuda_occupancy.h").exists():
        return f"no occupancy: {include} has no cuda_occupancy.h"
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "occupancy.cpp"
        source.write_text(OCCUPANCY)
        program = f"{folder}/occupancy"
        output_of([os.environ.get("CXX", "c++"), f"-I{include}", str(source), "-o", program])
        lines = []
        for row in known:
            limits = LIMITS[row["arch"]]
            lines.append(" ".join(str(value) for value in [*limits.values(), row["registers"], row["static_shared"],
                                                           row["dynamic_shared"], row["threads"], row["barriers"]]))
        answers = output_of([program], "\n".join(lines)).stdout.splitlines()
    for row, answer in zip(known, answers, strict=True):
        row["blocks"], limiting = map(int, answer.split())
        row["occupancy"] = row["blocks"] * row["threads"] / 2048
        row["limited_by"] = [text for bit, text in LIMITING.items() if limiting & bit]
    return None


def compiled_kernels(only):
    nvcc = find_nvcc()
    if not nvcc:
        sys.exit("kernel_report.py: there is no nvcc on PATH or under CUDA_HOME; see scripts/setup.sh --cuda")
    flags, architectures = toolkit_settings()
    sources = [path for path in sorted((ROOT / "kernels/cuda").glob("*.cu")) if not only or path.stem in only]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = sum(pool.map(lambda source: compile_file(nvcc, flags, architectures, source), sources), [])
    names = demangled(sorted({row["symbol"] for row in rows}))
    for row in rows:
        row["kernel"] = names[row.pop("symbol")]
        row["launch"], row["threads"], row["dynamic_shared"] = launch_of(row["kernel"])
        bound = row.pop("bound")
        if row["launch"] is None:
            row["threads"], row["dynamic_shared"] = bound, 0
        elif row["threads"] and bound and row["threads"] > bound:
            sys.exit(f"kernel_report.py: {row['launch']} is listed with {row['threads']} threads, but compiled for {bound}")
    note = add_occupancy(rows, pathlib.Path(nvcc).resolve().parent.parent / "include")
    return rows, note


def short(kernel):
    """A kernel's name without parameters and the namespaces that all have."""
    kernel = re.sub(r"^void ", "", kernel)
    kernel = kernel.replace("(anonymous namespace)", "anonymous").split("(")[0]
    kernel = re.sub(r"itemloom(_sort)?::", "", kernel)
    return kernel if len(kernel) <= 76 else kernel[:73] + "..."


def print_kernels(rows, note):
    print("Kernels, by nvcc. shared: static + dynamic bytes; blocks: of a multiprocessor, by cuda_occupancy.h")
    print(f"{'launch':26}{'kernel':78}{'arch':7}{'regs':>5}{'shared':>14}{'threads':>8}{'blocks':>7}{'occ':>6} local spill")
    for row in rows:
        shared = f"{row['static_shared']} + {row['dynamic_shared']}"
        occupancy = f"{100 * row['occupancy']:.0f} %" if "occupancy" in row else "-"
        print(f"{row['launch'] or '-':26}{short(row['kernel']):78}{row['arch']:7}{row['registers']:5}{shared:>14}"
              f"{row['threads'] or '-':>8}{row.get('blocks', '-'):>7}{occupancy:>6}{row['local']:6}"
              f"{row['spill_stores'] + row['spill_loads']:6}")
    spilling = [row for row in rows if row["local"] or row["spill_stores"] or row["spill_loads"]]
    print(f"{len(rows)} kernels and architectures, {len(spilling)} with spills or local memory"
          + "".join(f"\n  {row['file']} {row['arch']} {short(row['kernel'])}" for row in spilling))
    if note:
        print(note)


# --- bytes and FLOPs -------------------------------------------------------------------------------------------------
# Letters: n elements, r rows, c columns, e bytes of an activation or of a weight that is read; parameters of the optimizer,
# their gradients, statistics and logits have 4. An exp, erf or square root is one FLOP. Each gives (bytes, FLOPs).


def up(value, unit):
    return -(-value // unit)


FORMULAS = {
    # y
    "fill": lambda n, e=4: (n * e, 0),
    # x, y; y
    "add_scaled": lambda n, e=4: (3 * n * e, 2 * n),
    # x; y
    "activation_forward": lambda n, e: (2 * n * e, 8 * n),
    # dy, x, dx; dx
    "activation_backward": lambda n, e: (4 * n * e, 12 * n),
    # x and the residual; y
    "dropout_forward": lambda n, e, residual: ((2 + residual) * n * e, (1 + residual) * n),
    # dy, dx and dresidual; dx and dresidual
    "dropout_backward": lambda n, e, residual: ((3 + 2 * residual) * n * e, (2 + residual) * n),
    # rows of x, indices; y
    "gather_rows": lambda r, c, e: (2 * r * c * e + 8 * r, 0),
    # dy, rows of dx, indices; rows of dx
    "scatter_add_rows": lambda r, c, e: (3 * r * c * e + 8 * r, r * c),
    # x, gamma, beta; y, mean, inverse_std. The second and third reading of a row is the cache's.
    "layer_norm_forward": lambda r, c, e: (2 * r * c * e + 8 * c + 8 * r, 8 * r * c),
    # dy, x, dx, gamma, mean, inverse_std; dx, two partial rows for each 16 rows
    "layer_norm_backward": lambda r, c, e: (4 * r * c * e + 4 * c + 8 * r + 8 * c * up(r, 16), 16 * r * c),
    # `count` partial rows of c, y; y
    "add_partials": lambda count, c: (4 * count * c + 8 * c, count * c),
    # x; a partial row for each 64 rows
    "column_sum": lambda r, c, e: (r * c * e + 4 * c * up(r, 64), r * c),
    # x. The sums, one of many thousand elements, are left out.
    "sum_of_squares": lambda n: (4 * n, 2 * n),
    # value, gradient and two moments, each read and written (the gradient as zero)
    "adam_step": lambda n: (32 * n, 14 * n),
    # the same with a velocity in place of the moments
    "sgd_step": lambda n: (24 * n, 6 * n),
    "rmsprop_step": lambda n: (32 * n, 12 * n),
    # ids, rows of the table; y (bags of one id)
    "embedding_bag_forward": lambda r, c, e: (2 * r * c * e + 4 * r, r * c),
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
        (m * k + k * n) * e + m * n * out * (1 + accumulate) + 4 * n * bias, 2 * m * n * k),
    # logits; dz in their place. The second reading of a row is the cache's.
    "masked_item_loss_rows": lambda r, c: (8 * r * c + 12 * r, 6 * r * c),
    # losses of rows
    "masked_item_loss_sum": lambda r: (4 * r, r),
    # bias; c
    "write_bias": lambda n, c: (4 * n + 4 * c, 0),
    # scores; the best k with their places
    "top_k": lambda r, c, k: (4 * r * c + 8 * r * k, r * c),
    # gradients of activations, which start at zero
    "cudaMemset": lambda n, e: (n * e, 0),
}
# Their FLOPs are products of matrices: at the peak of tensor cores where operands are bf16.
PRODUCTS = {"cublasLtMatmul", "attention_forward", "attention_query_gradients", "attention_key_gradients"}


class Shape:
    """BERT4Rec as layers/models/bert4rec.cpp makes it by default, and a batch of sequences of one length."""

    def __init__(self, name, hidden, heads, items, length, sequences=256, layers=2, masked_share=0.2, piece=8192):
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

    def __init__(self, shape, e):
        self.shape, self.e, self.list, self.times = shape, e, [], 1

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

    def norm(self, r):
        c = self.shape.hidden
        self("layer_norm_forward", r=r, c=c, e=self.e)
        self.zero(r * c)
        self("layer_norm_backward", r=r, c=c, e=self.e)
        self("add_partials", count=up(r, 16), c=2 * c)

    def dropout(self, n, residual):
        self("dropout_forward", n=n, e=self.e, residual=residual)
        self.zero(n)
        self("dropout_backward", n=n, e=self.e, residual=residual)

    def activation(self, n):
        self("activation_forward", n=n, e=self.e)
        self.zero(n)
        self("activation_backward", n=n, e=self.e)

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
        self("attention_forward", **arguments)
        self.zero(queries * s.hidden)
        self("attention_row_dots", queries=queries, c=s.hidden, e=self.e, heads=s.heads)
        self("attention_query_gradients", **arguments)
        self("attention_key_gradients", **arguments)

    def loss(self, masked):
        """kernels/cuda/masked_item_loss.cu: logits in chunks of up to 128 MiB."""
        c, items = self.shape.hidden, self.shape.items
        chunk = min(max((128 << 20) // (4 * up(items, 4) * 4), 16), 1024, masked)
        for rows in [chunk] * (masked // chunk) + [masked % chunk] * (masked % chunk > 0):
            self.product(rows, items, c, out=4, bias=True)
            self("masked_item_loss_rows", r=rows, c=items)
            self.product(rows, c, items, accumulate=True)
            self.product(items, c, rows, out=4, accumulate=True)
            self("add_partials", count=rows, c=items)
        self("masked_item_loss_sum", r=masked)


def step_calls(shape, e):
    """Forward and backward of every piece in the order of bert4rec.cpp, then the optimizer."""
    calls = Calls(shape, e)
    calls.times = shape.pieces
    c, rows = shape.hidden, shape.sequences * shape.length // shape.pieces
    masked = max(1, round(shape.masked_share * rows))
    calls.embedding(rows, shape.items + 1)
    calls.embedding(rows, shape.length)
    calls.dropout(rows * c, residual=True)  # the sum of both
    calls.dropout(rows * c, residual=False)
    for layer in range(shape.layers):
        left = masked if layer + 1 == shape.layers else rows  # the last block goes on with the masked rows only
        calls.norm(rows)
        calls.linear(rows, c, 3 * c)
        calls.attention(left, rows)
        if left != rows:
            calls("gather_rows", r=left, c=c, e=e)
            calls.zero(left * c)
            calls("scatter_add_rows", r=left, c=c, e=e)
        calls.linear(left, c, c)
        calls.dropout(left * c, residual=True)
        calls.norm(left)
        calls.linear(left, c, 4 * c)
        calls.activation(left * 4 * c)
        calls.linear(left, 4 * c, c)
        calls.dropout(left * c, residual=True)
    calls.norm(masked)
    calls.linear(masked, c, c)
    calls.activation(masked * c)
    calls.norm(masked)
    calls.loss(masked)
    calls.times = 1
    calls("sum_of_squares", n=shape.parameters())
    calls("adam_step", n=shape.parameters())
    return calls.list


def model_flops(shape):
    """FLOPs of a step that the model needs: its products, without the scores that backward computes again."""
    total = 0
    for name, arguments, times in step_calls(shape, 4):
        if name == "cublasLtMatmul":
            total += times * FORMULAS[name](**arguments)[1]
        elif name == "attention_forward":
            total += times * 12 * arguments["queries"] * arguments["length"] * arguments["c"]
    return total


def seconds(name, byte_count, flops, e, sheet):
    peak = sheet["bf16" if e == 2 and name in PRODUCTS else "fp32"]
    return max(byte_count / (sheet["bandwidth"] * 1e9), flops / (peak * 1e12))


def roofline(shape, e):
    """Per launch name of a step: launches, bytes, FLOPs and seconds on each GPU."""
    rows = {}
    for name, arguments, times in step_calls(shape, e):
        row = rows.setdefault(name, {"launches": 0, "bytes": 0, "flops": 0, "seconds": dict.fromkeys(DATA_SHEETS, 0.0)})
        byte_count, flops = FORMULAS[name](**arguments)
        row["launches"] += times
        row["bytes"] += times * byte_count
        row["flops"] += times * flops
        for gpu, sheet in DATA_SHEETS.items():
            row["seconds"][gpu] += times * seconds(name, byte_count, flops, e, sheet)
    return rows


def print_rooflines(launches, e):
    print(f"\nA training step by the formulas in this script, {e} bytes an activation. COMPUTED, NOT MEASURED.")
    for gpu, sheet in DATA_SHEETS.items():
        print(f"  {gpu}: fp32 {sheet['fp32']} TFLOP/s, bf16 {sheet['bf16']} TFLOP/s, {sheet['bandwidth']} GB/s")
    for shape in SHAPES:
        rows = roofline(shape, e)
        print(f"\n{shape.name}: {shape.sequences} sequences of {shape.length} in {shape.pieces} pieces, d {shape.hidden}, "
              f"{shape.heads} heads, {shape.layers} layers, {shape.items:,} items, {shape.masked_share} masked; "
              f"{model_flops(shape) / 1e9:.1f} GFLOP of the model a step")
        print(f"{'launch':28}{'launches':>9}{'MB':>12}{'GFLOP':>10}" + "".join(f"{gpu + ' us':>12}" for gpu in DATA_SHEETS))
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["seconds"]["H100"]):
            print(f"{name:28}{row['launches']:9}{row['bytes'] / 1e6:12.2f}{row['flops'] / 1e9:10.2f}"
                  + "".join(f"{1e6 * value:12.1f}" for value in row["seconds"].values()))
        totals = {gpu: sum(row["seconds"][gpu] for row in rows.values()) for gpu in DATA_SHEETS}
        print(f"{'all':28}{sum(row['launches'] for row in rows.values()):9}"
              f"{sum(row['bytes'] for row in rows.values()) / 1e6:12.2f}"
              f"{sum(row['flops'] for row in rows.values()) / 1e9:10.2f}"
              + "".join(f"{1e6 * value:12.1f}" for value in totals.values()))
    unused = sorted(launches - set(roofline(SHAPES[0], e)))
    print("\nno part of this step: " + ", ".join(f"{name}{'' if name in FORMULAS else ' (no formula: -)'}" for name in unused))


# --- what a profiler measured ----------------------------------------------------------------------------------------


def measured_shares(table, shape, e, steps, sheet):
    """Rows of `nsys stats --report cuda_gpu_kern_sum --format csv`, by launch name, beside the roofline of the step."""
    measured = collections.Counter()
    for row in csv.DictReader(table):
        measured[launch_of(row["Name"])[0] or short(row["Name"])] += float(row["Total Time (ns)"]) * 1e-9 / steps
    computed = roofline(shape, e)
    result = []
    for name, value in measured.most_common():
        least = computed[name]["seconds"][sheet] if name in computed and sheet else None
        result.append({"launch": name, "seconds": value, "roofline_seconds": least,
                       "share": least / value if least is not None and value > 0 else None})
    return result


def print_shares(rows):
    print(f"{'launch':40}{'us a step':>12}{'roofline us':>13}{'share':>8}")
    for row in rows:
        least = "-" if row["roofline_seconds"] is None else f"{1e6 * row['roofline_seconds']:.1f}"
        share = "-" if row["share"] is None else f"{100 * row['share']:.0f} %"
        print(f"{row['launch'][:38]:40}{1e6 * row['seconds']:12.1f}{least:>13}{share:>8}")


# --- checks ----------------------------------------------------------------------------------------------------------


def check_parsers():
    text = """ptxas info    : Compiling entry function '_Z1av' for 'sm_90'
ptxas info    : Function properties for _Z1av
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 1536 bytes smem, 560 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1bv' for 'sm_100'
ptxas info    : Function properties for _Z1bv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""
    first, second = parse_ptxas(text)
    assert first == {"symbol": "_Z1av", "arch": "sm_90", "local": 8, "spill_stores": 4, "spill_loads": 12,
                     "registers": 40, "static_shared": 1536, "barriers": 1}
    assert (second["arch"], second["registers"], second["static_shared"], second["local"]) == ("sm_100", 12, 0, 0)
    ptx = ".visible .entry _Z1av(\n.param .u32 a\n)\n.maxntid 128, 1, 1\n.minnctapersm 4\n{}\n.entry _Z1bv()\n{}\n"
    assert parse_bounds(ptx) == {"_Z1av": 128}
    # Tile<64, 2>: 32 rows of 68 floats twice, 2 x 32 rows of 68, 32 rows of 40 weights.
    name, threads, dynamic = launch_of("void itemloom::cuda_attention::add_key_gradients<64, 2>(itemloom::X)")
    assert (name, threads, dynamic) == ("attention_key_gradients", 128, 4 * (2 * 32 * 68 + 2 * 32 * 68 + 32 * 40))
    assert launch_of("void itemloom::cuda::for_fours<true, itemloom::cuda_dropout::AllKept<itemloom::cuda_dropout::"
                     "ForwardFours> >(long)")[0] == "dropout_forward"
    assert launch_of("void itemloom::cuda_new::kernel()") == (None, None, None)


def check_formulas():
    assert FORMULAS["adam_step"](n=10) == (320, 140)
    # 2 x 3 and 3 x 4 of bf16 into 2 x 4 of fp32 that is added into: 12 + 24 + 2 * 32 bytes.
    assert FORMULAS["cublasLtMatmul"](m=2, n=4, k=3, e=2, out=4, accumulate=True) == (100, 48)
    # 3 rows of 2 columns: x and y of 24 bytes, gamma and beta of 8, mean and inverse_std of 12.
    assert FORMULAS["layer_norm_forward"](r=3, c=2, e=4) == (24 + 24 + 16 + 24, 48)
    # Five queries and ten rows of 4 columns, 2 heads, sequences of 10.
    assert FORMULAS["attention_forward"](queries=5, r=10, c=4, e=4, heads=2, length=10) == (480 + 40, 50 * 26)
    # d 16, 60 items, length 12, 2 layers: what a run with these extents reports.
    small = Shape("small", hidden=16, heads=2, items=60, length=12, sequences=10)
    assert small.parameters() == 8124
    # Rows 120, masked 24: layer 1 has 72 d^2 FLOPs a row and layer 2 the qkv's 18 d^2, each with attention's 12 d L for
    # queries; masked rows have the other 54 d^2, the head's 6 d^2 and the loss's 6 d V.
    rows, masked, d = 120, 24, 16
    by_hand = (rows * (72 * d * d + 12 * d * 12) + rows * 18 * d * d
               + masked * (54 * d * d + 12 * d * 12 + 6 * d * d + 6 * d * 60))
    assert model_flops(small) == by_hand
    # 33 rows of a million logits fit in 128 MiB: 10 rows are one chunk, 34 are two.
    for masked, chunks in ((10, 1), (33, 1), (34, 2)):
        calls = Calls(Shape("", hidden=64, heads=2, items=1_000_000, length=200), 4)
        calls.loss(masked)
        assert sum(name == "masked_item_loss_rows" for name, *_ in calls.list) == chunks
    assert abs(seconds("fill", 3350e9, 0, 4, DATA_SHEETS["H100"]) - 1) < 1e-12
    assert abs(seconds("cublasLtMatmul", 0, 989e12, 2, DATA_SHEETS["H100"]) - 1) < 1e-12
    assert abs(seconds("cublasLtMatmul", 0, 67e12, 4, DATA_SHEETS["H100"]) - 1) < 1e-12
    table = ["Total Time (ns),Name", "2000,void itemloom::cuda_optimizer_step::AdamFours", "500,something_else"]
    adam, other = measured_shares(table, small, 4, 2, "H100")
    assert adam["launch"] == "adam_step" and abs(adam["seconds"] - 1e-6) < 1e-15
    assert abs(adam["share"] - 32 * 8124 / 3350e9 / 1e-6) < 1e-12 and other["share"] is None


def device_bytes(kernels, launch, access, field="sectors"):
    """What the emulation counted: 32-byte sectors of a warp's requests, or the sectors that their bytes would fill."""
    return sum(32 * line[field] for kernel in kernels if launch_of(kernel["kernel"])[0] == launch
               for line in kernel["lines"] if line["space"] == "device" and line["access"] == access)


def check_counters():
    """Trains a small model on the emulation and compares what it counted with the formulas of what the step needs."""
    program = pathlib.Path(os.environ.get("ITEMLOOM_EMULATED", ROOT / "build/cuda-emulated/itemloom"))
    if not program.exists():
        return f"the emulation's counters were not compared: there is no {program}"
    shape = Shape("counted", hidden=16, heads=2, items=60, length=10, sequences=64, piece=0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # Everybody has 12 items, of which leave-one-out takes two.
        lines = [f"{user} " + " ".join(str((7 * user + 11 * place) % 60) for place in range(12)) for user in range(64)]
        (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
        config = {"data": {"files": ["sequences.txt"], "format": "sequences", "max_length": 10}, "device": "cuda",
                  "model": {"hidden_size": 16, "layers": 2},
                  "training": {"epochs": 1, "batch_size": 64, "validate_every": 0}}
        (folder / "config.json").write_text(json.dumps(config))
        environment = os.environ | {"CUDA_EMULATION_COUNTERS": str(folder / "counters.json")}
        done = subprocess.run([program, "train", folder / "config.json", "--run", folder / "run"], env=environment,
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        kernels = json.loads((folder / "counters.json").read_text())["kernels"]
    # One step of one piece; a block each for the rows of the loss.
    masked = sum(kernel["blocks"] for kernel in kernels if "finish_rows" in kernel["kernel"])
    rows, c = shape.sequences * shape.length, shape.hidden
    assert 0.1 * rows < masked < 0.3 * rows, masked
    shape.masked_share = masked / rows
    expected = roofline(shape, 4)

    def compare(launch, counted, bytes_expected):
        assert abs(counted / bytes_expected - 1) < 0.02, f"{launch}: counted {counted}, by the formula {bytes_expected}"

    for launch in ("adam_step", "sum_of_squares", "activation_forward", "activation_backward", "gather_rows", "column_sum"):
        both = device_bytes(kernels, launch, "load") + device_bytes(kernels, launch, "store")
        compare(launch, both, expected[launch]["bytes"])
    # A thread of dropout has 32 bytes and stores them as two halves, so each sector is touched twice: "ideal" once. Layer
    # norm reads rows again, but writes once.
    compare("dropout_forward", device_bytes(kernels, "dropout_forward", "store", "ideal"), 4 * c * (4 * rows + 2 * masked))
    norms = 3 * rows + 3 * masked
    compare("layer_norm_forward", device_bytes(kernels, "layer_norm_forward", "store"), 4 * norms * c + 2 * 32 * norms)
    return f"the emulation counts the formulas' bytes ({rows} rows, {masked} masked)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the same to a file")
    parser.add_argument("--element-bytes", type=int, choices=(2, 4), default=4, help="of an activation: 4 fp32, 2 bf16")
    parser.add_argument("--files", nargs="+", metavar="NAME", help="only kernels/cuda/NAME.cu")
    parser.add_argument("--no-kernels", action="store_true", help="only the step's bytes and FLOPs; no compiler needed")
    parser.add_argument("--measured", metavar="CSV", help="nsys stats --report cuda_gpu_kern_sum --format csv of a run")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="of the --measured run")
    parser.add_argument("--steps", type=int, help="of the --measured run")
    parser.add_argument("--gpu", choices=list(DATA_SHEETS), help="of the --measured run")
    parser.add_argument("--check", action="store_true", help="compare with values computed by hand and with the emulation")
    a = parser.parse_args()
    if a.check:
        check_parsers()
        check_formulas()
        note = check_counters()
        return print(f"kernel_report.py: the values are those computed by hand; {note}")
    if a.measured:
        if not (a.shape and a.steps):
            parser.error("--measured needs --shape and --steps")
        shape = next(shape for shape in SHAPES if shape.name == a.shape)
        with open(a.measured, encoding="utf-8") as table:
            report = {"measured": measured_shares(table, shape, a.element_bytes, a.steps, a.gpu)}
        print_shares(report["measured"])
    else:
        kernels, note = ([], None) if a.no_kernels else compiled_kernels(a.files)
        if not a.no_kernels:
            print_kernels(kernels, note)
        print_rooflines({name for name, *_ in LAUNCHES}, a.element_bytes)
        report = {"kernels": kernels, "computed_not_measured": True, "element_bytes": a.element_bytes,
                  "data_sheets": DATA_SHEETS, "limits": LIMITS,
                  "steps": [shape.table() | {"model_flops": model_flops(shape), "launches": roofline(shape, a.element_bytes)}
                            for shape in SHAPES]}
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
