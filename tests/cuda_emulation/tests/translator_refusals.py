#!/usr/bin/env python3
"""The translator refuses what it does not know, by name, and writes nothing then."""

import pathlib
import subprocess
import sys
import tempfile

TRANSLATOR = pathlib.Path(__file__).parent.parent / 'translate' / 'ptx_to_cpp.py'

# instruction: words that the refusal must hold
REFUSED = {
    'tex.1d.v4.s32.s32 {%r1, %r1, %r1, %r1}, [sampler, {%r1}];': ["opcode 'tex'"],
    'wgmma.fence.sync.aligned;': ["opcode 'wgmma'"],
    'mbarrier.init.shared.b64 [%rd1], 1;': ["opcode 'mbarrier'"],
    'add.sat.u32 %r1, %r1, %r1;': ["'add.sat.u32'"],
    'add.rn.relu.f32 %f1, %f1, %f1;': ["modifier '.relu'", "opcode 'add'"],
    'fma.rn.relu.bf16 %h1, %h1, %h1, %h1;': ["modifier '.relu'", "opcode 'fma'"],
    'cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f1;': ["modifier '.satfinite'", "opcode 'cvt'"],
    'mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};': ["modifier '.m16n8k32'", "'mma'"],
    'ld.shared::cluster.u32 %r1, [%rd1];': ["modifier '.shared::cluster'", "opcode 'ld'"],
    'cp.async.bulk.commit_group;': ["modifier '.bulk'", "opcode 'cp'"],
    'cp.async.cg.shared.global [%r1], [%rd1], 8;': ['cp.async of 8 bytes'],
    'bra $missing;': ["label '$missing'"],
    'call.uni missing, ();': ["call of 'missing'"],
    'mov.u32 %r1, %unknown;': ["operand '%unknown'"],
    'add.f32 %f1, %rd1, %f1;': ['is read as f32'],
    'add.u32 %r1, %p1, %r1;': ['is read as u32'],
}

TEMPLATE = '''.version 8.0
.target sm_80
.address_size 64
.file 1 "somewhere/kernels.cu"
.visible .entry kernel()
{{
.reg .pred %p1; .reg .b16 %h1; .reg .b32 %r1; .reg .f32 %f1; .reg .b64 %rd1;
.loc 1 42 3
{instruction}
ret;
}}
'''


def translate(folder, text):
    source, target = folder / 'in.ptx', folder / 'out.cpp'
    source.write_text(text)
    target.unlink(missing_ok=True)
    result = subprocess.run([sys.executable, TRANSLATOR, source, target, 'stem'], capture_output=True, text=True)
    return result.returncode, result.stderr, target.exists()


def main():
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        code, error, written = translate(folder, TEMPLATE.format(instruction='add.u32 %r1, %r1, %r1;'))
        if code != 0 or not written:
            problems.append(f'the template itself is refused: {error}')
        for instruction, words in REFUSED.items():
            code, error, written = translate(folder, TEMPLATE.format(instruction=instruction))
            wanted = words + ['somewhere/kernels.cu:42', 'in.ptx:9']
            missing = [word for word in wanted if word not in error]
            if code == 0 or written or missing:
                problems.append(f'{instruction} -> code {code}, lacks {missing}: {error.strip()}')
    print('\n'.join(problems + [f'{len(REFUSED)} refusals, {len(problems)} problems']))
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
