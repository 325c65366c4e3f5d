"""Exact arithmetic for expected values: integers of a width, and floating-point formats rounded from fractions.

Nothing here knows how the emulation computes: formats are described by their precision and exponent range, and every
rounding goes through exact rational numbers.
"""

import math
import random
from fractions import Fraction

WIDTH = {'b16': 16, 'b32': 32, 'b64': 64, 'u8': 8, 's8': 8, 'u16': 16, 's16': 16, 'u32': 32, 's32': 32, 'u64': 64,
         's64': 64, 'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64, 'f16x2': 32, 'bf16x2': 32, 'pred': 8}


def mask(value, width):
    return value & ((1 << width) - 1)


def signed(bits, width):
    bits = mask(bits, width)
    return bits - (1 << width) if bits >> (width - 1) else bits


def value_of(bits, type_):
    """The number that bits stand for as an integer type."""
    width = WIDTH[type_]
    return signed(bits, width) if type_[0] == 's' else mask(bits, width)


class Format:
    """A binary floating-point format: `fraction` stored bits, `exponent` bits."""

    def __init__(self, exponent, fraction):
        self.exponent_bits, self.fraction_bits = exponent, fraction
        self.bias = (1 << (exponent - 1)) - 1
        self.infinity = ((1 << exponent) - 1) << fraction
        self.sign = 1 << (exponent + fraction)
        self.nan = self.infinity | ((1 << fraction) - 1)

    def is_nan(self, bits):
        return bits & ~self.sign > self.infinity

    def is_infinite(self, bits):
        return bits & ~self.sign == self.infinity

    def fraction(self, bits):
        """The exact value of finite bits."""
        exponent = (bits & ~self.sign) >> self.fraction_bits
        digits = bits & ((1 << self.fraction_bits) - 1)
        if exponent:
            digits |= 1 << self.fraction_bits
        power = max(exponent, 1) - self.bias - self.fraction_bits
        value = Fraction(digits) * (Fraction(2) ** power)
        return -value if bits & self.sign else value

    def number(self, bits):
        """As a Python float; exact for formats up to double."""
        if self.is_nan(bits):
            return math.nan
        if self.is_infinite(bits):
            return -math.inf if bits & self.sign else math.inf
        value = float(self.fraction(bits))
        return -0.0 if value == 0 and bits & self.sign else value

    def from_number(self, number, mode='rn'):
        if math.isnan(number):
            return self.nan
        sign = self.sign if math.copysign(1, number) < 0 else 0
        if math.isinf(number):
            return sign | self.infinity
        return self.round(Fraction(number), mode, bool(sign))

    def round(self, value, mode='rn', negative_zero=False):
        """The bits nearest to an exact value under a rounding mode."""
        negative = value < 0 or (value == 0 and negative_zero)
        sign = self.sign if negative else 0
        magnitude = abs(value)
        if magnitude == 0:
            return sign
        exponent = max(self._exponent(magnitude), 1 - self.bias)
        units = magnitude / Fraction(2) ** (exponent - self.fraction_bits)
        whole = units.numerator // units.denominator
        rest = units - whole
        up = {'rn': rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1), 'rna': rest >= Fraction(1, 2),
              'rz': False, 'rm': negative and rest > 0, 'rp': not negative and rest > 0}[mode]
        bits = ((exponent + self.bias - 1) << self.fraction_bits) + whole + (1 if up else 0)
        if bits >= self.infinity:
            to_infinity = {'rn': True, 'rna': True, 'rz': False, 'rm': negative, 'rp': not negative}[mode]
            bits = self.infinity if to_infinity else self.infinity - 1
        return sign | bits

    @staticmethod
    def _exponent(value):
        exponent = value.numerator.bit_length() - value.denominator.bit_length()
        while Fraction(2) ** exponent > value:
            exponent -= 1
        while Fraction(2) ** (exponent + 1) <= value:
            exponent += 1
        return exponent


FORMATS = {'f16': Format(5, 10), 'bf16': Format(8, 7), 'f32': Format(8, 23), 'f64': Format(11, 52)}


def flushed(bits, format_):
    """Subnormal numbers become zeros of their sign."""
    magnitude = bits & ~format_.sign
    return bits & format_.sign if magnitude < 1 << format_.fraction_bits else bits


