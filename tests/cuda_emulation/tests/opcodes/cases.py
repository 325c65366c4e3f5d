"""One case per instruction form: its text, its operands' types, and what it must give, worked out by other means."""

import math

from exact import FORMATS, WIDTH, flushed, mask, samples, signed, value_of

COUNT = 64  # operand tuples per case; one warp pair


class Case:
    """text uses %a %b %c %d for the operands and %r (and %q) for the results."""

    def __init__(self, text, inputs, output, function, tolerance=0, operands=None):
        self.text, self.inputs, self.output, self.tolerance = text, inputs.split(), output.split(), tolerance
        columns = [samples(type_, COUNT) for type_ in self.inputs]
        # Columns are turned against each other, so that edge values meet other values.
        columns = [[column[(row * (2 * k + 1) + 5 * k) % COUNT] for row in range(COUNT)]
                   for k, column in enumerate(columns)]
        self.rows = operands or list(zip(*columns))
        self.expected = []
        for row in self.rows:
            result = function(*row)
            results = result if isinstance(result, tuple) else (result,)
            self.expected.append([mask(x, WIDTH[t]) for x, t in zip(results, self.output)])


def integer_cases():
    for type_ in ('u16', 's16', 'u32', 's32', 'u64', 's64'):
        width = WIDTH[type_]
        v = lambda x, t=type_: value_of(x, t)
        pair = f'{type_} {type_}'
        yield Case(f'add.{type_} %r, %a, %b;', pair, type_, lambda a, b: a + b)
        yield Case(f'sub.{type_} %r, %a, %b;', pair, type_, lambda a, b: a - b)
        yield Case(f'mul.lo.{type_} %r, %a, %b;', pair, type_, lambda a, b: a * b)
        yield Case(f'mul.hi.{type_} %r, %a, %b;', pair, type_, lambda a, b, v=v, w=width: v(a) * v(b) >> w)
        yield Case(f'mad.lo.{type_} %r, %a, %b, %c;', pair + ' ' + type_, type_, lambda a, b, c: a * b + c)
        yield Case(f'mad.hi.{type_} %r, %a, %b, %c;', pair + ' ' + type_, type_,
                   lambda a, b, c, v=v, w=width: (v(a) * v(b) >> w) + c)
        yield Case(f'div.{type_} %r, %a, %b;', pair, type_, lambda a, b, v=v: quotient(v(a), v(b)))
        yield Case(f'rem.{type_} %r, %a, %b;', pair, type_,
                   lambda a, b, v=v: v(a) - v(b) * quotient(v(a), v(b)) if v(b) else v(a))
        yield Case(f'min.{type_} %r, %a, %b;', pair, type_, lambda a, b, v=v: min(v(a), v(b)))
        yield Case(f'max.{type_} %r, %a, %b;', pair, type_, lambda a, b, v=v: max(v(a), v(b)))
        yield Case(f'sad.{type_} %r, %a, %b, %c;', pair + ' ' + type_, type_, lambda a, b, c, v=v: c + abs(v(a) - v(b)))
        yield Case(f'shr.{type_} %r, %a, %b;', f'{type_} u32', type_, lambda a, b, v=v: v(a) >> min(b, 64))
        if width < 64:
            wide = type_[0] + str(2 * width)
            yield Case(f'mul.wide.{type_} %r, %a, %b;', pair, wide, lambda a, b, v=v: v(a) * v(b))
            yield Case(f'mad.wide.{type_} %r, %a, %b, %c;', f'{pair} {wide}', wide,
                       lambda a, b, c, v=v: v(a) * v(b) + c)
        if type_[0] == 's':
            yield Case(f'abs.{type_} %r, %a;', type_, type_, lambda a, v=v: abs(v(a)))
            yield Case(f'neg.{type_} %r, %a;', type_, type_, lambda a: -a)
    for name, sign in (('add', 1), ('sub', -1)):
        yield Case(f'{name}.sat.s32 %r, %a, %b;', 's32 s32', 's32',
                   lambda a, b, g=sign: max(-2**31, min(2**31 - 1, signed(a, 32) + g * signed(b, 32))))
    for type_ in ('u32', 's32'):
        cut = lambda x, t=type_: x & 0xffffff if t[0] == 'u' else signed(x, 24)
        yield Case(f'mul24.lo.{type_} %r, %a, %b;', f'{type_} {type_}', type_, lambda a, b, c=cut: c(a) * c(b))
        yield Case(f'mad24.lo.{type_} %r, %a, %b, %c;', f'{type_} {type_} {type_}', type_,
                   lambda a, b, d, c=cut: c(a) * c(b) + d)


