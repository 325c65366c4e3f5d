"""Integer, logical, comparison and selection instructions."""

from instruction_table import instruction
from operands import BITS, CPP_TYPE, FLOATS, INTEGERS, unsigned_of
from ptx_parser import TYPE_BYTES, Refused

WIDE = {'s16': 'int32_t', 'u16': 'uint32_t', 's32': 'int64_t', 'u32': 'uint64_t', 's64': '__int128',
        'u64': 'unsigned __int128'}
SYMBOL = {'add': '+', 'sub': '-', 'and': '&', 'or': '|', 'xor': '^'}


def _unsigned(f, i, count):
    """Operands 1..count as unsigned values: wrap-around is defined for those."""
    return [f.read(i[k], unsigned_of(i.type)) for k in range(1, count + 1)]


@instruction('add sub', f'type={INTEGERS}')
def integer_sum(f, i):
    a, b = _unsigned(f, i, 2)
    return f.write(i[0], i.type, f'({CPP_TYPE[unsigned_of(i.type)]})({a} {SYMBOL[i.opcode]} {b})')


@instruction('add sub', 'sat type=s32')
def saturated_sum(f, i):
    a, b = (f.read(i[k], 's32') for k in (1, 2))
    return f.write(i[0], 's32', f'saturate<int32_t>((int64_t){a} {SYMBOL[i.opcode]} (int64_t){b})')


@instruction('add sub', 'cc type=u32|s32|u64|s64')
@instruction('addc', '?cc type=u32|u64')
@instruction('subc', 'type=u32|u64')
def sum_with_carry(f, i):
    a, b = _unsigned(f, i, 2)
    carry_in = 'thread.carry' if i.opcode in ('addc', 'subc') else 'false'
    carry_out = 'true' if i.get('cc') else 'false'
    name = 'add_carry' if i.opcode.startswith('add') else 'subtract_borrow'
    return f.write(i[0], unsigned_of(i.type), f'{name}({a}, {b}, {carry_in}, {carry_out}, thread.carry)')


@instruction('mul', f'half=lo|hi type={INTEGERS}')
def multiply(f, i):
    if i.get('half') == 'lo':
        a, b = _unsigned(f, i, 2)
        return f.write(i[0], i.type, f'multiply_low({a}, {b})')
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    wide = WIDE[i.type]
    return f.write(i[0], i.type, f'(({wide}){a} * ({wide}){b}) >> {8 * TYPE_BYTES[i.type]}')


def _twice(type_):
    return type_[0] + str(16 * TYPE_BYTES[type_])


@instruction('mul', 'wide type=u16|u32|s16|s32')
def multiply_wide(f, i):
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    wide = CPP_TYPE[_twice(i.type)]
    return f.write(i[0], _twice(i.type), f'({wide}){a} * ({wide}){b}')


@instruction('mad', f'half=lo|hi type={INTEGERS}')
def multiply_add(f, i):
    unsigned = CPP_TYPE[unsigned_of(i.type)]
    if i.get('half') == 'lo':
        a, b, c = _unsigned(f, i, 3)
        return f.write(i[0], i.type, f'({unsigned})(multiply_low({a}, {b}) + {c})')
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    wide = WIDE[i.type]
    c = f.read(i[3], unsigned_of(i.type))
    high = f'({unsigned})((({wide}){a} * ({wide}){b}) >> {8 * TYPE_BYTES[i.type]})'
    return f.write(i[0], i.type, f'({unsigned})({high} + {c})')


@instruction('mad', 'half=lo|hi cc type=u32|s32|u64|s64')
@instruction('madc', 'half=hi ?cc type=u32|u64')
def multiply_add_with_carry(f, i):
    unsigned, wide = CPP_TYPE[unsigned_of(i.type)], WIDE[i.type]
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    shift = 8 * TYPE_BYTES[i.type] if i.get('half') == 'hi' else 0
    product = f'({unsigned})((({wide}){a} * ({wide}){b}) >> {shift})'
    carry_in = 'thread.carry' if i.opcode == 'madc' else 'false'
    carry_out = 'true' if i.get('cc') else 'false'
    c = f.read(i[3], unsigned_of(i.type))
    return f.write(i[0], unsigned_of(i.type), f'add_carry({product}, {c}, {carry_in}, {carry_out}, thread.carry)')


