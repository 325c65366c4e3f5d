"""Floating-point arithmetic and conversions."""

from instruction_table import instruction
from operands import CPP_TYPE
from ptx_parser import TYPE_BYTES, Refused

ROUND = 'rn|rz|rm|rp'
NEAREST = (None, 'rn')
INTEGER_ROUND = {'rni': 'round_to_even', 'rzi': 'std::trunc', 'rmi': 'std::floor', 'rpi': 'std::ceil'}
HALF_CLASS = {'f16': 'Half', 'f16x2': 'Half', 'bf16': 'BFloat16', 'bf16x2': 'BFloat16'}
MODE = {'rz': 'Rounding::kZero', 'rm': 'Rounding::kDown', 'rp': 'Rounding::kUp', 'rn': 'Rounding::kNearest',
        'rna': 'Rounding::kNearestAway'}


def _reader(f, i, type_):
    """Reads operands, flushing subnormals where the instruction says .ftz."""
    if i.get('ftz') and type_ == 'f32':
        return lambda index: f'flush({f.read(i[index], type_)})'
    return lambda index: f.read(i[index], type_)


def _finish(f, i, type_, expression):
    """Writes a result with .ftz and .sat applied."""
    if i.get('ftz') and type_ == 'f32':
        expression = f'flush({expression})'
    if i.get('sat'):
        expression = f'clamp_to_unit({expression})'
    return f.write(i[0], type_, expression)


@instruction('add sub mul', f'?round={ROUND} ?ftz ?sat type=f32', f'?round={ROUND} type=f64')
def float_arithmetic(f, i):
    read = _reader(f, i, i.type)
    a, b = read(1), read(2)
    if i.get('round') in NEAREST:
        symbol = {'add': '+', 'sub': '-', 'mul': '*'}[i.opcode]
        return _finish(f, i, i.type, f'({a} {symbol} {b})')
    return _finish(f, i, i.type, f'rounded_{i.opcode}({a}, {b}, {MODE[i.get("round")]})')


@instruction('fma', f'round={ROUND} ?ftz ?sat type=f32', f'round={ROUND} type=f64')
@instruction('mad', 'round=rn type=f32')
def fused_multiply_add(f, i):
    read = _reader(f, i, i.type)
    operands = f'{read(1)}, {read(2)}, {read(3)}'
    if i.get('round') in NEAREST:
        return _finish(f, i, i.type, f'std::fma({operands})')
    return _finish(f, i, i.type, f'rounded_fma({operands}, {MODE[i.get("round")]})')


@instruction('div', f'round=approx|full|{ROUND} ?ftz type=f32', f'round={ROUND} type=f64')
def float_divide(f, i):
    read = _reader(f, i, i.type)
    if i.get('round') in ('approx', 'full', 'rn'):
        return _finish(f, i, i.type, f'({read(1)} / {read(2)})')
    return _finish(f, i, i.type, f'rounded_div({read(1)}, {read(2)}, {MODE[i.get("round")]})')


@instruction('rcp sqrt', f'round=approx|{ROUND} ?ftz type=f32', f'round={ROUND} type=f64')
@instruction('rcp', 'round=approx ftz type=f64')
def reciprocal_or_root(f, i):
    argument = _reader(f, i, i.type)(1)
    if i.get('round') in ('approx', 'rn'):
        one = '1.0f' if i.type == 'f32' else '1.0'
        expression = f'({one} / {argument})' if i.opcode == 'rcp' else f'std::sqrt({argument})'
        return _finish(f, i, i.type, expression)
    if i.opcode == 'rcp':
        return _finish(f, i, i.type, f'rounded_div(({CPP_TYPE[i.type]})1, {argument}, {MODE[i.get("round")]})')
    return _finish(f, i, i.type, f'rounded_sqrt({argument}, {MODE[i.get("round")]})')


@instruction('rsqrt', 'approx ?ftz type=f32', 'approx ?ftz type=f64')
def reciprocal_root(f, i):
    return _finish(f, i, i.type, f'reciprocal_root({_reader(f, i, i.type)(1)})')


