#!/usr/bin/env python3
"""What the compiler made of the CUDA kernels, and the time that a training step's bytes and FLOPs need at least.

Kernels: every entry that nvcc finds in kernels/cuda/*.cu with the flags and architectures of its toolkit.cmake:
registers, static shared memory, spills and local memory are ptxas's words. Threads and dynamic shared memory are what
the launch asks for (LAUNCHES below, checked against the kernel's launch bounds), since no compiler knows them. Blocks a
multiprocessor is NVIDIA's cuda_occupancy.h, fed with the limits of LIMITS.

Step: bytes, FLOPs and the least time of every launch of a training step, by scripts/kernel_formulas.py, which says what
is left out. COMPUTED, NOT MEASURED.
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

from kernel_formulas import DATA_SHEETS, ELEMENT_BYTES, FORMULAS, SHAPES, Calls, Shape, model_flops, roofline, seconds

ROOT = pathlib.Path(__file__).resolve().parent.parent

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": KiB of shared memory, of a
# multiprocessor and of a block; multiprocessors of the data sheets' modules. Everywhere 65,536 registers, 2,048
# threads, and 1 KiB of a block's shared memory for the system.
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


def bf16_tiles(held):
    """Those of attention_bf16_tiles.cuh's Tile<size>: `held` tiles of 64 rows, and two pairs of 32 that stream."""
    return lambda size: 2 * size * (64 * held + 4 * 32)


def no_shared(*_):
    return 0


