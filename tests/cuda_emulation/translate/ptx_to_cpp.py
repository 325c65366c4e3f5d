#!/usr/bin/env python3
"""ptx_to_cpp.py IN.ptx OUT.cpp STEM: translates the PTX that the real nvcc emitted into C++ for the CUDA emulation.

What is not known is refused with opcode, modifier, file and line; OUT.cpp is then not written. STEM names the module.
"""

import pathlib
import sys

from module_translator import ModuleTranslator
from ptx_parser import Refused, parse_module


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, target, stem = sys.argv[1:]
    text = pathlib.Path(source).read_text()
    try:
        code = ModuleTranslator(parse_module(text), stem).translate()
    except Refused as refused:
        sys.exit(f'{source}:{refused.line}: {refused}')
    pathlib.Path(target).write_text(code)


if __name__ == '__main__':
    main()
