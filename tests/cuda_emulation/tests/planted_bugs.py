#!/usr/bin/env python3
"""planted_bugs.py PROGRAM: every planted bug is named in check mode whatever the seed, and nothing else is.

The last column says which bugs the plain mode must stop too, by whatever words, because memory traps there.
"""

import os
import re
import subprocess
import sys

# name: (what the report must begin with, the source line or words that must be in it, also in plain mode)
BUGS = {
    'missing_barrier': ('data race: |uninitialised read: ', "shared variable '", False),
    'write_after_read': ('data race: ', "shared variable '", False),
    'shuffle_mask': ('warp mask: |divergent barrier: ', 'mask 0xffffffff', True),
    'shuffle_outside': ('warp mask: ', 'reads lane', True),
    'tail': ('out of bounds: ', '0 bytes past the end of device allocation', True),
    'stale_shared': ('uninitialised read: ', "shared variable '", False),
    'misaligned': ('misaligned access: ', 'multiple of 16', True),
    'async_wait': ('cp.async in flight: ', "shared variable '", False),
    'accumulator': ('uninitialised read: ', 'device allocation', False),
    'two_writers': ('data race: write after write', 'device allocation', False),
    'two_blocks': ('data race: ', 'another block', False),
    'shared_histogram': ('data race: ', 'this block', False),
    'early_look': ('data race: ', 'this block', False),
    'divergent_barrier': ('divergent barrier: ', 'exited', True),
    'early_return': ('divergent barrier: ', 'exited', True),
    'missing_syncwarp': ('data race: |uninitialised read: ', "shared variable '", False),
    'partial_syncwarp': ('data race: |uninitialised read: ', "shared variable '", False),
    'trap': ('trap: ', 'stopped itself', True),
    'assertion': ('assertion: ', 'threadIdx.x < (kBug ? 31 : 32)', True),
    'shared_overrun': ('out of bounds: ', "shared variable '", True),
    'async_overwrite': ('cp.async in flight: ', "shared variable '", False),
    'dynamic_shared': ('out of bounds: ', 'dynamic shared memory (256 bytes), offset 256', True),
    'last_block': ('data race: read after write', 'another block', False),
    'host_pointer': ('host pointer: ', 'neither device memory nor pinned', False),
    'use_after_free': ('out of bounds: ', 'freed device allocation', True),
    'host_read': ('host access: ', 'device allocation', False),
    'long_copy': ('out of bounds: ', '68 bytes', True),
    'past_the_end': ('out of bounds: ', 'past the end of device allocation', True),
}
FROM_THE_HOST = ('host_read', 'long_copy')  # reports without a kernel


def run(program, name, variant, seed, check):
    # One of the bugs is host code that reads the device's memory, which only the guard finds.
    environment = dict(os.environ, CUDA_EMULATION_SEED=str(seed), CUDA_EMULATION_CHECK=str(check),
                       CUDA_EMULATION_HOST_PROTECT=str(check))
    result = subprocess.run([program, name, variant], env=environment, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stderr


def problems(program, name):
    begins, holds, plain = BUGS[name]
    for seed in (1, 2, 3):
        code, error = run(program, name, 'bug', seed, 1)
        if code == 0 or not re.match(f'CUDA emulation: ({begins})', error) or holds not in error:
            yield f'{name}, seed {seed}: not named as expected: {error or "no report"}'
        elif name not in FROM_THE_HOST and ('planted_bugs.cu:' not in error or f'SEED={seed}' not in error):
            yield f'{name}, seed {seed}: the report lacks the source line or the seed: {error}'
        for check in (0, 1):
            code, error = run(program, name, 'fixed', seed, check)
            if code != 0:
                yield f'{name}, fixed, seed {seed}, check {check}: a false alarm: {error}'
        if plain:
            code, error = run(program, name, 'bug', seed, 0)
            if code == 0 or not error.startswith('CUDA emulation: '):
                yield f'{name}, seed {seed}, plain mode: not noticed: {error}'


def main():
    found = [problem for name in BUGS for problem in problems(sys.argv[1], name)]
    for problem in found:
        print(problem)
    print(f'{len(BUGS)} planted bugs, {len(found)} problems')
    sys.exit(bool(found))


if __name__ == '__main__':
    main()
