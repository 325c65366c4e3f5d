"""Translates one PTX function into one C++ function."""

import re

from instruction_table import find_emitter
from operands import Operands, Scopes
from ptx_parser import Refused


class Instruction:
    """What an emitter gets: the statement's operands and the modifiers chosen by the allow-list."""

    def __init__(self, statement, modifiers):
        self.opcode = statement.opcode
        self.operands = statement.operands
        self.modifiers = modifiers
        self.text = statement.text

    def __getitem__(self, index):
        return self.operands[index]

    def get(self, name):
        return self.modifiers.get(name)

    @property
    def type(self):
        return self.modifiers['type']


class FunctionTranslator(Operands):
    def __init__(self, module, function):
        self.module = module
        self.function = function
        self.scopes = Scopes()
        self.out = []
        self.memory = []  # C++ declarations of local arrays and call parameters
        self.local_bytes = 0
        self.location = None
        self.stated_location = None
        self.calls = set()
        self.shared = []  # shared variables declared in the body
        self.targets = {}

    # ---- names ----

    def symbol(self, name):
        """A C++ expression for the address that a name stands for, or None."""
        kind, _, variable = self.scopes.find(name) or (None, None, None)
        if kind in ('shared', 'memory', 'parameter'):
            return variable
        return self.module.symbol(name, self)

    def here(self):
        """Statements that the engine may report about say where they stand in the source."""
        if self.location is None or self.stated_location is self.location:
            return ''
        self.stated_location = self.location
        return f'thread.here = &kLines[{self.module.line_index(self.location)}]; '

    # ---- statements ----

    def translate(self):
        self._declare_parameters()
        self._declare_labels()
        for index, statement in enumerate(self.function.statements):
            try:
                self._statement(index, statement)
            except Refused as refused:
                refused.line = refused.line or statement.line
                where = f' near {self.location.file}:{self.location.line}' if self.location else ''
                raise Refused(f'{refused}{where}: {statement.text[:160]}', refused.line) from None
            except (KeyError, IndexError, ValueError) as error:
                raise Refused(f'operands not understood ({error!r}): {statement.text[:160]}', statement.line) from None
        return self._assemble()

    def _declare_parameters(self):
        if self.function.is_kernel:
            offset = 0
            for parameter in self.function.parameters:
                offset = (offset + parameter.align - 1) // parameter.align * parameter.align
                self.scopes.declare(parameter.name, ('parameter', None, f'(parameters + {offset})'))
                offset += parameter.bytes
            return
        for index, parameter in enumerate(self.function.results + self.function.parameters):
            self.scopes.declare(parameter.name, ('parameter', None, f'argument_{index}'))

    def _declare_labels(self):
        """Labels may be used before they stand, so their names (per scope) are found first."""
        self.labels, path, counter = {}, [0], 0
        self.scope_labels = {0: {}}
        self.parents = {0: None}
        for statement in self.function.statements:
            if statement.kind == 'open':
                counter += 1
                self.parents[counter] = path[-1]
                self.scope_labels[counter] = {}
                path.append(counter)
            elif statement.kind == 'close':
                path.pop()
            elif statement.kind == 'label':
                self.scope_labels[path[-1]][statement.text] = self.scopes.unique('label_', statement.text)
            elif statement.kind == 'targets':
                self.targets[statement.text] = statement.operands
        self.scope_path, self.scope_counter = [0], 0

    def label(self, name):
        scope = self.scope_path[-1]
        while scope is not None:
            if name in self.scope_labels[scope]:
                return self.scope_labels[scope][name]
            scope = self.parents[scope]
        raise Refused(f"label '{name}' does not exist")

    def _statement(self, index, statement):
        if statement.kind == 'instruction':
            self._instruction(statement)
        elif statement.kind == 'location':
            self.location = statement.payload
        elif statement.kind == 'label':
            self.out.append(f'{self.label(statement.text)}:;')
            self.stated_location = None
        elif statement.kind == 'register':
            self.scopes.add_registers(statement.text, statement.line)
        elif statement.kind == 'variable':
            self._variable(statement.payload)
        elif statement.kind == 'open':
            self.scope_counter += 1
            self.scope_path.append(self.scope_counter)
            self.scopes.enter()
        elif statement.kind == 'close':
            self.scope_path.pop()
            self.scopes.leave()

    def _instruction(self, statement):
        emitter, modifiers = find_emitter(statement)
        before = self.stated_location
        code = emitter(self, Instruction(statement, modifiers))
        if statement.predicate:
            code = f'if ({self.read(statement.predicate, "pred")}) {{ {code} }}'
            if self.stated_location is not before:
                self.stated_location = None  # stated on one path only
        self.out.append(code)

    def _variable(self, variable):
        if variable.space == 'shared':
            symbol = self.module.add_shared(variable, self)
            self.scopes.declare(variable.name, ('shared', None, symbol))
            return
        if variable.space not in ('local', 'param') or variable.values is not None:
            raise Refused(f'a .{variable.space} declaration with this form in a function')
        name = self.scopes.unique('m_', variable.name)
        size = max(variable.bytes, 8)
        if variable.space == 'local':
            self.local_bytes += size
            # NaN patterns, so that reading an element that was never written shows.
            self.memory.append(f'alignas({max(variable.align, 16)}) unsigned char {name}[{size}]; '
                               f'std::memset({name}, 0xff, {size});')
        else:
            self.memory.append(f'alignas(16) unsigned char {name}[{size}];')
        self.scopes.declare(variable.name, ('memory', None, name))

    def _assemble(self):
        arguments = 'const unsigned char* parameters'
        if not self.function.is_kernel:
            count = len(self.function.results) + len(self.function.parameters)
            arguments = ', '.join(f'unsigned char* argument_{k}' for k in range(count))
        head = 'static void %s(ThreadContext& thread%s%s) {' % (
            self.module.function_name(self.function.name), ', ' if arguments else '', arguments)
        lines = [f'// {self.function.name}', head, 'const BlockContext& block = *thread.block;', '(void)block;']
        if self.function.is_kernel:
            lines.append('(void)parameters;')
        return '\n'.join(lines + self.scopes.declared + self.memory + self.out + ['}'])


def declaration(module, function):
    """The C++ forward declaration of a device function."""
    count = len(function.results) + len(function.parameters)
    arguments = ''.join(', unsigned char*' for _ in range(count))
    return f'static void {module.function_name(function.name)}(ThreadContext&{arguments});'


def maximum_threads(attributes):
    """.maxntid, or 0 when the kernel has no __launch_bounds__."""
    match = re.search(r'\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?', attributes)
    product = 1
    for group in match.groups() if match else ():
        product *= int(group or 1)
    return product if match else 0


def parameter_layout(function):
    offset, layout = 0, []
    for parameter in function.parameters:
        offset = (offset + parameter.align - 1) // parameter.align * parameter.align
        layout.append((offset, parameter.bytes))
        offset += parameter.bytes
    return layout