@instruction('sin cos lg2 ex2', 'approx ?ftz type=f32')
@instruction('tanh', 'approx type=f32')
def transcendental(f, i):
    name = {'sin': 'std::sin', 'cos': 'std::cos', 'lg2': 'std::log2', 'ex2': 'std::exp2', 'tanh': 'std::tanh'}
    return _finish(f, i, 'f32', f'{name[i.opcode]}({_reader(f, i, "f32")(1)})')


@instruction('abs neg', '?ftz type=f32', 'type=f64')
def float_sign(f, i):
    argument = _reader(f, i, i.type)(1)
    return _finish(f, i, i.type, f'std::fabs({argument})' if i.opcode == 'abs' else f'negated({argument})')


@instruction('copysign', 'type=f32|f64')
def copy_sign(f, i):
    return f.write(i[0], i.type, f'std::copysign({f.read(i[2], i.type)}, {f.read(i[1], i.type)})')


@instruction('testp', 'test=finite|infinite|number|notanumber|normal|subnormal type=f32')
def test_property(f, i):
    a = f.read(i[1], i.type)
    tests = {'finite': f'std::isfinite({a})', 'infinite': f'std::isinf({a})', 'number': f'!std::isnan({a})',
             'notanumber': f'std::isnan({a})', 'normal': f'std::isnormal({a})',
             'subnormal': f'(std::fpclassify({a}) == FP_SUBNORMAL)'}
    return f.write(i[0], 'pred', tests[i.get('test')])


@instruction('min max', '?ftz ?NaN type=f32', 'type=f64')
def float_extremum(f, i):
    read = _reader(f, i, i.type)
    name = f'float_{i.opcode}' + ('_nan' if i.get('NaN') else '')
    arguments = ', '.join(read(k) for k in range(1, len(i.operands)))
    if len(i.operands) == 4:
        arguments = f'{name}({read(1)}, {read(2)}), {read(3)}'
    return _finish(f, i, i.type, f'{name}({arguments})')


# ---- Half types: computed in double, rounded once ----

@instruction('add sub mul', '?rn ?sat type=f16|f16x2', '?rn type=bf16|bf16x2', 'rn ftz ?sat type=f16|f16x2')
@instruction('min max', '?ftz ?NaN type=f16|f16x2', '?NaN type=bf16|bf16x2')
@instruction('fma', 'rn ?ftz ?sat type=f16|f16x2', 'rn type=bf16|bf16x2')
@instruction('abs neg', '?ftz type=f16|f16x2', 'type=bf16|bf16x2')
@instruction('ex2', 'approx type=f16', 'approx ftz type=bf16')
@instruction('tanh', 'approx type=f16|bf16')
def half_arithmetic(f, i):
    if i.get('ftz') and HALF_CLASS[i.type] == 'Half':
        raise Refused(f'.ftz is not supported for {i.type}')
    raw = f'b{8 * TYPE_BYTES[i.type]}'
    operation = i.opcode + ('_nan' if i.get('NaN') else '')
    lanes = 2 if i.type.endswith('x2') else 1
    arguments = ', '.join(f.read(operand, raw) for operand in i.operands[1:])
    saturate = ', true' if i.get('sat') else ''
    choice = f'{HALF_CLASS[i.type]}, {lanes}, HalfOp::k_{operation}{saturate}'
    return f.write(i[0], raw, f'half_apply<{choice}>({arguments})')


# ---- Conversions ----

@instruction('cvt', '?sat to=u8|u16|u32|u64|s8|s16|s32|s64 from=u8|u16|u32|u64|s8|s16|s32|s64')
def convert_integer(f, i):
    target = i.get('to')
    value = f.read(i[1], i.get('from'))
    if i.get('sat'):
        return f.write(i[0], target, f'saturate<{CPP_TYPE[target]}>({value})')
    return f.write(i[0], target, f'({CPP_TYPE[target]}){value}')


@instruction('cvt', 'round=rni|rzi|rmi|rpi ?ftz ?sat to=u8|u16|u32|u64|s8|s16|s32|s64 from=f32|f64|f16',
             'round=rni|rzi|rmi|rpi to=u16|u32|u64|s16|s32|s64 from=bf16')