def integer_samples(type_, count):
    width, generator = WIDTH[type_], random.Random(f'integers {type_}')
    edges = [0, 1, 2, 3, 7, mask(-1, width), mask(-2, width), 1 << (width - 1), (1 << (width - 1)) - 1,
             mask(0xdeadbeefcafef00d, width), 31, 32, 33, 5]
    return edges + [generator.getrandbits(width) >> generator.randrange(width) for _ in range(count - len(edges))]


def float_samples(type_, count):
    format_, generator = FORMATS[type_], random.Random(f'floats {type_}')
    one = format_.bias << format_.fraction_bits
    edges = [0, format_.sign, one, one | format_.sign, format_.infinity, format_.infinity | format_.sign, format_.nan, 1,
             format_.sign | 1, format_.infinity - 1, one + 1, one - 1, one | 1 << (format_.fraction_bits - 1),
             1 << format_.fraction_bits, (1 << format_.fraction_bits) - 1]
    result = list(edges)
    while len(result) < count:
        if generator.random() < 0.3:
            result.append(generator.getrandbits(WIDTH[type_]))
        else:  # numbers of a like size, whose sums and products round
            result.append(format_.from_number(generator.uniform(-4, 4) * 2.0 ** generator.randrange(-3, 4)))
    return result


def samples(type_, count):
    if type_ in FORMATS:
        return float_samples(type_, count)
    if type_ in ('f16x2', 'bf16x2'):
        lanes = float_samples(type_[:-2], 2 * count)
        random.Random('pairs').shuffle(lanes)
        return [lanes[2 * k] | lanes[2 * k + 1] << 16 for k in range(count)]
    if type_ == 'pred':
        return [k & 1 for k in range(count)]
    return integer_samples(type_, count)


# ---- Floating-point operations on bits ----


def float_operation(type_, name, operands, mode='rn'):
    """add, sub, mul, div, fma, sqrt of bits in a format, exactly rounded once."""
    format_ = FORMATS[type_]
    numbers = [format_.number(bits) for bits in operands]
    if any(not math.isfinite(number) for number in numbers) or (name == 'div' and numbers[1] == 0) or (
            name == 'sqrt' and numbers[0] < 0):
        return format_.from_number(_special(name, numbers))
    exact = [format_.fraction(bits) for bits in operands]
    if name in ('add', 'sub'):
        second = -exact[1] if name == 'sub' else exact[1]
        total = exact[0] + second
        signs = [operands[0] & format_.sign, (operands[1] ^ (format_.sign if name == 'sub' else 0)) & format_.sign]
        return format_.round(total, mode, _zero_sign(signs, mode))
    if name == 'mul':
        return format_.round(exact[0] * exact[1], mode, bool((operands[0] ^ operands[1]) & format_.sign))
    if name == 'div':
        return format_.round(exact[0] / exact[1], mode, bool((operands[0] ^ operands[1]) & format_.sign))
    if name == 'fma':
        signs = [(operands[0] ^ operands[1]) & format_.sign, operands[2] & format_.sign]
        return format_.round(exact[0] * exact[1] + exact[2], mode, _zero_sign(signs, mode))
    assert name == 'sqrt'
    return operands[0] if exact[0] == 0 else _rounded_root(exact[0], format_, mode)


def _zero_sign(signs, mode):
    """An exact zero sum is negative when both terms are, or when rounding down."""
    return all(signs) or (mode == 'rm' and any(signs))


def _special(name, numbers):
    try:
        if name == 'add':
            return numbers[0] + numbers[1]
        if name == 'sub':
            return numbers[0] - numbers[1]
        if name == 'mul':
            return numbers[0] * numbers[1]
        if name == 'fma':
            return numbers[0] * numbers[1] + numbers[2] if math.isinf(numbers[0] * numbers[1]) or any(
                math.isnan(x) or math.isinf(x) for x in numbers) else math.nan
        if name == 'div':
            if numbers[1] == 0:
                sign = math.copysign(1, numbers[0]) * math.copysign(1, numbers[1])
                return math.nan if numbers[0] == 0 or math.isnan(numbers[0]) else sign * math.inf
            return numbers[0] / numbers[1]
        return math.sqrt(numbers[0])
    except (ValueError, OverflowError):
        return math.nan


def _rounded_root(value, format_, mode):
    """The root between two neighbours with more digits than any format has, made exact enough by a sticky digit."""
    shift = 1200
    scaled = (value.numerator << (2 * shift)) // value.denominator
    root = math.isqrt(scaled)
    sticky = Fraction(1, 2) if root * root != Fraction(value.numerator << (2 * shift), value.denominator) else 0
    return format_.round((root + sticky) / Fraction(2) ** shift, mode)
