"""Branches, calls, barriers, and what a warp does together."""

from instruction_table import instruction
from operands import CPP_TYPE
from ptx_parser import Refused, vector_elements


@instruction('bra', '?uni')
def branch(f, i):
    return f'goto {f.label(i[0])};'


@instruction('brx', 'idx ?uni')
def branch_indexed(f, i):
    cases = ' '.join(f'case {index}: goto {f.label(name)};' for index, name in enumerate(f.targets[i[1]]))
    return f'{f.here()}switch ({f.read(i[0], "u32")}) {{ {cases} default: bad_branch_index(thread); }}'


@instruction('ret', '?uni')
def return_(f, i):
    return 'return;'


@instruction('exit', '')
def exit_thread(f, i):
    return 'return;' if f.function.is_kernel else 'exit_thread(thread);'


@instruction('trap', '')
def trap(f, i):
    return f'{f.here()}device_trap(thread);'


@instruction('griddepcontrol', 'action=launch_dependents|wait')
def no_effect(f, i):
    return ';'


@instruction('nanosleep', 'u32')
def nanosleep(f, i):
    return f'{f.here()}yield_thread(thread);'


def _pointers(text):
    """The C++ arguments for a call's list of .param variables."""
    return [name.strip() for name in text.strip()[1:-1].split(',') if name.strip()]


@instruction('call', '?uni')
def call(f, i):
    operands = list(i.operands)
    results = _pointers(operands.pop(0)) if operands[0].startswith('(') else []
    name = operands.pop(0)
    arguments = _pointers(operands[0]) if operands else []
    pointers = [f.symbol(pointer) for pointer in results + arguments]
    if None in pointers:
        raise Refused('a call with an argument that is no .param variable')
    if name == 'vprintf':
        return f'store<uint32_t>({pointers[0]}, device_printf({pointers[1]}, {pointers[2]}));'
    if name == '__assertfail':
        return f'{f.here()}device_assert_failed(thread, {pointers[0]}, {pointers[1]}, {pointers[2]}, {pointers[3]});'
    f.stated_location = None  # the function called says where it stands
    passed = ', '.join(['thread'] + pointers)
    if f.register_type(name):
        signature = 'void (*)(' + ', '.join(['ThreadContext&'] + ['unsigned char*'] * len(pointers)) + ')'
        f.calls.add('*')
        return f'(({signature})(uintptr_t){f.read(name, "u64")})({passed});'
    if name not in f.module.defined_functions:
        raise Refused(f"call of '{name}', which this file does not define")
    f.calls.add(name)
    return f'{f.module.function_name(name)}({passed});'


# ---- Barriers ----


def _barrier_numbers(f, operands):
    """Barrier number and thread count (0: the whole block)."""
    number = f.read(operands[0], 'u32') if operands else '0u'
    count = f.read(operands[1], 'u32') if len(operands) > 1 else '0u'
    return f'{number}, {count}'


@instruction('bar', 'sync')
@instruction('barrier', 'sync ?aligned', 'cta sync ?aligned')
def barrier(f, i):
    return f'{f.here()}block_barrier(thread, {_barrier_numbers(f, i.operands)});'


@instruction('bar', 'arrive')
def barrier_arrive(f, i):
    return f'{f.here()}block_barrier_arrive(thread, {_barrier_numbers(f, i.operands)});'


@instruction('bar', 'red op=popc type=u32', 'red op=and|or type=pred')
@instruction('barrier', '?cta red op=popc ?aligned type=u32')
def barrier_reduce(f, i):
    numbers = _barrier_numbers(f, i.operands[1:-1])
    call_ = f'block_barrier_{i.get("op")}(thread, {numbers}, {f.read(i[-1], "pred")})'
    return f.here() + f.write(i[0], i.type, call_)


@instruction('bar', 'warp sync')
def warp_barrier(f, i):
    return f'{f.here()}warp_barrier(thread, {f.read(i[0], "u32")});'


# ---- Warp collectives ----


@instruction('shfl', 'sync mode=up|down|bfly|idx b32')
def shuffle(f, i):
    targets = i[0].split('|')
    mode = {'up': 'kUp', 'down': 'kDown', 'bfly': 'kButterfly', 'idx': 'kIndex'}[i.get('mode')]
    value, lane, limits, mask = f.read(i[1], 'b32'), f.read(i[2], 'u32'), f.read(i[3], 'u32'), f.read(i[4], 'u32')
    # An out-of-range source leaves the predicate false and reads the lane's own value.
    writes = [f.write(targets[0], 'b32', 'result.value')]
    if len(targets) > 1:
        writes.append(f.write(targets[1], 'pred', 'result.in_range'))
    return f'{f.here()}{{ const ShuffleResult result = shuffle(thread, ShuffleMode::{mode}, {mask}, {value}, {lane}, ' \
           f'{limits}); {" ".join(writes)} }}'