def quotient(a, b):
    if b == 0:
        return -1
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def carry_cases():
    for type_ in ('u32', 'u64'):
        width = WIDTH[type_]
        two, four = f'{type_} {type_}', ' '.join([type_] * 4)
        # A sum of two-word numbers: %r is the low word, %q the high one.
        join = lambda low, high, w=width: high << w | low
        yield Case(f'add.cc.{type_} %r, %a, %c; addc.{type_} %q, %b, %d;', four, two,
                   lambda a, b, c, d, j=join, w=width: (j(a, b) + j(c, d), j(a, b) + j(c, d) >> w))
        yield Case(f'sub.cc.{type_} %r, %a, %c; subc.{type_} %q, %b, %d;', four, two,
                   lambda a, b, c, d, j=join, w=width: (j(a, b) - j(c, d), (j(a, b) - j(c, d)) >> w))
        yield Case(f'add.cc.{type_} %r, %a, %b; addc.cc.{type_} %r, %a, %b; addc.{type_} %q, %c, %d;', four, two,
                   lambda a, b, c, d, w=width: (a + b + (a + b >> w), c + d + (a + b + (a + b >> w) >> w)))
        yield Case(f'mad.lo.cc.{type_} %r, %a, %b, %c; madc.hi.{type_} %q, %a, %b, %d;', four, two,
                   lambda a, b, c, d, w=width: (a * b + c, (a * b >> w) + d + ((a * b & ((1 << w) - 1)) + c >> w)))
        yield Case(f'mad.lo.cc.{type_} %r, %a, %b, %c; madc.hi.cc.{type_} %r, %a, %b, %d; addc.{type_} %q, %c, %d;', four,
                   two, lambda a, b, c, d, w=width: carry_chain(a, b, c, d, w))


def carry_chain(a, b, c, d, width):
    first = ((a * b & ((1 << width) - 1)) + c) >> width
    second = (a * b >> width) + d + first
    return second, c + d + (second >> width)