# Launch name, what the demangled kernel's name holds (groups: what the dynamic shared memory depends on), threads of a
# block, dynamic shared bytes. The first that fits counts.
LAUNCHES = [
    ("attention_forward", r"cuda_attention::forward<.*?(\d+), (\d+)>", 128, attention_tiles(1)),
    ("attention_query_gradients", r"cuda_attention::add_query_gradients<.*?(\d+), (\d+)>", 128, attention_tiles(2)),
    ("attention_key_gradients", r"cuda_attention::add_key_gradients<.*?(\d+), (\d+)>", 128, attention_tiles(2)),
    ("attention_forward_bf16", r"bf16::forward<(\d+)>", 128, bf16_tiles(1)),
    ("attention_query_gradients_bf16", r"bf16::add_query_gradients<(\d+)>", 128, bf16_tiles(2)),
    ("attention_key_gradients_bf16", r"bf16::add_key_gradients<(\d+)>", 128, bf16_tiles(2)),
    ("attention_row_dots", r"cuda_attention::row_dots\b", 128, no_shared),
    ("activation_forward", r"cuda_activation::ForwardFours", 256, no_shared),
    ("activation_backward", r"cuda_activation::find_gradients", 256, no_shared),
    ("dropout_forward", r"cuda_dropout::ForwardFours", 256, no_shared),
    ("dropout_backward", r"cuda_dropout::BackwardFours", 256, no_shared),
    ("fill", r"cuda_elementwise::FillFours", 256, no_shared),
    ("add_scaled", r"cuda_elementwise::AddScaledFours", 256, no_shared),
    ("convert", r"cuda_elementwise::ConvertFours", 256, no_shared),
    ("gather_rows", r"cuda_rows::GatherFours", 256, no_shared),
    ("scatter_add_rows", r"cuda_rows::ScatterFours", 256, no_shared),
    ("embedding_bag_forward", r"cuda_embedding_bag::BagFours", 256, no_shared),
    ("embedding_bag_backward", r"cuda_embedding_bag::PieceFours", 256, no_shared),
    ("embedding_bag_long_runs", r"cuda_embedding_bag::add_long_runs", 256, no_shared),
    ("number_occurrences", r"cuda_embedding_bag::number_occurrences", 256, no_shared),
    ("cut_runs", r"cuda_embedding_bag::cut_runs", 256, no_shared),
    ("layer_norm_forward", r"cuda_layer_norm::normalise_rows", 256, no_shared),
    ("layer_norm_backward", r"cuda_layer_norm::add_gradients", 256, no_shared),
    ("masked_item_loss_scan", r"cuda_masked_item_loss::finish_rows<\(.*?Visit\)0", 256, no_shared),
    ("masked_item_loss_gradients", r"cuda_masked_item_loss::finish_rows<\(.*?Visit\)1", 256, no_shared),
    ("masked_item_loss_rows", r"cuda_masked_item_loss::finish_rows<\(.*?Visit\)2", 256, no_shared),
    ("masked_item_loss_add", r"cuda_masked_item_loss::AddFours", 256, no_shared),
    ("masked_item_loss_sum", r"cuda_masked_item_loss::sum_losses", 256, no_shared),
    ("decide_step", r"cuda_optimizer_step::decide\b", 256, no_shared),
    ("add_loss", r"cuda_optimizer_step::add_loss", 1, no_shared),
    ("adam_step", r"cuda_optimizer_step::AdamFours", 256, no_shared),
    ("sgd_step", r"cuda_optimizer_step::SgdFours", 256, no_shared),
    ("rmsprop_step", r"cuda_optimizer_step::RmspropFours", 256, no_shared),
    ("sum_of_squares", r"cuda_reduce::sum_of_squares", 256, no_shared),
    ("column_sum", r"cuda_reduce::sum_row_block", 256, no_shared),
    ("add_partials", r"cuda_reduce::add_partials", 1024, no_shared),
    ("write_bias", r"cuda_gemm::write_bias", 256, no_shared),
    ("count_ranks", r"cuda_rank_counts::count_ranks", 256, no_shared),
    # Room for power_of_two(k + 1024) keys; 16 KiB for any k of up to 1,024.
    ("top_k", r"cuda_top_k::best_of_rows", 256, lambda: 16384),
    ("top_k_sort_keys", r"cuda_top_k::make_sort_keys", 256, no_shared),
    ("top_k_take_first", r"cuda_top_k::take_first", 256, no_shared),
    ("exclude_columns", r"cuda_top_k::exclude_columns", 32, no_shared),
    ("log_sum_exp", r"cuda_log_sum_exp::log_sum_exp", 256, no_shared),
    ("unit_rows", r"cuda_unit_rows::unit_rows", 256, no_shared),
    # CUB's: it chooses threads by what it finds at run time.
    ("radix sort", r"\bcub::", None, no_shared),
    # What profilers show of cuBLASLt.
    ("cublasLtMatmul", r"^(?!.*itemloom).*(?i:gemm|cutlass|cublas|splitk)", None, no_shared),
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
    known = [row for row in rows if row["launch"] and row["threads"] and row["arch"] in LIMITS]
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
            row["threads"] = bound
        elif row["threads"] and bound and row["threads"] > bound:
            sys.exit(f"kernel_report.py: {row['launch']} is listed with {row['threads']} threads, not {bound} at most")
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
    print(f"{'launch':32}{'kernel':78}{'arch':7}{'regs':>5}{'shared':>14}{'threads':>8}{'blocks':>7}{'occ':>6}"
          " local spill")
    for row in rows:
        shared = f"{row['static_shared']} + {'?' if row['dynamic_shared'] is None else row['dynamic_shared']}"
        occupancy = f"{100 * row['occupancy']:.0f} %" if "occupancy" in row else "-"
        print(f"{row['launch'] or '-':32}{short(row['kernel']):78}{row['arch']:7}{row['registers']:5}{shared:>14}"
              f"{row['threads'] or '-':>8}{row.get('blocks', '-'):>7}{occupancy:>6}{row['local']:6}"
              f"{row['spill_stores'] + row['spill_loads']:6}")
    spilling = [row for row in rows if row["local"] or row["spill_stores"] or row["spill_loads"]]
    print(f"{len(rows)} kernels and architectures, {len(spilling)} with spills or local memory"
          + "".join(f"\n  {row['file']} {row['arch']} {short(row['kernel'])}" for row in spilling))
    if note:
        print(note)


def print_rooflines(launches, precision):
    print(f"\nA training step in {precision} by the formulas of kernel_formulas.py. COMPUTED, NOT MEASURED.")
    for gpu, sheet in DATA_SHEETS.items():
        peaks = ", ".join(f"{name} {sheet[name]}" for name in ELEMENT_BYTES)
        print(f"  {gpu}: {peaks} TFLOP/s, {sheet['bandwidth']} GB/s")
    for shape in SHAPES:
        rows = roofline(shape, precision)
        print(f"\n{shape.name}: {shape.sequences} sequences of {shape.length} in {shape.pieces} pieces,"
              f" d {shape.hidden}, {shape.heads} heads, {shape.layers} layers, {shape.items:,} items,"
              f" {shape.masked_share} masked; "
              f"{model_flops(shape) / 1e9:.1f} GFLOP of the model a step")
        print(f"{'launch':32}{'launches':>9}{'MB':>12}{'GFLOP':>10}"
              + "".join(f"{gpu + ' us':>12}" for gpu in DATA_SHEETS))
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["seconds"]["H100"]):
            print(f"{name:32}{row['launches']:9}{row['bytes'] / 1e6:12.2f}{row['flops'] / 1e9:10.2f}"
                  + "".join(f"{1e6 * value:12.1f}" for value in row["seconds"].values()))
        totals = {gpu: sum(row["seconds"][gpu] for row in rows.values()) for gpu in DATA_SHEETS}
        print(f"{'all':32}{sum(row['launches'] for row in rows.values()):9}"
              f"{sum(row['bytes'] for row in rows.values()) / 1e6:12.2f}"
              f"{sum(row['flops'] for row in rows.values()) / 1e9:10.2f}"
              + "".join(f"{1e6 * value:12.1f}" for value in totals.values()))
    unused = sorted(launches - set(roofline(SHAPES[0], precision)))
    print("\nno part of this step: " + ", ".join(unused))
    print("without a formula: " + (", ".join(sorted(launches - set(FORMULAS))) or "-"))


