"""Cases of floating-point arithmetic and conversions."""

import math
from fractions import Fraction

from cases import Case
from exact import FORMATS, WIDTH, float_operation, flushed, value_of

SINGLE = FORMATS['f32']
INTEGERS = ('u8', 's8', 'u16', 's16', 'u32', 's32', 'u64', 's64')


def clamped(bits, format_):
    """.sat: to [0, 1], NaN to 0."""
    number = format_.number(bits)
    return 0 if math.isnan(number) or number <= 0 else format_.from_number(min(number, 1.0))


def arithmetic_cases():
    arity = {'add': 2, 'sub': 2, 'mul': 2, 'fma': 3, 'div': 2, 'sqrt': 1, 'rcp': 1}
    letters = ('%a', '%b', '%c')
    for name, count in arity.items():
        for type_ in ('f32', 'f64'):
            for mode in ('rn', 'rz', 'rm', 'rp'):
                yield Case(f'{name}.{mode}.{type_} %r, {", ".join(letters[:count])};', ' '.join([type_] * count), type_,
                           lambda *x, n=name, t=type_, m=mode: operation(t, n, x, m))
        yield Case(f'{name}.rn.ftz.f32 %r, {", ".join(letters[:count])};', ' '.join(['f32'] * count), 'f32',
                   lambda *x, n=name: flushed(operation('f32', n, [flushed(b, SINGLE) for b in x], 'rn'), SINGLE))
        if name in ('add', 'sub', 'mul', 'fma'):
            yield Case(f'{name}.rn.sat.f32 %r, {", ".join(letters[:count])};', ' '.join(['f32'] * count), 'f32',
                       lambda *x, n=name: clamped(operation('f32', n, x, 'rn'), SINGLE))
            rounding = '.rn' if name == 'fma' else ''
            for type_ in ('f32', 'f64') if name != 'fma' else ():
                yield Case(f'{name}.{type_} %r, %a, %b;', f'{type_} {type_}', type_,
                           lambda *x, n=name, t=type_: operation(t, n, x, 'rn'))
            for type_ in ('f16', 'bf16', 'f16x2', 'bf16x2'):
                yield Case(f'{name}{rounding}.{type_} %r, {", ".join(letters[:count])};', ' '.join([type_] * count),
                           type_, lambda *x, n=name, t=type_: pairwise(t, n, x))
            yield Case(f'{name}{rounding}.sat.f16 %r, {", ".join(letters[:count])};', ' '.join(['f16'] * count), 'f16',
                       lambda *x, n=name: clamped(operation('f16', n, x, 'rn'), FORMATS['f16']))
    for kind in ('approx', 'full'):
        yield Case(f'div.{kind}.f32 %r, %a, %b;', 'f32 f32', 'f32', lambda a, b: operation('f32', 'div', (a, b), 'rn'), 2)
    for name in ('rcp', 'sqrt'):
        yield Case(f'{name}.approx.f32 %r, %a;', 'f32', 'f32', lambda a, n=name: operation('f32', n, (a,), 'rn'), 2)
    yield Case('mad.rn.f32 %r, %a, %b, %c;', 'f32 f32 f32', 'f32', lambda *x: operation('f32', 'fma', x, 'rn'))


def operation(type_, name, operands, mode):
    if name == 'rcp':
        format_ = FORMATS[type_]
        return float_operation(type_, 'div', (format_.bias << format_.fraction_bits, operands[0]), mode)
    return float_operation(type_, name, operands, mode)


def pairwise(type_, name, operands):
    if not type_.endswith('x2'):
        return operation(type_, name, operands, 'rn')
    low, high = ([x >> shift & 0xffff for x in operands] for shift in (0, 16))
    return operation(type_[:-2], name, low, 'rn') | operation(type_[:-2], name, high, 'rn') << 16


