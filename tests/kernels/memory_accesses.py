#!/usr/bin/env python3
"""memory_accesses.py TESTS PROGRAM: how the kernels meet the memory, counted by the CUDA emulation.

Attention's tests: no access to shared memory takes a bank twice in bf16, and each kernel moves at most 1.05 times the
sectors of device memory that its bytes fill. Two trainings with a validation, in fp32 and in bf16: so does every kernel
that moves a noteworthy share of the step's bytes, and attention's tiles of fp32 take no bank twice, either.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HEAD_SIZES = (16, 32, 64, 128)
MOST_SECTORS = 1.05
# A kernel's share of a run's sectors from which on it matters.
NOTEWORTHY = 0.005
# What has such a share in any case.
BF16_ATTENTION = ('attention::bf16::forward', 'attention::bf16::add_query_gradients',
                  'attention::bf16::add_key_gradients', 'attention::row_dots<itemloom::Bf16')
FP32_ATTENTION = ('attention::forward', 'attention::add_query_gradients', 'attention::add_key_gradients',
                  'attention::row_dots<float')
OTHERS = ('layer_norm::normalise_rows', 'layer_norm::add_gradients', 'optimizer_step::AdamFours',
          'activation::ForwardFours', 'activation::find_gradients', 'embedding_bag::BagFours',
          'embedding_bag::PieceFours', 'masked_item_loss::finish_rows', 'reduce::sum_row_block',
          'reduce::sum_of_squares', 'reduce::add_partials')


def counted(command):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'counters.json')
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, CUDA_EMULATION_COUNTERS=file, CUDA_EMULATION_HOST_PROTECT='0'))
        with open(file) as text:
            return [Kernel(kernel) for kernel in json.load(text)['kernels']]


class Kernel:
    def __init__(self, counters):
        self.name = counters['kernel'].split('(itemloom::')[0].removeprefix('void ').replace('itemloom::cuda_', '')
        self.shared = [line for line in counters['lines'] if line['space'] == 'shared']
        self.device = [line for line in counters['lines'] if line['space'] == 'device']
        self.sectors = sum(line['sectors'] for line in self.device)

    def complaints(self, *, most_bank_cycles):
        # A number that many lanes read is one, which must not make up for others.
        ratio = self.sectors / sum(min(line['ideal'], line['sectors']) for line in self.device)
        cycles = sum(line['bank_cycles'] for line in self.shared)
        least = sum(line['ideal'] for line in self.shared)
        print(f'{self.name}: {ratio:.3f} times the sectors, {cycles / max(least, 1):.3f} times the cycles of banks')
        if ratio > MOST_SECTORS:
            worst = sorted(self.device, key=lambda line: line['ideal'] - line['sectors'])[:3]
            yield f'{self.name}: {ratio:.3f} times the sectors, mostly {worst}'
        if cycles > most_bank_cycles * least:
            worst = sorted(self.shared, key=lambda line: line['ideal'] - line['bank_cycles'])[:3]
            yield f'{self.name}: bank conflicts: {cycles / least:.3f} times the cycles, mostly {worst}'


def attention_complaints(tests):
    kernels = [kernel for kernel in counted([tests, 'bf16 attention is as good as a plain one for many short sequences'])
               if any(part in kernel.name for part in BF16_ATTENTION)]
    for kernel in kernels:
        yield from kernel.complaints(most_bank_cycles=1)
    if len(kernels) != len(BF16_ATTENTION) * len(HEAD_SIZES):
        yield f'{len(kernels)} kernels of attention were counted, not {len(BF16_ATTENTION) * len(HEAD_SIZES)}'


def training_complaints(program, precision, norm, attention):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = [f'{user} ' + ' '.join(str((37 * user + 11 * place * place) % 647) for place in range(6 + 5 * user % 23))
                 for user in range(40)] + ['all ' + ' '.join(map(str, range(647)))]
        (folder / 'sequences.txt').write_text('\n'.join(lines) + '\n')
        config = {'data': {'files': ['sequences.txt'], 'format': 'sequences', 'max_length': 24}, 'device': 'cuda',
                  'model': {'hidden_size': 64, 'heads': 2, 'layers': 2, 'norm': norm},
                  'training': {'epochs': 1, 'batch_size': 64, 'precision': precision}}
        (folder / 'config.json').write_text(json.dumps(config))
        kernels = counted([program, 'train', folder / 'config.json', '--run', folder / 'run'])
    all_sectors = sum(kernel.sectors for kernel in kernels)
    noteworthy = [kernel for kernel in kernels if kernel.sectors > NOTEWORTHY * all_sectors]
    for kernel in noteworthy:
        # What queries and keys are is read beside the tiles, by fewer lanes than there are banks.
        yield from kernel.complaints(most_bank_cycles=1.02 if 'attention' in kernel.name else 2)
    for part in attention + OTHERS:
        if not any(part in kernel.name for kernel in noteworthy):
            yield f'{precision}: no kernel {part} moved {NOTEWORTHY:.1%} of the sectors'


def main():
    tests, program = sys.argv[1:]
    complaints = [*attention_complaints(tests), *training_complaints(program, 'fp32', 'pre', FP32_ATTENTION),
                  *training_complaints(program, 'bf16', 'post', BF16_ATTENTION)]
    print('\n'.join(complaints))
    sys.exit(1 if complaints else 0)


main()
