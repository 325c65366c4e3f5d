#!/usr/bin/env python3
"""opcodes_are_tested.py FOLDER...: every opcode of the allow-list, with every modifier that has an effect here, occurs
in PTX that a test runs."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / 'translate'))

import module_translator  # noqa: E402,F401
from instruction_table import all_modifiers, find_emitter, opcodes  # noqa: E402
from ptx_parser import parse_module  # noqa: E402


# Scopes, orders of atomics, and caching have no effect, and these state spaces have the one of others.
NO_EFFECT = set('cta cluster gpu sys relaxed acquire release acq_rel ca cg cs lu cv wb wt L1 L2 uni '
                'shared::cta param::entry param::func const param local global'.split())


def has_effect(word):
    return word not in NO_EFFECT and not word.startswith(('L1::', 'L2::'))


def main():
    files = [HERE / 'forms.ptx'] + [path for folder in sys.argv[1:] for path in pathlib.Path(folder).rglob('*.ptx')]
    used = set()
    for path in files:
        for function in parse_module(path.read_text()).functions:
            for statement in function.statements:
                if statement.kind == 'instruction':
                    used.add((statement.opcode, None))
                    used |= {(statement.opcode, word) for word in find_emitter(statement)[1].values()}
    untested = [opcode for opcode in opcodes() if (opcode, None) not in used]
    for opcode in opcodes():
        missing = sorted(word for word in all_modifiers(opcode) if has_effect(word) and (opcode, word) not in used)
        if missing:
            print(f'{opcode}: no test uses {" ".join(missing)}')
            untested.append(opcode)
    print(f'{len(opcodes())} opcodes in {len(files)} files, untested: {untested}')
    sys.exit(bool(untested))


if __name__ == '__main__':
    main()