def sign_and_extremum_cases():
    for type_ in ('f32', 'f64', 'f16', 'bf16', 'f16x2', 'bf16x2'):
        base = type_.replace('x2', '')
        format_ = FORMATS[base]
        signs = format_.sign * (0x10001 if type_.endswith('x2') else 1)
        yield Case(f'abs.{type_} %r, %a;', type_, type_, lambda a, s=signs: a & ~s)
        yield Case(f'neg.{type_} %r, %a;', type_, type_, lambda a, s=signs: a ^ s)
        for name in ('min', 'max'):
            for nan in ('', '.NaN') if type_ != 'f64' else ('',):
                yield Case(f'{name}{nan}.{type_} %r, %a, %b;', f'{type_} {type_}', type_,
                           lambda a, b, n=name, w=bool(nan), t=type_: extremum_of(t, n, w, a, b))
    yield Case('abs.ftz.f32 %r, %a;', 'f32', 'f32', lambda a: flushed(a & 0x7fffffff, SINGLE))
    yield Case('neg.ftz.f32 %r, %a;', 'f32', 'f32', lambda a: flushed(a ^ 0x80000000, SINGLE))
    for name in ('min', 'max'):
        yield Case(f'{name}.ftz.f32 %r, %a, %b;', 'f32 f32', 'f32',
                   lambda a, b, n=name: extremum(SINGLE, n, False, flushed(a, SINGLE), flushed(b, SINGLE)))
    yield Case('copysign.f32 %r, %a, %b;', 'f32 f32', 'f32', lambda a, b: b & 0x7fffffff | a & 0x80000000)
    yield Case('copysign.f64 %r, %a, %b;', 'f64 f64', 'f64', lambda a, b: b & (1 << 63) - 1 | a & 1 << 63)
    tests = {'finite': math.isfinite, 'infinite': math.isinf, 'number': lambda x: not math.isnan(x),
             'notanumber': math.isnan}
    for name, holds in tests.items():
        yield Case(f'testp.{name}.f32 %r, %a;', 'f32', 'pred', lambda a, h=holds: h(SINGLE.number(a)))
    yield Case('testp.normal.f32 %r, %a;', 'f32', 'pred', lambda a: 0 < (a >> 23 & 255) < 255)
    yield Case('testp.subnormal.f32 %r, %a;', 'f32', 'pred', lambda a: (a >> 23 & 255) == 0 and bool(a & 0x7fffff))


def extremum(format_, name, nan_wins, a, b):
    nans = [format_.is_nan(x) for x in (a, b)]
    if any(nans):
        return format_.nan if nan_wins or all(nans) else (b if nans[0] else a)
    # As signed-magnitude integers the bits order as the numbers do, -0 before +0.
    key = lambda x: -(x & ~format_.sign) - 1 if x & format_.sign else x
    return (min if name == 'min' else max)(a, b, key=key)


def extremum_of(type_, name, nan_wins, a, b):
    format_ = FORMATS[type_.replace('x2', '')]
    if not type_.endswith('x2'):
        return extremum(format_, name, nan_wins, a, b)
    return sum(extremum(format_, name, nan_wins, a >> s & 0xffff, b >> s & 0xffff) << s for s in (0, 16))


def transcendental_cases():
    functions = {'ex2': exponential, 'lg2': logarithm, 'sin': circular(math.sin), 'cos': circular(math.cos),
                 'rsqrt': reciprocal_root}
    for name, function in functions.items():
        for ftz in ('', '.ftz'):
            yield Case(f'{name}.approx{ftz}.f32 %r, %a;', 'f32', 'f32',
                       lambda a, f=function, z=bool(ftz): rounded(f, a, z), 4)
    yield Case('tanh.approx.f32 %r, %a;', 'f32', 'f32', lambda a: rounded(math.tanh, a, False), 4)
    yield Case('rsqrt.approx.f64 %r, %a;', 'f64', 'f64',
               lambda a: FORMATS['f64'].from_number(reciprocal_root(FORMATS['f64'].number(a))), 4)
    for type_, ftz in (('f16', ''), ('bf16', '.ftz')):
        format_ = FORMATS[type_]
        yield Case(f'ex2.approx{ftz}.{type_} %r, %a;', type_, type_,
                   lambda a, f=format_: f.from_number(exponential(f.number(a))), 1)
        yield Case(f'tanh.approx.{type_} %r, %a;', type_, type_,
                   lambda a, f=format_: f.from_number(math.tanh(f.number(a))), 1)


def rounded(function, bits, flush):
    bits = flushed(bits, SINGLE) if flush else bits
    number = SINGLE.number(bits)
    result = SINGLE.from_number(math.nan if math.isnan(number) else function(number))
    return flushed(result, SINGLE) if flush else result


def exponential(x):
    if x >= 1024:
        return math.inf
    return 0.0 if x < -2000 else 2.0 ** x


def logarithm(x):
    if x == 0:
        return -math.inf
    return math.nan if x < 0 else (math.inf if math.isinf(x) else math.log2(x))


def circular(function):
    return lambda x: math.nan if math.isinf(x) else function(x)


def reciprocal_root(x):
    if x == 0:
        return math.copysign(math.inf, x)
    return math.nan if x < 0 else (0.0 if math.isinf(x) else 1 / math.sqrt(x))