def bit_cases():
    for type_ in ('b16', 'b32', 'b64'):
        width, pair = WIDTH[type_], f'{type_} {type_}'
        yield Case(f'and.{type_} %r, %a, %b;', pair, type_, lambda a, b: a & b)
        yield Case(f'or.{type_} %r, %a, %b;', pair, type_, lambda a, b: a | b)
        yield Case(f'xor.{type_} %r, %a, %b;', pair, type_, lambda a, b: a ^ b)
        yield Case(f'not.{type_} %r, %a;', type_, type_, lambda a: ~a)
        yield Case(f'cnot.{type_} %r, %a;', type_, type_, lambda a: int(a == 0))
        yield Case(f'shl.{type_} %r, %a, %b;', f'{type_} u32', type_, lambda a, b: a << min(b, 64))
        yield Case(f'shr.{type_} %r, %a, %b;', f'{type_} u32', type_, lambda a, b: a >> min(b, 64))
        yield Case(f'mov.{type_} %r, %a;', type_, type_, lambda a: a)
        yield Case(f'selp.{type_} %r, %a, %b, %c;', pair + ' pred', type_, lambda a, b, c: a if c else b)
        yield Case(f'slct.{type_}.s32 %r, %a, %b, %c;', pair + ' s32', type_,
                   lambda a, b, c: a if signed(c, 32) >= 0 else b)
        if width == 16:
            continue
        yield Case(f'popc.{type_} %r, %a;', type_, 'u32', lambda a: bin(a).count('1'))
        yield Case(f'clz.{type_} %r, %a;', type_, 'u32', lambda a, w=width: w - a.bit_length())
        yield Case(f'brev.{type_} %r, %a;', type_, type_, lambda a, w=width: int(f'{a:0{w}b}'[::-1], 2))
        yield Case(f'bfi.{type_} %r, %a, %b, %c, %d;', pair + ' u32 u32', type_,
                   lambda a, b, c, d, w=width: inserted(a, b, c & 255, d & 255, w))
    for type_ in ('u32', 's32', 'u64', 's64'):
        yield Case(f'bfe.{type_} %r, %a, %b, %c;', f'{type_} u32 u32', type_,
                   lambda a, b, c, t=type_: extracted(a, b & 255, c & 255, t))
        for shift in ('', '.shiftamt'):
            yield Case(f'bfind{shift}.{type_} %r, %a;', type_, 'u32', lambda a, t=type_, s=shift: leading(a, t, s))
    for mode in ('clamp', 'wrap'):
        amount = (lambda c: min(c, 32)) if mode == 'clamp' else (lambda c: c & 31)
        yield Case(f'shf.l.{mode}.b32 %r, %a, %b, %c;', 'b32 b32 u32', 'b32',
                   lambda a, b, c, n=amount: (b << 32 | a) << n(c) >> 32)
        yield Case(f'shf.r.{mode}.b32 %r, %a, %b, %c;', 'b32 b32 u32', 'b32',
                   lambda a, b, c, n=amount: (b << 32 | a) >> n(c))
        yield Case(f'bmsk.{mode}.b32 %r, %a, %b;', 'u32 u32', 'b32',
                   lambda a, b, m=mode: ((1 << min(b, 32)) - 1) << min(a, 32) if m == 'clamp' else
                   ((1 << (b & 31)) - 1) << (a & 31))
        for type_ in ('u32', 's32'):
            yield Case(f'szext.{mode}.{type_} %r, %a, %b;', f'{type_} u32', type_,
                       lambda a, b, m=mode, t=type_: extended(a, b & 31 if m == 'wrap' else min(b, 32), t))
    for table in (0x80, 0x96, 0xca, 0xe8, 0x1b):
        yield Case(f'lop3.b32 %r, %a, %b, %c, {table:#x};', 'b32 b32 b32', 'b32',
                   lambda a, b, c, t=table: sum((t >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k
                                                for k in range(32)))
    yield Case('prmt.b32 %r, %a, %b, %c;', 'b32 b32 b32', 'b32', permuted)
    for mode, bytes_ in PRMT.items():
        yield Case(f'prmt.b32.{mode} %r, %a, %b, %c;', 'b32 b32 b32', 'b32',
                   lambda a, b, c, table=bytes_: sum(((b << 32 | a) >> 8 * byte & 255) << 8 * k
                                                     for k, byte in enumerate(table[c & 3])))
    for a_type in ('u32', 's32'):
        for b_type in ('u32', 's32'):
            yield Case(f'dp4a.{a_type}.{b_type} %r, %a, %b, %c;', f'{a_type} {b_type} u32', 'u32',
                       lambda a, b, c, s=a_type[0], t=b_type[0]: c + sum(
                           value_of(a >> 8 * k & 255, s + '8') * value_of(b >> 8 * k & 255, t + '8') for k in range(4)))


# The bytes (least significant first) that the modes of prmt pick, as the table of the PTX reference gives them.
PRMT = {
    'f4e': [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)],
    'b4e': [(0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)],
    'rc8': [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)],
    'ecl': [(0, 1, 2, 3), (1, 1, 2, 3), (2, 2, 2, 3), (3, 3, 3, 3)],
    'ecr': [(0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 2, 3)],
    'rc16': [(0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)],
}


def permuted(a, b, selector):
    bytes_ = (b << 32 | a).to_bytes(8, 'little')
    result = 0
    for k in range(4):
        choice = selector >> 4 * k & 15
        byte = bytes_[choice & 7]
        if choice & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << 8 * k
    return result


def inserted(a, b, position, length, width):
    bits = list(f'{b:0{width}b}'[::-1])
    for k in range(min(length, max(0, width - position))):
        bits[position + k] = str(a >> k & 1)
    return int(''.join(bits[::-1]), 2)


def extracted(a, position, length, type_):
    width = WIDTH[type_]
    top = width - 1
    if type_[0] == 'u' or length == 0:
        sign = 0
    else:
        sign = a >> min(position + length - 1, top) & 1
    return sum((a >> (position + k) & 1 if k < length and position + k <= top else sign) << k for k in range(width))