@instruction('mad', 'wide type=u16|u32|s16|s32')
def multiply_add_wide(f, i):
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    wide, unsigned = CPP_TYPE[_twice(i.type)], 'u' + _twice(i.type)[1:]
    c = f.read(i[3], unsigned)
    return f.write(i[0], unsigned, f'({CPP_TYPE[unsigned]})(({wide}){a} * ({wide}){b}) + {c}')


@instruction('mul24 mad24', 'half=lo type=u32|s32')
def multiply_24(f, i):
    a, b = (f'low_24_bits({f.read(i[k], i.type)})' for k in (1, 2))
    c = f' + {f.read(i[3], "u32")}' if i.opcode == 'mad24' else ''
    return f.write(i[0], 'u32', f'(uint32_t)((int64_t){a} * (int64_t){b}){c}')


@instruction('sad', f'type={INTEGERS}')
def sum_of_absolute_difference(f, i):
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    c = f.read(i[3], unsigned_of(i.type))
    return f.write(i[0], unsigned_of(i.type), f'{c} + absolute_difference({a}, {b})')


@instruction('div rem', f'type={INTEGERS}')
def divide(f, i):
    name = 'integer_quotient' if i.opcode == 'div' else 'integer_remainder'
    return f.write(i[0], i.type, f'{name}({f.read(i[1], i.type)}, {f.read(i[2], i.type)})')


@instruction('abs', 'type=s16|s32|s64')
def absolute(f, i):
    return f.write(i[0], i.type, f'integer_absolute({f.read(i[1], i.type)})')


@instruction('neg', 'type=s16|s32|s64')
def negate(f, i):
    return f.write(i[0], i.type, f'({CPP_TYPE[i.type]})(0 - {f.read(i[1], unsigned_of(i.type))})')


@instruction('min max', f'type={INTEGERS}')
def extremum(f, i):
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    return f.write(i[0], i.type, f'std::{i.opcode}<{CPP_TYPE[i.type]}>({a}, {b})')


@instruction('popc', 'type=b32|b64')
def population_count(f, i):
    return f.write(i[0], 'u32', f'std::popcount({f.read(i[1], i.type)})')


@instruction('clz', 'type=b32|b64')
def count_leading_zeros(f, i):
    return f.write(i[0], 'u32', f'std::countl_zero({f.read(i[1], i.type)})')


@instruction('brev', 'type=b32|b64')
def bit_reverse(f, i):
    return f.write(i[0], i.type, f'bit_reverse({f.read(i[1], i.type)})')


@instruction('bfind', '?shiftamt type=u32|s32|u64|s64')
def find_leading_bit(f, i):
    shift = 'true' if i.get('shiftamt') else 'false'
    return f.write(i[0], 'u32', f'find_leading_bit({f.read(i[1], i.type)}, {shift})')


@instruction('bfe', 'type=u32|s32|u64|s64')
def extract_bits(f, i):
    a, position, length = f.read(i[1], i.type), f.read(i[2], 'u32'), f.read(i[3], 'u32')
    return f.write(i[0], i.type, f'extract_bits({a}, {position}, {length})')


@instruction('bfi', 'type=b32|b64')
def insert_bits(f, i):
    a, b = f.read(i[1], i.type), f.read(i[2], i.type)
    return f.write(i[0], i.type, f'insert_bits({a}, {b}, {f.read(i[3], "u32")}, {f.read(i[4], "u32")})')


@instruction('bmsk', 'mode=clamp|wrap type=b32')
def bit_mask(f, i):
    wrap = 'true' if i.get('mode') == 'wrap' else 'false'
    return f.write(i[0], 'b32', f'bit_mask({f.read(i[1], "u32")}, {f.read(i[2], "u32")}, {wrap})')


