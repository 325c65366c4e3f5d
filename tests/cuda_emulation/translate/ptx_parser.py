"""Reads PTX text into a Module: source files, variables, functions and their statements.

Only the shape of the language is known here; what an instruction means (and whether it is allowed) is decided in the
opcodes_* modules. Every statement carries its PTX line, so that a refusal can name it.
"""

import re
from dataclasses import dataclass, field

TYPE_BYTES = {
    'b8': 1, 'u8': 1, 's8': 1, 'b16': 2, 'u16': 2, 's16': 2, 'b32': 4, 'u32': 4, 's32': 4, 'b64': 8, 'u64': 8,
    's64': 8, 'f16': 2, 'bf16': 2, 'f16x2': 4, 'bf16x2': 4, 'f32': 4, 'f64': 8, 'tf32': 4, 'pred': 1,
}


class Refused(Exception):
    """The text holds something that the emulation does not know. Ignoring it would give wrong results silently."""

    def __init__(self, message, line=None):
        super().__init__(message)
        self.line = line


@dataclass
class Variable:
    space: str
    type: str
    name: str
    bytes: int
    align: int
    values: list = None  # texts of the initialiser's elements
    is_extern: bool = False
    line: int = 0


@dataclass
class Location:
    """A source line; `outer` is where it was inlined (another Location) or None."""
    file: str
    line: int
    outer: object = None


@dataclass
class Statement:
    """kind: instruction, label, open, close, register, variable, location, or targets (of brx.idx)."""
    kind: str
    line: int
    text: str = ''
    predicate: str = None
    opcode: str = ''
    modifiers: list = field(default_factory=list)
    operands: list = field(default_factory=list)
    payload: object = None


@dataclass
class Function:
    name: str
    is_kernel: bool
    parameters: list
    results: list
    attributes: str
    statements: list
    line: int


@dataclass
class Module:
    files: dict
    variables: list
    functions: list


def split_operands(text):
    """Splits at commas outside brackets."""
    parts, depth, current = [], 0, ''
    for character in text:
        if character in '{[(':
            depth += 1
        elif character in '}])':
            depth -= 1
        if character == ',' and depth == 0:
            parts.append(current.strip())
            current = ''
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return parts


def vector_elements(text):
    """The elements of {a, b, ...}, or the operand itself as the only one."""
    text = text.strip()
    return split_operands(text[1:-1]) if text.startswith('{') else [text]


def _without_comments(text):
    """Blanks comments but keeps line breaks; quoted strings may hold // (paths do)."""
    pattern = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.S)
    return pattern.sub(lambda match: match.group() if match.group()[0] == '"' else re.sub(r'[^\n]', ' ', match.group()),
                       text)


VARIABLE = re.compile(
    r'^(?P<linkage>(?:\.(?:visible|weak|extern|common)\s+)*)\.(?P<space>global|const|shared|local|param)\s+'
    r'(?P<attribute>\.attribute\([^)]*\)\s*)?(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+'
    r'(?:\.ptr\s*(?:\.(?:global|const|shared|local|param)\s*)?(?:\.align\s+\d+\s*)?)?'
    r'(?P<name>[\w$%]+)\s*(?P<extent>(?:\[\s*\d*\s*\])*)\s*(?:=\s*(?P<values>.*))?$', re.S)


def parse_variable(text, line):
    match = VARIABLE.match(text.strip())
    if not match or match['attribute'] or match['type'] not in TYPE_BYTES:
        raise Refused(f'declaration not understood: {text.strip()[:120]}', line)
    element = TYPE_BYTES[match['type']]
    count = 1
    for extent in re.findall(r'\[\s*(\d*)\s*\]', match['extent']):
        count *= int(extent or 0)
    values = None
    if match['values'] is not None:
        values = split_operands(re.sub(r'[{}]', ' ', match['values']))
    return Variable(match['space'], match['type'], match['name'], element * count, int(match['align'] or element),
                    values, '.extern' in match['linkage'], line)