def leading(a, type_, as_shift):
    width = WIDTH[type_]
    value = value_of(a, type_)
    value = ~value if value < 0 else value
    if value == 0:
        return 0xffffffff
    return width - value.bit_length() if as_shift else value.bit_length() - 1


def extended(a, width, type_):
    if width == 0:
        return 0
    return signed(a, width) if type_[0] == 's' else mask(a, width)


def comparison_cases():
    relation = {'eq': lambda a, b: a == b, 'ne': lambda a, b: a != b, 'lt': lambda a, b: a < b,
                'le': lambda a, b: a <= b, 'gt': lambda a, b: a > b, 'ge': lambda a, b: a >= b}
    unsigned = {'lo': 'lt', 'ls': 'le', 'hi': 'gt', 'hs': 'ge'}
    for type_ in ('u16', 's16', 'u32', 's32', 'u64', 's64'):
        for name, holds in relation.items():
            yield Case(f'setp.{name}.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred',
                       lambda a, b, h=holds, t=type_: h(value_of(a, t), value_of(b, t)))
    for name, same in unsigned.items():
        yield Case(f'setp.{name}.u32 %r, %a, %b;', 'u32 u32', 'pred', lambda a, b, h=relation[same]: h(a, b))
    for name in ('eq', 'ne'):
        for type_ in ('b32', 'b64'):
            yield Case(f'setp.{name}.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred', relation[name])
    for type_ in ('f32', 'f64'):
        yield Case(f'mov.{type_} %r, %a;', type_, type_, lambda a: a)
        yield Case(f'selp.{type_} %r, %a, %b, %c;', f'{type_} {type_} pred', type_, lambda a, b, c: a if c else b)
    combine = {'and': lambda x, c: x and c, 'or': lambda x, c: x or c, 'xor': lambda x, c: bool(x) != bool(c)}
    for name, join in combine.items():
        yield Case(f'setp.lt.{name}.s32 %r, %a, %b, %c;', 's32 s32 pred', 'pred',
                   lambda a, b, c, j=join: j(signed(a, 32) < signed(b, 32), c))
        yield Case(f'setp.lt.{name}.s32 %r|%q, %a, %b, !%c;', 's32 s32 pred', 'pred pred',
                   lambda a, b, c, j=join: (j(signed(a, 32) < signed(b, 32), not c),
                                            j(not signed(a, 32) < signed(b, 32), not c)))
        yield Case(f'{name}.pred %r, %a, %b;', 'pred pred', 'pred', join)
    yield Case('not.pred %r, %a;', 'pred', 'pred', lambda a: not a)
    yield Case('setp.gt.u32 %r|%q, %a, %b;', 'u32 u32', 'pred pred', lambda a, b: (a > b, not a > b))
    yield Case('set.lt.u32.s32 %r, %a, %b;', 's32 s32', 'u32', lambda a, b: -(signed(a, 32) < signed(b, 32)))
    yield Case('set.gt.f32.f32 %r, %a, %b;', 'f32 f32', 'f32',
               lambda a, b: 0x3f800000 if FORMATS['f32'].number(a) > FORMATS['f32'].number(b) else 0)
    for type_ in ('f32', 'f64', 'f16', 'bf16'):
        number = FORMATS[type_].number
        for name, holds in relation.items():
            yield Case(f'setp.{name}.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred',
                       lambda a, b, h=holds, n=number: not_nan(n(a), n(b)) and h(n(a), n(b)))
            yield Case(f'setp.{name}u.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred',
                       lambda a, b, h=holds, n=number: not not_nan(n(a), n(b)) or h(n(a), n(b)))
        yield Case(f'setp.num.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred', lambda a, b, n=number: not_nan(n(a), n(b)))
        yield Case(f'setp.nan.{type_} %r, %a, %b;', f'{type_} {type_}', 'pred',
                   lambda a, b, n=number: not not_nan(n(a), n(b)))
    single = FORMATS['f32']
    yield Case('setp.lt.ftz.f32 %r, %a, %b;', 'f32 f32', 'pred',
               lambda a, b: single.number(flushed(a, single)) < single.number(flushed(b, single)))


def not_nan(*numbers):
    return not any(math.isnan(number) for number in numbers)