# --- what a profiler measured ----------------------------------------------------------------------------------------


def measured_shares(table, shape, precision, steps, gpu):
    """Rows of `nsys stats --report cuda_gpu_kern_sum --format csv`, by launch name, beside the roofline of the step."""
    measured = collections.Counter()
    for row in csv.DictReader(table):
        measured[launch_of(row["Name"])[0] or short(row["Name"])] += float(row["Total Time (ns)"]) * 1e-9 / steps
    computed = roofline(shape, precision)
    result = []
    for name, value in measured.most_common():
        least = computed[name]["seconds"][gpu] if name in computed and gpu else None
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
    # The same with a residual and a sum of 24 bytes each.
    assert FORMULAS["layer_norm_forward"](r=3, c=2, e=4, sums=True, residual=True) == (4 * 24 + 16 + 24, 60)
    # 33 rows of 2 columns are two partial rows.
    assert FORMULAS["activation_backward"](r=33, c=2, e=2) == (3 * 33 * 4 + 2 * 8, 13 * 66)
    # Five queries and ten rows of 4 columns, 2 heads, sequences of 10.
    assert FORMULAS["attention_forward"](queries=5, r=10, c=4, e=4, heads=2, length=10) == (480 + 40, 50 * 26)
    # d 16, 60 items, length 12, 2 layers: what a run with these extents reports.
    small = Shape("small", hidden=16, heads=2, items=60, length=12, sequences=10)
    assert small.parameters() == 8124
    # A million items: 4 bytes of logits and, in bf16, 2 of dz: 178 rows in 1 GiB.
    calls = Calls(Shape("", hidden=64, heads=2, items=1_000_000, length=200), "bf16")
    calls.loss(179)
    assert [arguments["r"] for name, arguments, _ in calls.list if name == "masked_item_loss_rows"] == [178, 1]
    # Rows 120, masked 24: layer 1 has 72 d^2 FLOPs a row and layer 2 the qkv's 18 d^2, each with attention's 12 d L for
    # queries; masked rows have the other 54 d^2, the head's 6 d^2 and the loss's 6 d V.
    rows, masked, d = 120, 24, 16
    by_hand = (rows * (72 * d * d + 12 * d * 12) + rows * 18 * d * d
               + masked * (54 * d * d + 12 * d * 12 + 6 * d * d + 6 * d * 60))
    assert model_flops(small) == by_hand
    # 268 rows of a million logits fit in 1 GiB: 10 rows are one chunk, 269 are two.
    for masked, chunks in ((10, 1), (268, 1), (269, 2)):
        calls = Calls(Shape("", hidden=64, heads=2, items=1_000_000, length=200), "fp32")
        calls.loss(masked)
        assert sum(name == "masked_item_loss_rows" for name, *_ in calls.list) == chunks
    assert abs(seconds("fill", 3350e9, 0, "bf16", DATA_SHEETS["H100"]) - 1) < 1e-12
    assert abs(seconds("cublasLtMatmul", 0, 989e12, "bf16", DATA_SHEETS["H100"]) - 1) < 1e-12
    assert abs(seconds("cublasLtMatmul", 0, 67e12, "fp32", DATA_SHEETS["H100"]) - 1) < 1e-12
    table = ["Total Time (ns),Name", "2000,void itemloom::cuda_optimizer_step::AdamFours", "500,something_else"]
    adam, other = measured_shares(table, small, "fp32", 2, "H100")
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
    expected = roofline(shape, "fp32")

    def compare(launch, counted, bytes_expected):
        assert abs(counted / bytes_expected - 1) < 0.02, f"{launch}: counted {counted}, by the formula {bytes_expected}"

    for launch in ("sum_of_squares", "activation_forward", "activation_backward", "dropout_forward", "gather_rows",
                   "column_sum"):
        both = device_bytes(kernels, launch, "load") + device_bytes(kernels, launch, "store")
        compare(launch, both, expected[launch]["bytes"])
    # Every warp reads the step's decision, too, which is nothing where there are many; four arrays are written.
    compare("adam_step", device_bytes(kernels, "adam_step", "store"), expected["adam_step"]["bytes"] / 2)
    # Rows are read again, but written once. The head's norm has no sum. A warp has two rows, whose means share a sector.
    norms = 3 * rows + 3 * masked
    compare("layer_norm_forward", device_bytes(kernels, "layer_norm_forward", "store"),
            4 * (2 * norms - masked) * c + 32 * norms)
    return f"the emulation counts the formulas' bytes ({rows} rows, {masked} masked)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the same to a file")
    parser.add_argument("--precision", choices=list(ELEMENT_BYTES), default="fp32", help="training.precision (fp32)")
    parser.add_argument("--files", nargs="+", metavar="NAME", help="only kernels/cuda/NAME.cu")
    parser.add_argument("--no-kernels", action="store_true", help="only the step's bytes and FLOPs; no compiler needed")
    parser.add_argument("--measured", metavar="CSV", help="nsys stats --report cuda_gpu_kern_sum --format csv of a run")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="of the --measured run")
    parser.add_argument("--steps", type=int, help="of the --measured run")
    parser.add_argument("--gpu", choices=list(DATA_SHEETS), help="of the --measured run")
    parser.add_argument("--check", action="store_true", help="compare with what was computed by hand or counted")
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
            report = {"measured": measured_shares(table, shape, a.precision, a.steps, a.gpu)}
        print_shares(report["measured"])
    else:
        kernels, note = ([], None) if a.no_kernels else compiled_kernels(a.files)
        if not a.no_kernels:
            print_kernels(kernels, note)
        print_rooflines({name for name, *_ in LAUNCHES}, a.precision)
        report = {"kernels": kernels, "computed_not_measured": True, "precision": a.precision,
                  "data_sheets": DATA_SHEETS, "limits": LIMITS,
                  "steps": [shape.table() | {"model_flops": model_flops(shape),
                                             "launches": roofline(shape, a.precision)} for shape in SHAPES]}
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