def convert_float_to_integer(f, i):
    source = i.get('from')
    value = f'widen_{source}({f.read(i[1], "b16")})' if source in ('f16', 'bf16') else f.read(i[1], source)
    if i.get('ftz'):
        value = f'flush({value})'
    target = CPP_TYPE[i.get('to')]
    return f.write(i[0], i.get('to'), f'float_to_integer<{target}>({INTEGER_ROUND[i.get("round")]}({value}))')


@instruction('cvt', f'round={ROUND} ?ftz ?sat to=f32|f64 from=u8|u16|u32|u64|s8|s16|s32|s64')
def convert_integer_to_float(f, i):
    target, value = i.get('to'), f.read(i[1], i.get('from'))
    expression = f'({CPP_TYPE[target]}){value}'
    if i.get('round') != 'rn':
        expression = f'round_to<{CPP_TYPE[target]}>((long double){value}, {MODE[i.get("round")]})'
    if i.get('sat'):
        expression = f'clamp_to_unit({expression})'
    return f.write(i[0], target, expression)


@instruction('cvt', f'?round={ROUND}|rni|rzi|rmi|rpi ?ftz ?sat to=f32|f64 from=f32|f64')
def convert_float(f, i):
    source, target, rounding = i.get('from'), i.get('to'), i.get('round')
    value = f.read(i[1], source)
    if i.get('ftz') and source == 'f32':
        value = f'flush({value})'
    if rounding in INTEGER_ROUND:
        if source != target:
            raise Refused('an integer rounding between float types')
        value = f'{INTEGER_ROUND[rounding]}({value})'
    elif (source, target) == ('f64', 'f32') and rounding != 'rn':
        if rounding is None:
            raise Refused('cvt.f32.f64 without a rounding')
        value = f'round_to<float>((long double){value}, {MODE[rounding]})'
    elif rounding is not None and (source, target) != ('f64', 'f32'):
        raise Refused('a rounding where nothing is rounded')
    value = f'({CPP_TYPE[target]})({value})'
    if i.get('ftz') and target == 'f32':
        value = f'flush({value})'
    if i.get('sat'):
        value = f'clamp_to_unit({value})'
    return f.write(i[0], target, value)


@instruction('cvt', '?ftz to=f32|f64 from=f16', 'to=f32 from=bf16', 'to=f64 from=bf16')
def convert_from_half(f, i):
    return f.write(i[0], i.get('to'), f'widen_{i.get("from")}({f.read(i[1], "b16")})')


@instruction('cvt', 'round=rn|rz to=f16|bf16 from=f32|f64|bf16|f16', 'round=rn ?ftz to=f16 from=f32')
def convert_to_half(f, i):
    source, target = i.get('from'), i.get('to')
    value = f'widen_{source}({f.read(i[1], "b16")})' if source in ('f16', 'bf16') else f.read(i[1], source)
    return f.write(i[0], 'b16', f'narrow<{HALF_CLASS[target]}>({value}, {MODE[i.get("round")]})')


@instruction('cvt', 'round=rn|rz to=f16 from=u8|u16|u32|s8|s16|s32', 'round=rn|rz to=bf16 from=u16|u32|s16|s32')
@instruction('cvt', 'round=rn to=f16|bf16 from=u64|s64')
def convert_integer_to_half(f, i):
    value = f.read(i[1], i.get('from'))
    if i.get('from') in ('u64', 's64'):
        # More digits than a double has: cut to odd, which the last rounding then sees.
        value = f'round_to_odd((long double){value})'
    return f.write(i[0], 'b16', f'narrow<{HALF_CLASS[i.get("to")]}>({value}, {MODE[i.get("round")]})')


@instruction('cvt', 'round=rn|rz to=bf16x2|f16x2 from=f32')
def convert_pair_to_half(f, i):
    half, mode = HALF_CLASS[i.get('to')], MODE[i.get('round')]
    high, low = (f'(uint32_t)narrow<{half}>({f.read(i[k], "f32")}, {mode})' for k in (1, 2))
    return f.write(i[0], 'b32', f'({high} << 16) | {low}')


@instruction('cvt', 'round=rna|rn to=tf32 from=f32')
def convert_to_tf32(f, i):
    return f.write(i[0], 'b32', f'round_to_tf32({f.read(i[1], "b32")}, {MODE[i.get("round")]})')