class _Body:
    """Cuts the text between a function's braces into statements."""

    def __init__(self, text, first_line, files):
        self.text, self.line, self.files = text, first_line, files
        self.statements = []
        self.inlined = {}  # (file, line, column) -> Location of the call it was inlined into

    def parse(self):
        position, current, start_line = 0, '', self.line
        while position < len(self.text):
            character = self.text[position]
            position += 1
            if character == '\n':
                if current.lstrip().startswith('.loc'):
                    self._location(current.strip(), start_line)
                    current = ''
                self.line += 1
            if not current.strip():
                start_line = self.line
            if character in '{}' and not current.strip():
                self.statements.append(Statement('open' if character == '{' else 'close', start_line))
                current = ''
            elif character == ';':
                self._statement(current.strip(), start_line)
                current = ''
            elif character == ':' and re.fullmatch(r'\s*[$\w]+\s*', current) and self.text[position:position + 1] != ':':
                self.statements.append(Statement('label', start_line, current.strip()))
                current = ''
            else:
                current += character
        if current.strip():
            raise Refused(f'statement without an end: {current.strip()[:80]}', start_line)
        return self.statements

    def _location(self, text, line):
        match = re.match(r'\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:.*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?', text)
        if not match:
            raise Refused(f'.loc not understood: {text}', line)
        here = tuple(int(group) for group in match.groups()[:3])
        outer = None
        if match[4]:
            place = tuple(int(group) for group in match.groups()[3:])
            outer = Location(self.files.get(place[0], '?'), place[1], self.inlined.get(place))
        self.inlined[here] = outer
        payload = Location(self.files.get(here[0], '?'), here[1], outer)
        self.statements.append(Statement('location', line, payload=payload))

    def _statement(self, text, line):
        if not text or text.startswith('.pragma'):
            return
        if text.startswith('.reg'):
            self.statements.append(Statement('register', line, text))
        elif re.match(r'\.(shared|local|param|const|global)\b', text):
            self.statements.append(Statement('variable', line, text, payload=parse_variable(text, line)))
        elif text.startswith('.branchtargets'):
            label = self.statements.pop()  # the name of the list is the label before it
            self.statements.append(Statement('targets', line, label.text, operands=split_operands(text[14:])))
        elif text.startswith('.callprototype'):
            label = self.statements.pop()
            self.statements.append(Statement('prototype', line, label.text))
        elif text.startswith('.'):
            raise Refused(f'directive not understood: {text[:80]}', line)
        else:
            self._instruction(text, line)

    def _instruction(self, text, line):
        match = re.match(r'^(?:@(!?[%$\w]+)\s+)?([a-z][\w.:]*)\s*(.*)$', text, re.S)
        if not match:
            raise Refused(f'instruction not understood: {text[:80]}', line)
        name = match[2].split('.')
        self.statements.append(Statement('instruction', line, ' '.join(text.split()), match[1], name[0], name[1:],
                                         split_operands(match[3])))


class _ModuleParser:
    def __init__(self, text):
        self.text = _without_comments(text)
        self.module = Module({}, [], [])

    def line_at(self, position):
        return self.text.count('\n', 0, position) + 1

    def matching_brace(self, position):
        depth = 0
        for match in re.compile(r'"(?:\\.|[^"\\])*"|[{}]').finditer(self.text, position):
            if match.group() == '{':
                depth += 1
            elif match.group() == '}':
                depth -= 1
                if depth == 0:
                    return match.start()
        raise Refused('braces do not match', self.line_at(position))

    def parse(self):
        position = 0
        for match in re.finditer(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', self.text, re.M):
            self.module.files[int(match[1])] = match[2]
        while True:
            match = re.compile(r'\S').search(self.text, position)
            if not match:
                return self.module
            position = self._directive(match.start())

    def _directive(self, start):
        line_end = self.text.find('\n', start)
        line_end = len(self.text) if line_end < 0 else line_end
        head = self.text[start:line_end]
        if re.match(r'\.(version|target|address_size|file)\b', head):
            return line_end
        if head.startswith('.section'):
            return self.matching_brace(start) + 1
        if re.match(r'(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\b', head):
            return self._function(start)
        end = self.text.find(';', start)
        text = self.text[start:end]
        if end >= 0 and text.startswith('.pragma'):
            return end + 1
        if end >= 0 and re.match(r'(?:\.(?:visible|weak|extern|common)\s+)*\.(global|const|shared)\b', text):
            self.module.variables.append(parse_variable(text, self.line_at(start)))
            return end + 1
        raise Refused(f'directive not understood: {head[:80]}', self.line_at(start))

    def _function(self, start):
        pattern = re.compile(
            r'(?P<linkage>(?:\.(?:visible|weak|extern)\s+)*)\.(?P<kind>entry|func)\s*(?:\((?P<results>[^)]*)\)\s*)?'
            r'(?P<name>[\w$]+)\s*(?:\((?P<parameters>[^)]*)\))?(?P<attributes>[^{;]*)(?P<end>[{;])')
        match = pattern.match(self.text, start)
        line = self.line_at(start)
        if not match:
            raise Refused('function header not understood', line)
        if match['end'] == ';':
            return match.end()  # a declaration; calls find the definition by name
        end = self.matching_brace(match.end() - 1)
        body = self.text[match.end():end]
        statements = _Body(body, self.line_at(match.end()), self.module.files).parse()
        declared = [[parse_variable(text, line) for text in split_operands(group or '')]
                    for group in (match['parameters'], match['results'])]
        self.module.functions.append(Function(match['name'], match['kind'] == 'entry', declared[0], declared[1],
                                              match['attributes'], statements, line))
        return end + 1


def parse_module(text):
    return _ModuleParser(text).parse()
