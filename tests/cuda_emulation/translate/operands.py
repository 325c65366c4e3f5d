"""Turns PTX operands into C++ expressions.

Registers become C++ variables that hold raw bits (unsigned integers; bool for predicates); an expression of a type is a
conversion of those bits. PTX lets a register be wider than the type of an instruction, and this follows: reading takes
the low bits, writing extends by the type's sign.
"""

import re

from ptx_parser import TYPE_BYTES, Refused

CPP_TYPE = {
    'b8': 'uint8_t', 'u8': 'uint8_t', 's8': 'int8_t', 'b16': 'uint16_t', 'u16': 'uint16_t', 's16': 'int16_t',
    'b32': 'uint32_t', 'u32': 'uint32_t', 's32': 'int32_t', 'b64': 'uint64_t', 'u64': 'uint64_t', 's64': 'int64_t',
    'f32': 'float', 'f64': 'double', 'pred': 'bool', 'f16': 'uint16_t', 'bf16': 'uint16_t', 'f16x2': 'uint32_t',
    'bf16x2': 'uint32_t', 'tf32': 'uint32_t',
}
FLOATS = ('f32', 'f64')
HALVES = ('f16', 'bf16', 'f16x2', 'bf16x2')
INTEGERS = 'u16|u32|u64|s16|s32|s64'
BITS = 'b16|b32|b64'


def raw_type(bytes_):
    return f'uint{8 * bytes_}_t'


def unsigned_of(type_):
    return 'u' + type_[1:] if type_[0] in 'sb' and type_ not in FLOATS else type_


_SPECIAL = {
    '%laneid': 'thread.lane', '%warpid': 'thread.warp', '%nwarpid': 'block.warps', '%smid': '0u', '%nsmid': '1u',
    '%gridid': '0u', '%lanemask_eq': '(1u << thread.lane)', '%lanemask_lt': '((1u << thread.lane) - 1u)',
    '%lanemask_le': '((2u << thread.lane) - 1u)', '%lanemask_gt': '~((2u << thread.lane) - 1u)',
    '%lanemask_ge': '~((1u << thread.lane) - 1u)', '%clock': 'device_clock()', '%clock64': 'device_clock()',
    '%globaltimer': 'device_clock()', '%dynamic_smem_size': 'block.dynamic_shared_bytes', 'WARP_SZ': '32u',
    '%total_smem_size': '(block.dynamic_shared_bytes + block.static_shared_bytes)',
}
for _index, _axis in enumerate('xyz'):
    _SPECIAL[f'%tid.{_axis}'] = f'thread.index[{_index}]'
    _SPECIAL[f'%ctaid.{_axis}'] = f'block.index[{_index}]'
    _SPECIAL[f'%ntid.{_axis}'] = f'block.size[{_index}]'
    _SPECIAL[f'%nctaid.{_axis}'] = f'block.grid_size[{_index}]'


def _immediate(text, type_):
    """A literal as a C++ expression of the type, or None when the text is no literal."""
    cpp = CPP_TYPE[type_]
    if re.fullmatch(r'0[fF][0-9a-fA-F]{8}', text):
        bits = f'0x{text[2:]}u'
        return f'float_of({bits})' if type_ == 'f32' else f'(({cpp}){bits})'
    if re.fullmatch(r'0[dD][0-9a-fA-F]{16}', text):
        bits = f'0x{text[2:]}ull'
        return {'f64': f'double_of({bits})', 'f32': f'float(double_of({bits}))'}.get(type_, f'(({cpp}){bits})')
    if re.fullmatch(r'-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?', text):
        value = text.rstrip('U')
        octal = re.fullmatch(r'(-?)0(\d+)', value)
        number = int(octal[1] + '0o' + octal[2], 0) if octal else int(value, 0)
        if type_ == 'pred':
            return 'true' if number else 'false'
        return f'(({cpp}){number & 0xffffffffffffffff:#x}ull)'
    if re.fullmatch(r'-?\d+\.\d*(?:[eE][-+]?\d+)?', text):
        return f'(({cpp}){text})'
    return None