@instruction('szext', 'mode=clamp|wrap type=u32|s32')
def sign_extend(f, i):
    wrap = 'true' if i.get('mode') == 'wrap' else 'false'
    return f.write(i[0], i.type, f'extend_bits({f.read(i[1], i.type)}, {f.read(i[2], "u32")}, {wrap})')


@instruction('dp4a', 'a=u32|s32 b=u32|s32')
def dot_product_of_bytes(f, i):
    a, b = f.read(i[1], i.get('a')), f.read(i[2], i.get('b'))
    return f.write(i[0], 'u32', f'dot_product_of_bytes({a}, {b}, {f.read(i[3], "u32")})')


@instruction('and or xor', f'type={BITS}|pred')
def bitwise(f, i):
    a, b = (f.read(i[k], i.type) for k in (1, 2))
    return f.write(i[0], i.type, f'{a} {SYMBOL[i.opcode]} {b}')


@instruction('not', f'type={BITS}|pred')
def bitwise_not(f, i):
    return f.write(i[0], i.type, ('!' if i.type == 'pred' else '~') + f.read(i[1], i.type))


@instruction('cnot', f'type={BITS}')
def logical_not(f, i):
    return f.write(i[0], i.type, f'{f.read(i[1], i.type)} == 0')


@instruction('lop3', 'type=b32')
def any_logic(f, i):
    a, b, c = (f.read(i[k], 'b32') for k in (1, 2, 3))
    return f.write(i[0], 'b32', f'three_input_logic<{int(i[4], 0)}>({a}, {b}, {c})')


@instruction('shl', f'type={BITS}')
def shift_left(f, i):
    return f.write(i[0], i.type, f'shift_left({f.read(i[1], i.type)}, {f.read(i[2], "u32")})')


@instruction('shr', f'type={BITS}|{INTEGERS}')
def shift_right(f, i):
    return f.write(i[0], i.type, f'shift_right({f.read(i[1], i.type)}, {f.read(i[2], "u32")})')


@instruction('shf', 'direction=l|r mode=clamp|wrap type=b32')
def funnel_shift(f, i):
    name = {'l': 'funnel_left', 'r': 'funnel_right'}[i.get('direction')]
    wrap = 'true' if i.get('mode') == 'wrap' else 'false'
    a, b, c = (f.read(i[k], 'u32') for k in (1, 2, 3))
    return f.write(i[0], 'b32', f'{name}({a}, {b}, {c}, {wrap})')


@instruction('prmt', 'type=b32', 'type=b32 mode=f4e|b4e|rc8|ecl|ecr|rc16')
def permute_bytes(f, i):
    a, b, c = (f.read(i[k], 'u32') for k in (1, 2, 3))
    mode = i.get('mode')
    name = 'permute_bytes' if mode is None else f'permute_bytes_{mode}'
    return f.write(i[0], 'b32', f'{name}({a}, {b}, {c})')


COMPARE = {'eq': '==', 'ne': '!=', 'lt': '<', 'le': '<=', 'gt': '>', 'ge': '>=', 'lo': '<', 'ls': '<=', 'hi': '>',
           'hs': '>='}
INTEGER_COMPARISONS = 'eq|ne|lt|le|gt|ge|lo|ls|hi|hs'
FLOAT_COMPARISONS = 'eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan'
BOOLEAN = {'and': '&&', 'or': '||', 'xor': '!='}


def float_comparison(name, a, b):
    """Comparisons are false with a NaN; those that end in u are true with one."""
    if name == 'ne':
        return f'({a} < {b} || {a} > {b})'
    if name == 'num':
        return f'(!std::isnan({a}) && !std::isnan({b}))'
    if name == 'nan':
        return f'(std::isnan({a}) || std::isnan({b}))'
    if name == 'neu':
        return f'({a} != {b})'
    if name == 'equ':
        return f'!({a} < {b} || {a} > {b})'
    if name.endswith('u'):
        opposite = {'ltu': '>=', 'leu': '>', 'gtu': '<=', 'geu': '<'}[name]
        return f'!({a} {opposite} {b})'
    return f'({a} {COMPARE[name]} {b})'