def conversion_cases():
    for source in INTEGERS:
        for target in INTEGERS:
            yield Case(f'cvt.{target}.{source} %r, %a;', source, target, lambda a, s=source: value_of(a, s))
            if can_overflow(source, target):
                yield Case(f'cvt.sat.{target}.{source} %r, %a;', source, target,
                           lambda a, s=source, t=target: saturated(value_of(a, s), t))
        for target in ('f32', 'f64'):
            for mode in ('rn', 'rz', 'rm', 'rp'):
                yield Case(f'cvt.{mode}.{target}.{source} %r, %a;', source, target,
                           lambda a, s=source, t=target, m=mode: FORMATS[t].round(Fraction(value_of(a, s)), m))
        for target in ('f16', 'bf16') if WIDTH[source] > 8 else ('f16',):
            yield Case(f'cvt.rn.{target}.{source} %r, %a;', source, target,
                       lambda a, s=source, t=target: FORMATS[t].round(Fraction(value_of(a, s)), 'rn'))
    for source in ('f32', 'f64', 'f16', 'bf16'):
        for target in INTEGERS[2:] if source == 'bf16' else INTEGERS:
            for mode in ('rni', 'rzi', 'rmi', 'rpi'):
                yield Case(f'cvt.{mode}.{target}.{source} %r, %a;', source, target,
                           lambda a, s=source, t=target, m=mode: to_integer(FORMATS[s].number(a), t, m))
    for mode in ('rn', 'rz', 'rm', 'rp'):
        yield Case(f'cvt.{mode}.f32.f64 %r, %a;', 'f64', 'f32', lambda a, m=mode: converted(a, 'f64', 'f32', m))
    for mode in ('rni', 'rzi', 'rmi', 'rpi'):
        for type_ in ('f32', 'f64'):
            yield Case(f'cvt.{mode}.{type_}.{type_} %r, %a;', type_, type_,
                       lambda a, m=mode, t=type_: integral(a, FORMATS[t], m))
    for source, target in (('f32', 'f64'), ('f16', 'f32'), ('bf16', 'f32'), ('f16', 'f64'), ('bf16', 'f64')):
        yield Case(f'cvt.{target}.{source} %r, %a;', source, target,
                   lambda a, s=source, t=target: converted(a, s, t, 'rn'))
    for source in ('f32', 'f64', 'f16', 'bf16'):
        for target in ('f16', 'bf16'):
            for mode in ('rn', 'rz') if source != target else ():
                yield Case(f'cvt.{mode}.{target}.{source} %r, %a;', source, target,
                           lambda a, s=source, t=target, m=mode: converted(a, s, t, m))
    for target in ('f16', 'bf16'):
        for mode in ('rn', 'rz'):
            yield Case(f'cvt.{mode}.{target}x2.f32 %r, %a, %b;', 'f32 f32', f'{target}x2',
                       lambda a, b, t=target, m=mode: converted(a, 'f32', t, m) << 16 | converted(b, 'f32', t, m))
    yield Case('cvt.ftz.f64.f32 %r, %a;', 'f32', 'f64', lambda a: converted(flushed(a, SINGLE), 'f32', 'f64', 'rn'))
    yield Case('cvt.sat.f32.f32 %r, %a;', 'f32', 'f32', lambda a: clamped(a, SINGLE))
    yield Case('cvt.rzi.ftz.s32.f32 %r, %a;', 'f32', 's32', lambda a: to_integer(SINGLE.number(a), 's32', 'rzi'))
    for mode in ('rna', 'rn'):
        yield Case(f'cvt.{mode}.tf32.f32 %r, %a;', 'f32', 'b32', lambda a, m=mode: to_tf32(a, m))


def limits(type_):
    width = WIDTH[type_]
    return (-(1 << width - 1), (1 << width - 1) - 1) if type_[0] == 's' else (0, (1 << width) - 1)


def can_overflow(source, target):
    return limits(source)[0] < limits(target)[0] or limits(source)[1] > limits(target)[1]


def saturated(value, type_):
    low, high = limits(type_)
    return max(low, min(high, value))


def to_whole(value, mode):
    """An exact number rounded to an integer."""
    floor = value.numerator // value.denominator
    if mode == 'rmi':
        return floor
    if mode == 'rpi':
        return -(-value.numerator // value.denominator)
    if mode == 'rzi':
        return floor if value >= 0 else -(-value.numerator // value.denominator)
    return round(value)  # ties to even


def to_integer(number, type_, mode):
    if math.isnan(number):
        return 0
    if math.isinf(number):
        return saturated(10**30 if number > 0 else -10**30, type_)
    return saturated(to_whole(Fraction(number), mode), type_)


def integral(bits, format_, mode):
    number = format_.number(bits)
    if not math.isfinite(number):
        return format_.nan if math.isnan(number) else bits
    return format_.round(Fraction(to_whole(Fraction(number), mode)), 'rn', bool(bits & format_.sign))


def converted(bits, source, target, mode):
    number = FORMATS[source].number(bits)
    return FORMATS[target].from_number(number, mode)


def to_tf32(bits, mode):
    if SINGLE.is_nan(bits) or SINGLE.is_infinite(bits):
        return bits
    format_ = SINGLE
    exponent = max(bits >> 23 & 255, 1)
    unit = Fraction(2) ** (exponent - 127 - 10)
    units = abs(format_.fraction(bits)) / unit
    whole = units.numerator // units.denominator
    rest = units - whole
    up = rest >= Fraction(1, 2) if mode == 'rna' else rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1)
    return format_.round((whole + up) * unit) | bits & format_.sign
