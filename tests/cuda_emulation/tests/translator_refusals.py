#!/usr/bin/env python3
"""The translator refuses what it does not know, by name, and writes nothing then."""

import pathlib
import subprocess
import sys
import tempfile

TRANSLATE = pathlib.Path(__file__).parent.parent / 'translate'
sys.path.insert(0, str(TRANSLATE))

from module_translator import ModuleTranslator  # noqa: E402
from ptx_parser import Refused, parse_module  # noqa: E402

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


def refusal(text):
    """(words, PTX line) of the refusal, or None."""
    try:
        ModuleTranslator(parse_module(text), 'stem').translate()
    except Refused as refused:
        return str(refused), refused.line
    return None


def program_problems():
    """What the program does with a refusal: one line that names the file, a failing status, no output."""
    with tempfile.TemporaryDirectory() as name:
        source, target = pathlib.Path(name) / 'in.ptx', pathlib.Path(name) / 'out.cpp'
        source.write_text(TEMPLATE.format(instruction='tex.frobnicate;'))
        result = subprocess.run([sys.executable, TRANSLATE / 'ptx_to_cpp.py', source, target, 'stem'],
                                capture_output=True, text=True)
        if result.returncode == 0 or target.exists() or f'{source}:9: opcode' not in result.stderr:
            yield f'the program answers {result.returncode}: {result.stderr}'


def main():
    problems = list(program_problems())
    if refusal(TEMPLATE.format(instruction='add.u32 %r1, %r1, %r1;')) is not None:
        problems.append('the template itself is refused')
    for instruction, words in REFUSED.items():
        answer, line = refusal(TEMPLATE.format(instruction=instruction)) or ('nothing', 0)
        missing = [word for word in words + ['somewhere/kernels.cu:42'] if word not in answer]
        if missing or line != 9:
            problems.append(f'{instruction} -> line {line}, lacks {missing}: {answer}')
    print('\n'.join(problems + [f'{len(REFUSED)} refusals, {len(problems)} problems']))
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
