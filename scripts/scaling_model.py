#!/usr/bin/env python3
"""Step time of data-parallel training for 1 to 512 GPUs, computed from bytes, bandwidth and latency, not measured.

Compute: 72 d^2 FLOPs a row and layer (forward and backward of 12 d^2 weights), 12 d L a row and layer for attention over
sequences of L rows, 6 d V a masked row for the loss over V items; at `--efficiency` of the data sheet's peak.
Communication: reduce-scatter and all-gather of the gradient as rings, 2 (n - 1)/n of the bytes over the bandwidth and
2 (n - 1) latencies; first among the GPUs of a node, then each GPU's part between the nodes.
Overlap: the encoder's gradients travel while backward (two thirds of the step's compute) still runs; the tied item
table's come last and are exposed. Left out: stragglers, the loader, the optimizer's step, switches that share links.
"""

import argparse


def ring(size, byte_count, bandwidth, latency):
    """Seconds of a reduce-scatter and an all-gather of byte_count bytes in a ring of `size`."""
    return 2 * (size - 1) / size * byte_count / bandwidth + 2 * (size - 1) * latency


def all_reduce(gpus, byte_count, a):
    inside = min(gpus, a.gpus_per_node)
    nodes = -(-gpus // a.gpus_per_node)
    seconds = ring(inside, byte_count, a.node_bandwidth * 1e9, a.node_latency * 1e-6)
    return seconds + ring(nodes, byte_count / inside, a.network_bandwidth * 1e9, a.network_latency * 1e-6)


def compute_seconds(rows, a):
    masked = a.masked_share * rows
    layers = a.layers * rows * (72 * a.hidden**2 + 12 * a.hidden * a.length)
    return (layers + masked * 6 * a.hidden * a.items) / (a.peak * 1e12 * a.efficiency)


def step(gpus, rows, a):
    """(compute, communication in all, exposed communication) in seconds, for `rows` rows a GPU."""
    compute = compute_seconds(rows, a)
    encoder = all_reduce(gpus, 12 * a.layers * a.hidden**2 * a.gradient_bytes, a)
    table = all_reduce(gpus, a.items * a.hidden * a.gradient_bytes, a)
    return compute, encoder + table, table + max(0.0, encoder - 2 / 3 * compute)


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    values = {
        "hidden": (256, "hidden size d"),
        "layers": (4, "layers"),
        "items": (1_000_000, "items V in the catalogue"),
        "length": (100, "rows L of a sequence"),
        "rows": (131_072, "rows of a GPU's batch with one GPU"),
        "masked_share": (0.2, "share of the rows that is masked"),
        "gradient_bytes": (4, "bytes of a gradient: 4 fp32, 2 bf16 (training.gradient_exchange)"),
        "peak": (989.0, "TFLOP/s of a GPU (H100 SXM, bf16 dense, data sheet)"),
        "efficiency": (0.3, "share of the peak that is reached"),
        "gpus_per_node": (8, "GPUs of a node"),
        "node_bandwidth": (450.0, "GB/s of a GPU within a node, each way (NVLink 4)"),
        "node_latency": (3.0, "microseconds of a message within a node"),
        "network_bandwidth": (50.0, "GB/s of a GPU between nodes (400 Gb/s InfiniBand)"),
        "network_latency": (8.0, "microseconds of a message between nodes"),
    }
    for name, (default, text) in values.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default, help=f"{text} ({default})")
    parser.add_argument("--check", action="store_true", help="compare with values computed by hand")
    return parser.parse_args(words)


def check():
    a = arguments(["--hidden", "100", "--layers", "1", "--items", "1000", "--length", "10", "--masked-share", "0.5",
                   "--peak", "1", "--efficiency", "1", "--gpus-per-node", "2", "--node-bandwidth", "1",
                   "--network-bandwidth", "1", "--node-latency", "1", "--network-latency", "1"])
    # 720,000 + 12,000 + 0.5 * 600,000 FLOPs a row at 1e12 a second.
    assert abs(compute_seconds(1000, a) - 1.032e-3) < 1e-12
    # Two GPUs: half the bytes twice, two latencies. Four on two nodes: and the same for half of the bytes.
    assert abs(all_reduce(2, 4e5, a) - (4e-4 + 2e-6)) < 1e-12
    assert abs(all_reduce(4, 4e5, a) - (4e-4 + 2e-6 + 2e-4 + 2e-6)) < 1e-12
    assert all_reduce(1, 4e5, a) == 0
    compute, total, exposed = step(2, 1000, a)
    # The encoder's 480,000 bytes hide behind two thirds of the compute, the table's 400,000 do not.
    assert abs(total - (4.8e-4 + 4e-4 + 4e-6)) < 1e-12 and abs(exposed - (4e-4 + 2e-6)) < 1e-12


def main():
    a = arguments()
    if a.check:
        check()
        return print("scaling_model.py: the values are those computed by hand")
    print("Computed from data sheets, not measured. Assumptions:")
    for name, value in vars(a).items():
        if name != "check":
            print(f"  {name} = {value}")
    alone = sum(step(1, a.rows, a)[::2])
    print("\n                 weak scaling, rows a GPU stay              strong scaling, rows in all stay")
    print("GPUs    compute  all-reduce    exposed       step  efficiency       step  efficiency")
    for gpus in (1, 8, 64, 512):
        compute, total, exposed = step(gpus, a.rows, a)
        strong = sum(step(gpus, a.rows / gpus, a)[::2])
        print(f"{gpus:4} {1e3 * compute:7.2f} ms {1e3 * total:8.2f} ms {1e3 * exposed:7.2f} ms "
              f"{1e3 * (compute + exposed):7.2f} ms {100 * alone / (compute + exposed):9.1f} % "
              f"{1e3 * strong:7.2f} ms {100 * alone / (gpus * strong):9.1f} %")


if __name__ == "__main__":
    main()
