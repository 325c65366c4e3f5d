#!/usr/bin/env python3
"""make_opcode_test.py OUT.ptx OUT.cpp: a kernel for each case, and a table of operands and expected results."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import cases  # noqa: E402
import float_cases  # noqa: E402
from exact import WIDTH  # noqa: E402

SLOTS = 4  # operands of 8 bytes per thread; results take 2


def all_cases():
    for generator in (cases.integer_cases, cases.carry_cases, cases.bit_cases, cases.comparison_cases,
                      float_cases.arithmetic_cases, float_cases.sign_and_extremum_cases,
                      float_cases.transcendental_cases, float_cases.conversion_cases):
        yield from generator()


def register_type(type_):
    if type_ == 'pred':
        return 'pred'
    if type_ in ('f32', 'f64'):
        return type_
    return f'b{max(WIDTH[type_], 16)}'


def kernel(index, case):
    lines = [f'.visible .entry opcode_case_{index}(.param .u64 inputs, .param .u64 outputs)', '{',
             '.reg .b64 %address, %wide; .reg .b32 %thread;']
    names = list(zip('abcd', case.inputs)) + list(zip('rq', case.output))
    lines += [f'.reg .{register_type(type_)} %{name};' for name, type_ in names]
    lines += ['mov.u32 %thread, %tid.x;', 'ld.param.u64 %address, [inputs];',
              f'mad.wide.u32 %address, %thread, {8 * SLOTS}, %address;']
    for k, (name, type_) in enumerate(zip('abcd', case.inputs)):
        if type_ == 'pred':
            lines += [f'ld.global.b64 %wide, [%address+{8 * k}];', f'setp.ne.u64 %{name}, %wide, 0;']
        else:
            lines.append(f'ld.global.{load_type(type_)} %{name}, [%address+{8 * k}];')
    lines.append(case.text)
    lines += ['ld.param.u64 %address, [outputs];', 'mad.wide.u32 %address, %thread, 16, %address;']
    for k, (name, type_) in enumerate(zip('rq', case.output)):
        if type_ == 'pred':
            lines += [f'selp.u64 %wide, 1, 0, %{name};', f'st.global.b64 [%address+{8 * k}], %wide;']
        else:
            lines.append(f'st.global.{load_type(type_)} [%address+{8 * k}], %{name};')
    return '\n'.join(lines + ['ret;', '}'])


def load_type(type_):
    return type_ if type_ in ('f32', 'f64') else f'b{WIDTH[type_]}'


def table_row(index, case):
    operands = ', '.join(f'{x:#x}' for row in case.rows for x in list(row) + [0] * (SLOTS - len(row)))
    expected = ', '.join(f'{x:#x}' for row in case.expected for x in row + [0] * (2 - len(row)))
    types = case.output + ['none'] * (2 - len(case.output))
    text = re.sub(r'\s+', ' ', case.text).replace('"', '\\"')
    widths = ', '.join(str(WIDTH.get(type_, 0)) for type_ in types)
    kinds = ', '.join(f'Kind::{kind_of(type_)}' for type_ in types)
    return f'''const uint64_t operands_{index}[] = {{{operands}}};
const uint64_t expected_{index}[] = {{{expected}}};
''', f'    {{"opcode_case_{index}", "{text}", operands_{index}, expected_{index}, {{{widths}}}, {{{kinds}}}, ' \
     f'{case.tolerance}}},'


def kind_of(type_):
    return {'f32': 'kF32', 'f64': 'kF64', 'f16': 'kF16', 'bf16': 'kBF16', 'f16x2': 'kF16x2',
            'bf16x2': 'kBF16x2'}.get(type_, 'kBits')


def main():
    everything = list(all_cases())
    kernels = [kernel(index, case) for index, case in enumerate(everything)]
    pathlib.Path(sys.argv[1]).write_text('.version 9.0\n.target sm_90\n.address_size 64\n' + '\n'.join(kernels) + '\n')
    data, rows = zip(*(table_row(index, case) for index, case in enumerate(everything)))
    pathlib.Path(sys.argv[2]).write_text('#include "opcode_case.h"\n\n' + ''.join(data) +
                                         'const OpcodeCase kOpcodeCases[] = {\n' + '\n'.join(rows) + '\n};\n' +
                                         f'const int kOpcodeCaseCount = {len(rows)};\n')


if __name__ == '__main__':
    main()
