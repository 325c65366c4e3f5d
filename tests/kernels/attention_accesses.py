#!/usr/bin/env python3
"""attention_accesses.py TESTS: how the kernels of bf16 attention meet the memory, counted by the CUDA emulation.

No access to shared memory takes a bank twice, and each kernel moves at most 1.05 times the sectors of device memory that
its bytes fill.
"""

import json
import os
import subprocess
import sys
import tempfile

NAMESPACE = 'itemloom::cuda_attention::'
KERNELS = ('bf16::forward', 'bf16::add_query_gradients', 'bf16::add_key_gradients', 'row_dots<itemloom::Bf16, ')
HEAD_SIZES = (16, 32, 64, 128)
MOST_SECTORS = 1.05


def count(tests):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'counters.json')
        subprocess.run([tests, 'bf16 attention is as good as a plain one for many short sequences'], check=True,
                       env=dict(os.environ, CUDA_EMULATION_COUNTERS=file, CUDA_EMULATION_HOST_PROTECT='0'))
        with open(file) as text:
            return json.load(text)['kernels']


def main():
    complaints, seen = [], 0
    for kernel in count(sys.argv[1]):
        name = kernel['kernel'].split('(')[0].removeprefix('void ').removeprefix(NAMESPACE)
        if not name.startswith(KERNELS):
            continue
        seen += 1
        shared = [line for line in kernel['lines'] if line['space'] == 'shared']
        device = [line for line in kernel['lines'] if line['space'] == 'device']
        complaints += [f'{name}: bank conflicts: {line}' for line in shared if line['bank_cycles'] != line['ideal']]
        # A number that many lanes read is one, which must not make up for others.
        least = sum(min(line['ideal'], line['sectors']) for line in device)
        ratio = sum(line['sectors'] for line in device) / least
        print(f'{name}: {len(shared)} lines of shared memory, {ratio:.3f} times the sectors')
        if ratio > MOST_SECTORS:
            worst = sorted(device, key=lambda line: line['ideal'] - line['sectors'])[:3]
            complaints += [f'{name}: {ratio:.3f} times the sectors, mostly {worst}']
    if seen != len(KERNELS) * len(HEAD_SIZES):
        complaints.append(f'{seen} kernels were counted, not {len(KERNELS) * len(HEAD_SIZES)}')
    print('\n'.join(complaints))
    sys.exit(1 if complaints else 0)


main()