class Scopes:
    """Names declared in a function: registers (with their types), labels, and memory. Inner scopes hide outer ones."""

    def __init__(self):
        self.stack = [{}]
        self.used = set()
        self.declared = []  # C++ declarations of registers

    def enter(self):
        self.stack.append({})

    def leave(self):
        self.stack.pop()

    def unique(self, prefix, name):
        plain = prefix + re.sub(r'\W', '_', name.replace('%', ''))
        result, number = plain, 1
        while result in self.used:
            number += 1
            result = f'{plain}_{number}'
        self.used.add(result)
        return result

    def declare(self, name, value):
        self.stack[-1][name] = value

    def find(self, name):
        for scope in reversed(self.stack):
            if name in scope:
                return scope[name]
        return None

    def add_registers(self, text, line):
        match = re.match(r'\.reg\s+\.(\w+)\s+(.*)', text, re.S)
        if not match or match[1] not in TYPE_BYTES:
            raise Refused(f'registers not understood: {text[:80]}', line)
        type_ = match[1]
        for name in match[2].split(','):
            ranged = re.fullmatch(r'(.*?)<(\d+)>', name.strip())
            names = [f'{ranged[1]}{k}' for k in range(int(ranged[2]))] if ranged else [name.strip()]
            for register in names:
                variable = self.unique('v_', register)
                self.declare(register, ('register', type_, variable))
                # All ones is NaN as a float: a register that is read before it is written shows.
                self.declared.append('bool %s = true;' % variable if type_ == 'pred' else
                                     '%s %s = static_cast<%s>(-1);' % ((raw_type(TYPE_BYTES[type_]), variable) +
                                                                       (raw_type(TYPE_BYTES[type_]),)))


class Operands:
    """Reading and writing operands; a base of the function translator, which has `scopes` and `module_names`."""

    def read(self, text, type_):
        text = text.strip()
        if text.startswith('!') and type_ == 'pred':
            return f'!{self.read(text[1:], type_)}'
        if text.startswith('-') and self.scopes.find(text[1:]):
            return f'-{self.read(text[1:], type_)}'
        literal = _immediate(text, type_)
        if literal is not None:
            return literal
        cpp = CPP_TYPE[type_]
        if text in _SPECIAL:
            return f'(({cpp}){_SPECIAL[text]})'
        kind, declared, variable = self.scopes.find(text) or (None, None, None)
        if kind == 'register':
            return self._read_register(declared, variable, type_)
        address = self.symbol(text)
        if address is None:
            raise Refused(f"operand '{text}' is not understood")
        return f'(({cpp})(uintptr_t)({address}))'

    def _read_register(self, declared, variable, type_):
        if (type_ == 'pred') != (declared == 'pred'):
            raise Refused(f"register '{variable[2:]}' of type {declared} is read as {type_}")
        if type_ == 'pred':
            return variable
        if type_ in FLOATS:
            if TYPE_BYTES[declared] != TYPE_BYTES[type_]:
                raise Refused(f"register '{variable[2:]}' of type {declared} is read as {type_}")
            return f'{"float" if type_ == "f32" else "double"}_of({variable})'
        return f'(({CPP_TYPE[type_]}){variable})'

    def write(self, text, type_, expression):
        """A C++ statement that stores an expression of `type_` in a register."""
        text = text.strip()
        if text == '_':
            return f'(void)({expression});'
        kind, declared, variable = self.scopes.find(text) or (None, None, None)
        if kind != 'register':
            raise Refused(f"'{text}' is not a register")
        if (type_ == 'pred') != (declared == 'pred'):
            raise Refused(f"register '{text}' of type {declared} is written as {type_}")
        if declared == 'pred':
            return f'{variable} = ({expression});'
        if type_ in FLOATS:
            return f'{variable} = bits_of(({CPP_TYPE[type_]})({expression}));'
        raw = raw_type(TYPE_BYTES[declared])
        if TYPE_BYTES[declared] > TYPE_BYTES[type_] and type_[0] == 's':
            return f'{variable} = ({raw})(int{8 * TYPE_BYTES[declared]}_t)({CPP_TYPE[type_]})({expression});'
        return f'{variable} = ({raw})({CPP_TYPE[type_]})({expression});'

    def register_type(self, text):
        """The declared type of a register, None when the text is something else."""
        found = self.scopes.find(text.strip().lstrip('!'))
        return found[1] if found and found[0] == 'register' else None

    def address(self, text, space):
        """A C++ expression (unsigned char*) for an operand [base + offset] in a state space."""
        match = re.fullmatch(r'\[\s*([^\s+\]]+?)\s*(?:([+-])\s*(-?\w+)\s*)?\]', text.strip())
        if not match:
            raise Refused(f"address '{text}' is not understood")
        base, sign, offset = match.groups()
        offset = int(offset or '0', 0) * (-1 if sign == '-' else 1)
        kind, declared, variable = self.scopes.find(base) or (None, None, None)
        if kind == 'register':
            value = f'{variable} + ({offset})' if offset else variable
        elif re.fullmatch(r'-?(0[xX][0-9a-fA-F]+|\d+)', base):
            value = str(int(base, 0) + offset) + 'ull'
        else:
            symbol = self.symbol(base)
            if symbol is None:
                raise Refused(f"address '{text}' names nothing known")
            value = f'(uintptr_t)({symbol}) + ({offset})'
        if space == 'shared' or (kind is not None and kind == 'shared'):
            return f'(thread.shared + (uint32_t)({value}))'
        return f'((unsigned char*)(uintptr_t)({value}))'