def _comparison(f, i):
    read = f.read
    if i.get('ftz'):
        read = lambda text, type_: f'flush({f.read(text, type_)})'
    type_ = i.type
    if type_ in ('f16', 'bf16'):
        a, b = (f'widen_{type_}({f.read(i[k], "b16")})' for k in (1, 2))
        return float_comparison(i.get('compare'), a, b)
    a, b = read(i[1], type_), read(i[2], type_)
    if type_ in FLOATS:
        return float_comparison(i.get('compare'), a, b)
    return f'({a} {COMPARE[i.get("compare")]} {b})'


@instruction('setp', 'compare=eq|ne ?boolean=and|or|xor type=b32|b64',
             f'compare={INTEGER_COMPARISONS} ?boolean=and|or|xor type={INTEGERS}',
             f'compare={FLOAT_COMPARISONS} ?boolean=and|or|xor ?ftz type=f32',
             f'compare={FLOAT_COMPARISONS} ?boolean=and|or|xor type=f64',
             f'compare={FLOAT_COMPARISONS} ?boolean=and|or|xor type=f16|bf16')
def set_predicate(f, i):
    expression = _comparison(f, i)
    boolean, third = i.get('boolean'), ''
    if boolean:
        third = f' {BOOLEAN[boolean]} {f.read(i[3], "pred")}'
    targets = i[0].split('|')
    if len(targets) == 1:
        return f.write(targets[0], 'pred', expression + third)
    # Both targets may also be the third operand: both values are worked out before either is written.
    writes = f.write(targets[0], 'pred', 'result') + ' ' + f.write(targets[1], 'pred', 'opposite')
    return f'{{ const bool comparison = {expression}, result = comparison{third}, opposite = !comparison{third}; ' \
           f'{writes} }}'


@instruction('set', 'compare=lt|gt result=u32|f32 type=s32|f32')
def set_value(f, i):
    result = i.get('result')
    return f.write(i[0], result, f'{_comparison(f, i)} ? {"1.0f : 0.0f" if result == "f32" else "0xffffffffu : 0u"}')


@instruction('selp', f'type={BITS}|u16|u32|u64|f32|f64')
def select(f, i):
    a, b = f.read(i[1], i.type), f.read(i[2], i.type)
    return f.write(i[0], i.type, f'{f.read(i[3], "pred")} ? {a} : {b}')


@instruction('slct', f'type={BITS}|s32 condition=s32')
def select_by_sign(f, i):
    a, b = f.read(i[1], i.type), f.read(i[2], i.type)
    return f.write(i[0], i.type, f'{f.read(i[3], "s32")} >= 0 ? {a} : {b}')


@instruction('mov', f'type={BITS}|u16|u32|u64|s32|f32|f64|pred')
def move(f, i):
    bytes_ = TYPE_BYTES[i.type]
    if i[0].startswith('{'):
        return _unpack(f, i, bytes_)
    if i[1].startswith('{'):
        return _pack(f, i, bytes_)
    return f.write(i[0], i.type, f.read(i[1], i.type))


def _unpack(f, i, bytes_):
    parts = [part.strip() for part in i[0][1:-1].split(',')]
    width = 8 * bytes_ // len(parts)
    writes = [f.write(part, f'b{width}', f'(uint{width}_t)(whole >> {width * k})')
              for k, part in enumerate(parts) if part != '_']
    return f'{{ const uint{8 * bytes_}_t whole = {f.read(i[1], f"b{8 * bytes_}")}; {" ".join(writes)} }}'


def _pack(f, i, bytes_):
    parts = [part.strip() for part in i[1][1:-1].split(',')]
    width = 8 * bytes_ // len(parts)
    if width not in (8, 16, 32):
        raise Refused('mov packs parts of this width')
    terms = [f'((uint{8 * bytes_}_t){f.read(part, f"b{width}")} << {width * k})' for k, part in enumerate(parts)]
    return f.write(i[0], f'b{8 * bytes_}', ' | '.join(terms))