@instruction('vote', 'sync op=all|any|uni pred', 'sync op=ballot b32', 'op=all|any|uni sync pred', 'op=ballot sync b32')
def vote(f, i):
    mask, predicate = f.read(i[2], 'u32'), f.read(i[1], 'pred')
    type_ = 'b32' if i.get('op') == 'ballot' else 'pred'
    return f.here() + f.write(i[0], type_, f'vote_{i.get("op")}(thread, {mask}, {predicate})')


@instruction('match', 'op=any|all sync type=b32|b64')
def match(f, i):
    value, mask = f.read(i[1], i.type), f.read(i[2], 'u32')
    if i.get('op') == 'any':
        return f.here() + f.write(i[0], 'b32', f'match_any(thread, {mask}, {value})')
    targets = i[0].split('|')
    writes = [f.write(targets[0], 'b32', 'lanes')]
    if len(targets) > 1:
        writes.append(f.write(targets[1], 'pred', 'lanes != 0'))
    return f'{f.here()}{{ const uint32_t lanes = match_all(thread, {mask}, {value}); {" ".join(writes)} }}'


@instruction('redux', 'sync op=add|min|max type=u32|s32', 'sync op=and|or|xor type=b32')
def reduce(f, i):
    cpp = CPP_TYPE[i.type]
    return f.here() + f.write(i[0], i.type, f'warp_reduce_{i.get("op")}<{cpp}>(thread, {f.read(i[2], "u32")}, '
                                            f'{f.read(i[1], i.type)})')


@instruction('activemask', 'b32')
def active_mask(f, i):
    return f.write(i[0], 'b32', 'active_mask(thread)')


@instruction('elect', 'sync')
def elect(f, i):
    targets = i[0].split('|')
    writes = [f.write(targets[0], 'b32', 'leader')]
    if len(targets) > 1:
        writes.append(f.write(targets[1], 'pred', 'leader == thread.lane'))
    return f'{f.here()}{{ const uint32_t leader = elect_lane(thread, {f.read(i[1], "u32")}); {" ".join(writes)} }}'


# ---- Matrix instructions ----


@instruction('ldmatrix', 'sync aligned shape=m8n8 number=x1|x2|x4 ?trans space=shared|shared::cta type=b16',
             'sync aligned shape=m8n8 number=x1|x2|x4 ?trans type=b16')
def load_matrix(f, i):
    targets = vector_elements(i[0])
    count = int(i.get('number')[1])
    if len(targets) != count:
        raise Refused('ldmatrix with this number of registers')
    space = 'shared' if i.get('space') else None
    writes = ' '.join(f.write(target, 'b32', f'rows[{index}]') for index, target in enumerate(targets))
    return f'{f.here()}{{ uint32_t rows[4]; load_matrix(thread, rows, {f.address(i[1], space)}, {count}, ' \
           f'{"true" if i.get("trans") else "false"}); {writes} }}'


_MMA = {('m16n8k16', 'bf16'): 'Mma16x8x16<BFloat16>', ('m16n8k16', 'f16'): 'Mma16x8x16<Half>',
        ('m16n8k8', 'bf16'): 'Mma16x8x8<BFloat16>', ('m16n8k8', 'f16'): 'Mma16x8x8<Half>',
        ('m16n8k8', 'tf32'): 'Mma16x8x8Tf32', ('m16n8k4', 'tf32'): 'Mma16x8x4Tf32'}


@instruction('mma', 'sync aligned shape=m16n8k16|m16n8k8 row col d=f32 a=bf16 b=bf16 c=f32',
             'sync aligned shape=m16n8k16|m16n8k8 row col d=f32 a=f16 b=f16 c=f32',
             'sync aligned shape=m16n8k8|m16n8k4 row col d=f32 a=tf32 b=tf32 c=f32')
def matrix_multiply(f, i):
    kind = _MMA[(i.get('shape'), i.get('a'))]
    d, a, b, c = (vector_elements(operand) for operand in i.operands)
    reads = [', '.join(f.read(x, type_) for x in group) for group, type_ in ((a, 'b32'), (b, 'b32'), (c, 'f32'))]
    writes = ' '.join(f.write(target, 'f32', f'd[{index}]') for index, target in enumerate(d))
    return f'{f.here()}{{ const uint32_t a[{len(a)}] = {{{reads[0]}}}; const uint32_t b[{len(b)}] = {{{reads[1]}}}; ' \
           f'float d[4] = {{{reads[2]}}}; matrix_multiply<{kind}>(thread, d, a, b); {writes} }}'
