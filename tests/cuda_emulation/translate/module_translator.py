"""Puts the translated functions of one PTX file together with the tables that the engine reads."""

import re

import opcodes_arithmetic  # noqa: F401  (the imports fill the allow-list)
import opcodes_control  # noqa: F401
import opcodes_float  # noqa: F401
import opcodes_memory  # noqa: F401
from function_translator import FunctionTranslator, declaration, maximum_threads, parameter_layout
from ptx_parser import Refused, TYPE_BYTES

SHARED_GAP = 64  # red zone between shared variables
FIRST_SHARED_OFFSET = 1024  # address 0 of shared memory stays unused, so that null pointers are seen


def c_string(text):
    return '"' + text.replace('\\', '\\\\').replace('"', '\\"') + '"'


class ModuleTranslator:
    def __init__(self, module, stem):
        self.module = module
        self.stem = stem
        self.defined_functions = {function.name: function for function in module.functions if not function.is_kernel}
        self.globals = {variable.name: variable for variable in module.variables
                        if variable.space in ('global', 'const')}
        self.used_globals = []
        self.module_shared = {variable.name: variable for variable in module.variables if variable.space == 'shared'}
        self.shared = []  # (name, offset, bytes, name of the function that declares it or None)
        self.shared_end = FIRST_SHARED_OFFSET
        self.shared_index = {}
        self.dynamic_align = 16
        self.lines, self.line_indices = [], {}
        self.waits_for_blocks = set()
        self.uses = {}  # function -> indices of shared variables
        self.names = {function.name: f'function_{index}' for index, function in enumerate(module.functions)}

    def function_name(self, name):
        return self.names[name]

    def line_index(self, location):
        outer = location
        while outer.outer is not None:
            outer = outer.outer
        key = (location.file, location.line, outer.file, outer.line)
        if key not in self.line_indices:
            self.line_indices[key] = len(self.lines)
            self.lines.append(key)
        return self.line_indices[key]

    # ---- symbols ----

    def symbol(self, name, user):
        """A C++ expression for a module-scope symbol's address (an offset for shared memory), or None."""
        if name in self.globals:
            if name not in self.used_globals:
                self.used_globals.append(name)
            return f'variables[{self.used_globals.index(name)}].address'
        if name in self.module_shared:
            return self.add_shared(self.module_shared[name], user)
        if name in self.defined_functions:
            user.calls.add(name)
            return f'&{self.function_name(name)}'
        return None

    def add_shared(self, variable, user):
        """The offset of a shared variable as a C++ expression."""
        if variable.is_extern or variable.bytes == 0:
            self.dynamic_align = max(self.dynamic_align, variable.align)
            user.scopes.declare(variable.name, ('shared', None, 'block.dynamic_shared_offset'))
            return 'block.dynamic_shared_offset'
        key = (user.function.name if variable.name not in self.module_shared else None, variable.name)
        if key not in self.shared_index:
            align = max(variable.align, 16)
            offset = (self.shared_end + SHARED_GAP + align - 1) // align * align
            self.shared_end = offset + variable.bytes
            self.shared_index[key] = len(self.shared)
            self.shared.append((variable.name, offset, variable.bytes, variable.align))
        index = self.shared_index[key]
        self.uses.setdefault(user.function.name, set()).add(index)
        offset = f'{self.shared[index][1]}u'
        user.scopes.declare(variable.name, ('shared', None, offset))
        return offset

    # ---- output ----

    def translate(self):
        translators = {}
        bodies = []
        for function in self.module.functions:
            translator = FunctionTranslator(self, function)
            bodies.append(translator.translate())
            translators[function.name] = translator
        kernels = [function for function in self.module.functions if function.is_kernel]
        parts = ['// Translated from the PTX that nvcc emitted; do not edit.', '#include "translated.h"', '',
                 'namespace cuda_emulation {', 'namespace {', '', self._line_table(), self._variable_table()]
        parts += [declaration(self, function) for function in self.defined_functions.values()]
        parts += bodies
        parts.append(self._shared_table())
        parts += [self._kernel_tables(index, kernel, translators) for index, kernel in enumerate(kernels)]
        parts.append(self._module_table(kernels, translators))
        return '\n'.join(parts)

    def _line_table(self):
        rows = [f'    {{{c_string(file)}, {line}, {c_string(outer)}, {outer_line}}},'
                for file, line, outer, outer_line in self.lines] or ['    {"?", 0, "?", 0},']
        return 'const SourceLine kLines[] = {\n' + '\n'.join(rows) + '\n};\n'

    def _variable_table(self):
        rows, initials = [], []
        for index, name in enumerate(self.used_globals):
            variable = self.globals[name]
            if variable.is_extern:
                raise Refused(f"variable '{name}' is defined in another file", variable.line)
            image = 'nullptr'
            if variable.values is not None:
                initials.append(f'const unsigned char kInitial{index}[] = {{{self._initial_bytes(variable)}}};')
                image = f'kInitial{index}'
            count = f'sizeof(kInitial{index})' if variable.values is not None else '0'
            rows.append(f'    {{{c_string(name)}, {variable.bytes}, {variable.align}, {image}, {count}, nullptr}},')
        if not rows:
            return ''
        return '\n'.join(initials) + '\nModuleVariable variables[] = {\n' + '\n'.join(rows) + '\n};\n'

    def _initial_bytes(self, variable):
        size = TYPE_BYTES[variable.type]
        data = bytearray()
        for text in variable.values:
            match = re.fullmatch(r'0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})', text)
            try:
                value = int(match[1] or match[2], 16) if match else int(text.rstrip('U'), 0)
            except ValueError:
                raise Refused(f"initialiser '{text}' of '{variable.name}' is not a number", variable.line) from None
            data += (value & ((1 << 8 * size) - 1)).to_bytes(size, 'little')
        return ', '.join(str(byte) for byte in data)

    def _shared_table(self):
        if not self.shared:
            return ''
        rows = [f'    {{{c_string(name)}, {offset}, {size}}},' for name, offset, size, _ in self.shared]
        return 'const SharedVariable kShared[] = {\n' + '\n'.join(rows) + '\n};\n'

    def _reachable(self, kernel, translators):
        """The kernel and every function that it may call; an indirect call may reach all of them."""
        seen, pending = set(), [kernel.name]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            calls = translators[name].calls
            pending += list(self.defined_functions) if '*' in calls else [c for c in calls if c in translators]
        return seen

    def _kernel_tables(self, index, kernel, translators):
        layout = parameter_layout(kernel)
        reachable = self._reachable(kernel, translators)
        shared = sorted(set().union(*(self.uses.get(name, set()) for name in reachable)))
        rows = ', '.join(f'{{{offset}, {size}}}' for offset, size in layout) or '{0, 0}'
        indices = ', '.join(f'{k}' for k in shared) or '0'
        return f'const ParameterSlot kParameters{index}[] = {{{rows}}};\n' \
               f'const uint32_t kSharedOf{index}[] = {{{indices}}};'

    def _kernel_row(self, index, kernel, translators):
        reachable = self._reachable(kernel, translators)
        shared = sorted(set().union(*(self.uses.get(name, set()) for name in reachable)))
        static_bytes = 0
        for k in shared:
            _, _, size, align = self.shared[k]
            static_bytes = (static_bytes + align - 1) // align * align + size
        local = sum(translators[name].local_bytes for name in reachable)
        in_order = 'true' if reachable & self.waits_for_blocks else 'false'
        return f'    {{{c_string(kernel.name)}, &{self.function_name(kernel.name)}, kParameters{index}, ' \
               f'{len(kernel.parameters)}, kSharedOf{index}, {len(shared)}, {static_bytes}, {self.dynamic_align}, ' \
               f'{maximum_threads(kernel.attributes)}, {local}, {in_order}}},'

    def _module_table(self, kernels, translators):
        rows = [self._kernel_row(index, kernel, translators) for index, kernel in enumerate(kernels)]
        table = 'const KernelInfo kKernels[] = {\n' + '\n'.join(rows) + '\n};\n' if rows else ''
        anchor = 'cuda_emulation_module_' + re.sub(r'\W', '_', self.stem)
        return f'''{table}
const ModuleInfo kModule = {{{c_string(self.stem)}, {'kKernels' if rows else 'nullptr'}, {len(rows)},
                            {'variables' if self.used_globals else 'nullptr'}, {len(self.used_globals)},
                            {'kShared' if self.shared else 'nullptr'}, {len(self.shared)}, {self.shared_end}, kLines,
                            {len(self.lines)}}};
const ModuleRegistration kRegistration(kModule);

}}  // namespace
}}  // namespace cuda_emulation

// The linker keeps this file of an archive because the build asks for this name (see CMakeLists.txt).
extern "C" const int {anchor};
extern "C" const int {anchor} = 1;
'''
