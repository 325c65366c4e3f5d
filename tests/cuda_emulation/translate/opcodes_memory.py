"""Loads, stores, atomics, address conversions, asynchronous copies, fences."""

from instruction_table import instruction
from operands import CPP_TYPE, raw_type
from ptx_parser import TYPE_BYTES, Refused, vector_elements

SPACE = 'global|shared|local|const|param|shared::cta|param::entry|param::func'
STORED = 'global|shared|local|param|shared::cta|param::func'
DATA = '?vector=v2|v4 type=b8|b16|b32|b64|u8|u16|u32|u64|f32|f64'
LOADED = DATA + '|s8|s16|s32'
EVICTION = ('?l1=L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate '
            '?l2=L2::evict_normal|L2::evict_first|L2::evict_last ?prefetch=L2::64B|L2::128B|L2::256B')
SCOPE = 'cta|cluster|gpu|sys'
NOTED = (None, 'global', 'shared', 'const')  # spaces whose accesses are checked


def _space(i):
    space = i.get('space')
    return space.split('::')[0] if space else None


def _access(f, i, noted, address, bytes_, strong):
    """C++ that names the address `at` and lets the engine look at the access."""
    kind = {(False, False): 'before_read', (False, True): 'before_strong_read', (True, False): 'before_write',
            (True, True): 'before_strong_write'}[(i.opcode == 'st', strong)]
    note = f'{kind}(thread, at, {bytes_});' if noted else ''
    return f'{f.here() if noted else ""}{{ unsigned char* const at = {address}; {note} '


@instruction('ld', f'?order=weak|volatile ?space={SPACE} ?cache=ca|cg|cs|lu|cv {EVICTION} {LOADED}',
             f'order=relaxed|acquire scope={SCOPE} ?space={SPACE} {EVICTION} {LOADED}',
             f'space=global ?cache=ca|cg|cs nc {EVICTION} {LOADED}')
def load(f, i):
    space, type_ = _space(i), i.type
    targets = vector_elements(i[0])
    bytes_ = TYPE_BYTES[type_] * len(targets)
    strong = i.get('order') in ('volatile', 'relaxed', 'acquire') and space not in ('param', 'local')
    if strong and space in (None, 'global'):
        f.module.waits_for_blocks.add(f.function.name)
    parts = []
    for index, target in enumerate(targets):
        if target == '_':
            continue
        loaded = f'load<{CPP_TYPE[type_] if type_ not in ("f32", "f64") else raw_type(TYPE_BYTES[type_])}>(at + ' \
                 f'{TYPE_BYTES[type_] * index})'
        written_as = type_ if type_ not in ('f32', 'f64') else f'b{8 * TYPE_BYTES[type_]}'
        parts.append(f.write(target, written_as, loaded))
    opening = _access(f, i, space in NOTED, f.address(i[1], space), bytes_, strong)
    return opening + ' '.join(parts) + ' }'


@instruction('st', f'?order=weak|volatile ?space={STORED} ?cache=wb|cg|cs|wt {EVICTION} {DATA}',
             f'order=relaxed|release scope={SCOPE} ?space={STORED} {EVICTION} {DATA}')
def store(f, i):
    space, bytes_ = _space(i), TYPE_BYTES[i.type]
    sources = vector_elements(i[1])
    strong = i.get('order') in ('volatile', 'relaxed', 'release') and space not in ('param', 'local')
    stores = [f'store<{raw_type(bytes_)}>(at + {bytes_ * index}, {f.read(source, f"b{8 * bytes_}")});'
              for index, source in enumerate(sources)]
    opening = _access(f, i, space in NOTED, f.address(i[0], space), bytes_ * len(sources), strong)
    return opening + ' '.join(stores) + ' }'


@instruction('prefetch', '?space=global|local level=L1|L2', 'space=global level=L2::evict_last|L2::evict_normal')
def no_effect(f, i):
    return ';'


@instruction('cvta', '?to space=global|shared|local|const|param|shared::cta type=u64')
def convert_address(f, i):
    value = f.read(i[1], 'u64')
    if _space(i) != 'shared':
        return f.write(i[0], 'u64', value)
    if i.get('to'):
        return f.write(i[0], 'u64', f'{value} - (uint64_t)(uintptr_t)thread.shared')
    return f.write(i[0], 'u64', f'{value} + (uint64_t)(uintptr_t)thread.shared')


@instruction('isspacep', 'space=global|shared|local|shared::cta')
def is_space(f, i):
    return f.write(i[0], 'pred', f'is_in_{_space(i)}(thread, {f.read(i[1], "u64")})')


@instruction('membar', 'level=cta|gl|sys')
@instruction('fence', f'?order=sc|acq_rel scope={SCOPE}')
def fence(f, i):
    return ';'


# ---- Atomics ----

ORDER = f'?order=relaxed|acquire|release|acq_rel ?scope={SCOPE} ?space=global|shared|shared::cta'


@instruction('red', f'{ORDER} op=add|min|max type=u32', f'{ORDER} op=or type=b32')
@instruction('atom', f'{ORDER} op=add type=u32|s32|u64|s64|f32|f64', f'{ORDER} op=min|max type=u32|s32|u64|s64',
             f'{ORDER} op=and|or|xor type=b32|b64', f'{ORDER} op=inc|dec type=u32',
             f'{ORDER} op=add noftz type=f16|f16x2', f'{ORDER} op=exch type=b32|b64',
             f'{ORDER} op=cas type=b16|b32|b64')
def atomic(f, i):
    first = 1 if i.opcode == 'atom' else 0
    type_, operation = i.type, i.get('op')
    raw = f'b{8 * TYPE_BYTES[type_]}'
    address = f.address(i[first], _space(i))
    if type_ in ('f16', 'f16x2'):
        value = f.read(i[first + 1], raw)
        call = f'atomic_half_add<{CPP_TYPE[raw]}>(thread, {address}, {value})'
        result_type = raw
    else:
        values = ', '.join(f.read(operand, type_) for operand in i.operands[first + 1:])
        call = f'atomic_{operation}<{CPP_TYPE[type_]}>(thread, {address}, {values})'
        result_type = type_
    return f.here() + (f.write(i[0], result_type, call) if first else f'{call};')


# ---- Asynchronous copies ----


@instruction('cp', 'async cache=ca|cg space=shared|shared::cta global ?prefetch=L2::64B|L2::128B|L2::256B')
def copy_async(f, i):
    bytes_ = int(i[2], 0)
    if bytes_ not in (4, 8, 16) or (i.get('cache') == 'cg' and bytes_ != 16):
        raise Refused(f'cp.async of {bytes_} bytes')
    source_bytes = str(bytes_)
    if len(i.operands) > 3:
        if f.register_type(i[3]) == 'pred':
            source_bytes = f'({f.read(i[3], "pred")} ? 0u : {bytes_}u)'
        else:
            source_bytes = f.read(i[3], 'u32')
    return f'{f.here()}copy_async(thread, {f.address(i[0], "shared")}, {f.address(i[1], "global")}, {bytes_}, ' \
           f'{source_bytes});'


@instruction('cp', 'async commit_group')
def commit_group(f, i):
    return 'copy_async_commit(thread);'


@instruction('cp', 'async wait_group', 'async wait_all')
def wait_group(f, i):
    if i.get('wait_all'):
        return f'{f.here()}copy_async_commit(thread); copy_async_wait(thread, 0);'
    return f'{f.here()}copy_async_wait(thread, {int(i[0], 0)});'
