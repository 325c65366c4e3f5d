"""The allow-list: which modifiers an opcode may carry, in which order, and who translates it.

    @instruction('add sub', '?sat type=s32', 'type=u16|u32|u64|s16|s64')
    def integer_sum(f, i): ...

A form is a list of slots. 'name=a|b' takes one of the modifiers a, b; 'word' takes the modifier `word`; a leading '?'
lets the slot be absent. An instruction must match one form of its opcode with no modifier left over, or it is refused:
a translator that ignores a modifier it does not know is worse than none.
"""

from ptx_parser import Refused

_TABLE = {}  # opcode -> list of (slots, emitter)


def _parse_form(form):
    slots = []
    for text in form.split():
        optional = text.startswith('?')
        text = text.lstrip('?')
        name, _, choices = text.partition('=')
        slots.append((name, tuple(choices.split('|')) if choices else (name,), optional))
    return slots


def instruction(opcodes, *forms):
    def register(emitter):
        for opcode in opcodes.split():
            for form in forms:
                _TABLE.setdefault(opcode, []).append((_parse_form(form), emitter))
        return emitter
    return register


def _match(slots, modifiers):
    """The chosen modifiers by slot name, or None."""
    if not slots:
        return {} if not modifiers else None
    name, choices, optional = slots[0]
    if modifiers and modifiers[0] in choices:
        rest = _match(slots[1:], modifiers[1:])
        if rest is not None:
            return {name: modifiers[0], **rest}
    if optional:
        return _match(slots[1:], modifiers)
    return None


def opcodes():
    return sorted(_TABLE)


def all_modifiers(opcode):
    return {choice for slots, _ in _TABLE[opcode] for _, choices, _ in slots for choice in choices}


def _unknown_modifiers(opcode, modifiers):
    return [modifier for modifier in modifiers if modifier not in all_modifiers(opcode)]


def find_emitter(statement):
    """(emitter, chosen modifiers) for an instruction."""
    name = '.'.join([statement.opcode] + statement.modifiers)
    if statement.opcode not in _TABLE:
        raise Refused(f"opcode '{statement.opcode}' is not supported (in '{name}')", statement.line)
    for slots, emitter in _TABLE[statement.opcode]:
        chosen = _match(slots, statement.modifiers)
        if chosen is not None:
            return emitter, chosen
    unknown = _unknown_modifiers(statement.opcode, statement.modifiers)
    if unknown:
        raise Refused(f"modifier '.{unknown[0]}' is not supported with opcode '{statement.opcode}' (in '{name}')",
                      statement.line)
    raise Refused(f"this combination of modifiers is not supported: '{name}'", statement.line)
