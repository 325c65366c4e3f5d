#!/usr/bin/env python3
"""memory_accesses.py TESTS PROGRAM: how the kernels meet the memory, counted by the CUDA emulation.

In some of the kernels' tests every kernel moves at most 1.05 times the sectors of device memory that its bytes fill; in
small trainings with a validation so does every line that moves 0.25 % of all sectors, and every kernel that moves 0.5 %
at most 1.1 times, with its searches and single numbers. Tiles of attention take no bank of shared memory twice, and
other accesses to it hardly ever.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

MOST_SECTORS, MOST_SECTORS_OF_KERNEL = 1.05, 1.1
# What queries and keys are is read beside the tiles of fp32, by fewer lanes than there are banks.
MOST_BANK_CYCLES = 1.02
# Shares of all sectors from which on a kernel, and a line of one, matter.
NOTEWORTHY_KERNEL, NOTEWORTHY_LINE = 0.005, 0.0025

# Tests, and kernels that they run in how many forms.
BF16_ATTENTION = ('attention::bf16::forward', 'attention::bf16::add_query_gradients',
                  'attention::bf16::add_key_gradients', 'attention::row_dots<itemloom::Bf16')
CUT_LOSS = ('finish_rows<(masked_item_loss::Visit)0, ', 'finish_rows<(masked_item_loss::Visit)1, ')
TESTS = {
    'bf16 attention is as good as a plain one for many short sequences': (BF16_ATTENTION, 4),
    'rows that are cut into tiles of items have the same loss and gradients': (CUT_LOSS, 1),
}
# Trainings: precision, norm, hidden size and heads. And what matters in each of them.
TRAININGS = (('fp32', 'pre', 64, 4), ('fp32', 'post', 64, 2), ('fp32', 'pre', 64, 1), ('fp32', 'pre', 128, 1),
             ('bf16', 'pre', 64, 2), ('bf16', 'post', 64, 2))
FP32_ATTENTION = ('attention::forward', 'attention::add_query_gradients', 'attention::add_key_gradients',
                  'attention::row_dots<float')
ANYWAY = ('layer_norm::normalise_rows', 'layer_norm::add_gradients', 'optimizer_step::AdamFours',
          'activation::ForwardFours', 'activation::find_gradients', 'embedding_bag::BagFours',
          'embedding_bag::PieceFours', 'masked_item_loss::finish_rows', 'reduce::sum_row_block',
          'reduce::sum_of_squares', 'reduce::add_partials')
POST_NORM = ('dropout::DrawnKept<dropout::ForwardFours', 'dropout::DrawnKept<dropout::BackwardFours')


def counted(command):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'counters.json')
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env=dict(os.environ, CUDA_EMULATION_COUNTERS=file, CUDA_EMULATION_HOST_PROTECT='0'))
        if done.returncode != 0:
            sys.exit(f'{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}')
        with open(file) as text:
            return [Kernel(kernel) for kernel in json.load(text)['kernels']]


class Kernel:
    def __init__(self, counters):
        self.name = counters['kernel'].replace('itemloom::cuda_', '')
        self.shared = [line for line in counters['lines'] if line['space'] == 'shared']
        self.device = [line for line in counters['lines'] if line['space'] == 'device']
        self.sectors = sum(line['sectors'] for line in self.device)

    # A number that many lanes read is one, which must not make up for others.
    def ratio(self):
        return self.sectors / sum(min(line['ideal'], line['sectors']) for line in self.device)

    def sector_complaints(self, most):
        if self.ratio() > most:
            worst = sorted(self.device, key=lambda line: line['ideal'] - line['sectors'])[:3]
            yield f'{self.name}: {self.ratio():.3f} times the sectors, mostly {worst}'

    def line_complaints(self, all_sectors):
        for line in self.device:
            if line['sectors'] > max(NOTEWORTHY_LINE * all_sectors, MOST_SECTORS * line['ideal']):
                yield f'{self.name}: too many sectors: {line}'

    def bank_complaints(self, most):
        cycles = sum(line['bank_cycles'] for line in self.shared)
        least = sum(line['ideal'] for line in self.shared)
        print(f'{self.ratio():.3f} times the sectors, {cycles / max(least, 1):.3f} times banks: {self.name[:120]}')
        if cycles > most * least:
            worst = sorted(self.shared, key=lambda line: line['ideal'] - line['bank_cycles'])[:3]
            yield f'{self.name}: bank conflicts: {cycles / least:.3f} times the cycles, mostly {worst}'


def test_complaints(tests, name, parts, forms):
    kernels = [kernel for kernel in counted([tests, name]) if any(part in kernel.name for part in parts)]
    print(name)
    for kernel in kernels:
        yield from kernel.bank_complaints(1)
        yield from kernel.sector_complaints(MOST_SECTORS)
    if len(kernels) != len(parts) * forms:
        yield f'{name}: {len(kernels)} kernels were counted, not {len(parts) * forms}'


def training_complaints(program, precision, norm, hidden, heads):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = ['all ' + ' '.join(map(str, range(647)))]
        for user in range(40):
            places = range(6 + 5 * user % 23)
            lines.append(f'{user} ' + ' '.join(str((37 * user + 11 * place * place) % 647) for place in places))
        (folder / 'sequences.txt').write_text('\n'.join(lines) + '\n')
        config = {'data': {'files': ['sequences.txt'], 'format': 'sequences', 'max_length': 24}, 'device': 'cuda',
                  'model': {'hidden_size': hidden, 'heads': heads, 'layers': 2, 'norm': norm},
                  'training': {'epochs': 1, 'batch_size': 64, 'precision': precision}}
        (folder / 'config.json').write_text(json.dumps(config))
        kernels = counted([program, 'train', folder / 'config.json', '--run', folder / 'run'])
    all_sectors = sum(kernel.sectors for kernel in kernels)
    noteworthy = [kernel for kernel in kernels if kernel.sectors > NOTEWORTHY_KERNEL * all_sectors]
    print(f'{precision}, {norm}, hidden size {hidden}, {heads} heads')
    for kernel in noteworthy:
        yield from kernel.bank_complaints(MOST_BANK_CYCLES)
        yield from kernel.sector_complaints(MOST_SECTORS_OF_KERNEL)
        yield from kernel.line_complaints(all_sectors)
    attention = FP32_ATTENTION if precision == 'fp32' else BF16_ATTENTION
    for part in ANYWAY + attention + (POST_NORM if norm == 'post' else ()):
        if not any(part in kernel.name for kernel in noteworthy):
            yield f'{precision}, {norm}: no kernel {part} moved {NOTEWORTHY_KERNEL:.1%} of the sectors'


def main():
    tests, program = sys.argv[1:]
    complaints = []
    for name, expected in TESTS.items():
        complaints += test_complaints(tests, name, *expected)
    for training in TRAININGS:
        complaints += training_complaints(program, *training)
    print('\n'.join(complaints))
    sys.exit(1 if complaints else 0)


main()
