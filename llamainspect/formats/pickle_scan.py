"""Which globals a pickle names and calls, whatever program it is: for telling, not for reading.

Where symbolic_pickle refuses what torch never writes, this goes on as CPython would, up to where
CPython must stop, since all before that point would have been run. Only texts, globals and the
depth of the stack are kept, which is what decides over names: one may come out of the memo, from
under a mark or of a call. Bytes are read as they are needed; long constants are skipped.

Opcodes, their arguments and what they take from the stack: CPython's `pickletools`, and
`Modules/_pickle.c` for marks and the memo.
"""

import codecs
import pickletools
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from warnings import catch_warnings, simplefilter

from llamainspect.formats.signatures import HEAD_NBYTES
from llamainspect.formats.symbolic_pickle import (
    MAX_GLOBAL_NAME,
    MAX_OBJECTS,
    Global,
)
from llamainspect.formats.views import View

MAX_FOLLOWED = 8_000_000  # operations; a 405B shard has 50,000
ENDS = "it ends before its STOP"
WINDOW_NBYTES = 2**16
MAX_LINE = 2**24  # of the text opcodes
MAX_KEPT_TEXT = MAX_GLOBAL_NAME + 1  # so that one that was cut is known by its length
MAX_NESTED = 1_000  # constants that may be pickles themselves
MAX_NOTED = 1_000  # oddities of each kind: a report shows no more
MAX_KEPT = 2**24  # bytes of those that had to be decoded
# Names that Python, NumPy and others ask an object for; as texts, these mean nothing.
SPECIAL = re.compile(r"__\w+__")
NOT_SPECIAL = ("__main__", "__builtin__", "__version__", "__metadata__")
# Whether bytes, by the first HEAD_NBYTES and a view of all, may be a file with pickles in it; and
# the work that it took to know, counted in bytes read.
Begins = Callable[[bytes, View], tuple[bool, int]]
ENCODE = Global("_codecs", "encode")
LATIN = ("latin1", "latin-1")
MAX_LOOK_WORK = 2**28  # at the constants of one pickle


@dataclass(slots=True)
class Use:
    """One global: where it is first named, and how many calls of it are written down."""

    position: int
    calls: int = 0


class _First(list[Any]):
    """The first MAX_NOTED of what is appended: a pickle of a few MB can do millions of times what
    is worth a word once."""

    __slots__ = ()

    def append(self, one: Any) -> None:
        if len(self) < MAX_NOTED:
            super().append(one)


@dataclass(slots=True)
class PickleScan:
    """What one pickle names. Positions count from the start of the view that it stands in."""

    start: int
    end: int = 0  # behind the last operation that was followed
    operations: int = 0
    read_nbytes: int = 0
    uses: dict[tuple[str, str], Use] = field(default_factory=dict)  # by (module, name)
    computed: list[int] = field(default_factory=_First)  # where a global's name cannot be told
    extensions: list[tuple[int, int]] = field(default_factory=_First)  # position and number
    altered: list[tuple[int, Global]] = field(default_factory=_First)  # given attributes or items
    keywords: list[tuple[int, Global]] = field(default_factory=list)  # called with named arguments
    values: list[int] = field(default_factory=_First)  # where what a call has made is called
    codecs: list[int] = field(default_factory=_First)  # texts made bytes in another than Latin-1
    special: list[tuple[int, str]] = field(default_factory=_First)  # texts that are SPECIAL
    references: list[int] = field(default_factory=_First)  # persistent ids that are no storages
    torn: list[int] = field(default_factory=_First)  # operations across the end of a frame
    nested: list[tuple[int, View]] = field(default_factory=list)  # constants that may be pickles
    unseen: int = 0  # more of these
    look_work: int = 0  # at constants, as bytes read
    broken: str | None = None  # why CPython stops at `end`, without a result
    given_up: bool = False  # CPython would go on, and this does not

    @property
    def is_no_chance(self) -> bool:
        """Whether bytes that only might be a pickle are one: it does something to what can have
        that name, or goes on behind where it was no longer followed."""
        done_to = [(of.module, of.name) for _, of in (*self.altered, *self.keywords)]
        done_to += [pair for pair, use in self.uses.items() if use.calls]
        real = any("".join(pair).replace(".", "").isidentifier() for pair in done_to)
        return real or bool(self.values) or self.given_up

    @property
    def says_something(self) -> bool:
        """Whether it names anything, ends as a pickle does, or is one for sure."""
        named = self.computed or self.extensions or self.uses
        return bool(named) or self.broken is None or self.is_no_chance


def scan_pickle(
    view: View, start: int = 0, budget: int = MAX_FOLLOWED, begins: Begins | None = None
) -> PickleScan:
    """Follow the pickle that begins at `start`, for at most `budget` operations. `begins` chooses
    the constants that are noted as nested, none without it. Never raises for what the stream holds;
    a file that cannot be read raises as its source does."""
    machine = _Machine(view, start, begins)
    scan = machine.scan
    try:
        while not machine.follow(min(budget - scan.operations, WINDOW_NBYTES)):
            if scan.operations >= budget:
                raise _GivenUp(f"it has more than {budget:,} operations, which are not followed")
            objects = (machine.stack, machine.marks, machine.memo, scan.uses)
            if sum(map(len, objects)) > MAX_OBJECTS:
                raise _GivenUp(f"it makes more than {MAX_OBJECTS:,} objects")
    except _Broken as broken:
        scan.broken, scan.given_up = str(broken), isinstance(broken, _GivenUp)
    scan.end = machine.position
    return scan


class _Broken(Exception):
    """Where CPython would stop with an error."""


class _GivenUp(_Broken):
    """Where CPython would go on, and here is the limit."""


_OTHER = object()  # a value that no name is made of
_MADE = object()  # by a call, or by the loading program
_CODEC = object()  # arguments that spell bytes in another codec than protocol 2 does
_STORAGE_ID = object()  # a tuple as torch describes a storage: ("storage", ...)


class _Machine:
    def __init__(self, view: View, start: int, begins: Begins | None) -> None:
        self.view, self.begins = view, begins
        self.scan = PickleScan(start)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.at = start  # of the operation at hand
        self.frame_end = 0
        self.keepable = MAX_KEPT
        self._base, self._window = start, b""
        self.position = start

    def follow(self, operations: int) -> bool:
        """Up to so many operations; True when the pickle has ended."""
        scan = self.scan
        for _ in range(operations):
            self.at = self.position
            code = self.take(1)[0]
            scan.operations += 1
            if code == _STOP:
                self.pop()
                if self.position < self.frame_end:  # where the next one begins for some readers
                    scan.torn.append(self.at)
                return True
            operation = _OPERATIONS.get(code)
            if operation is None:
                self.position = self.at
                raise _Broken(f"0x{code:02x} is no operation of a pickle")
            operation(self)
        return False

    # --- the stream ---

    def ahead(self, length: int) -> bytes:
        """The next bytes, as many as there are, without going on."""
        offset = self.position - self._base
        if not 0 <= offset <= offset + length <= len(self._window):
            self._base, offset = self.position, 0
            self._window = self.view.read(self.position, max(length, WINDOW_NBYTES))
            self.scan.read_nbytes += len(self._window)
        return self._window[offset : offset + length]

    def take(self, length: int) -> bytes:
        data = self.ahead(length)
        self.advance(length)
        return data

    def advance(self, length: int) -> None:
        end = self.position + length
        if end > self.view.nbytes:
            raise _Broken(ENDS)
        if self.position < self.frame_end < end:
            self.scan.torn.append(self.at)
            self.frame_end = 0  # once is enough
        self.position = end

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """Up to a newline; at the end of the file CPython takes the last byte for one."""
        length = 256
        while True:
            data = self.ahead(length)
            found = data.find(b"\n")
            if found >= 0 or len(data) < length:
                return self.take(found + 1 if found >= 0 else len(data))[:-1]
            if length >= MAX_LINE:
                raise _GivenUp(f"a line has more than {MAX_LINE:,} bytes, which are not followed")
            length *= 8

    # --- the stack; below the last mark it counts as empty, as in CPython ---

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Broken("its stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _Broken("a mark is missing")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    # --- what is told ---

    def name(self, module: str, name: str) -> Global:
        if max(len(module), len(name)) > MAX_GLOBAL_NAME:  # it may lead anywhere behind that
            self.scan.computed.append(self.at)
        known = module[:MAX_GLOBAL_NAME], name[:MAX_GLOBAL_NAME]
        self.scan.uses.setdefault(known, Use(self.at))
        return Global(*known)

    def called(self, function: Any) -> None:
        if isinstance(function, Global):
            self.scan.uses[function.module, function.name].calls += 1
        elif function is _MADE:
            self.scan.values.append(self.at)
        self.stack.append(_MADE)

    def constant(self, length: int, text: bool) -> None:
        """Texts are kept, as names are made of them; what may be a file with pickles is noted."""
        start = self.position
        head = self.ahead(HEAD_NBYTES)[:length]
        value: Any = _OTHER
        if text:  # of which a character takes four bytes at most
            value = self.text(_decoded(self.ahead(min(length, 4 * MAX_KEPT_TEXT))))
        self.advance(length)
        self.stack.append(value)
        self.look(start, head, self.view.part(start, length))
        if text and not head.isascii() and self.begins:  # bytes, as protocol 2 spells them
            raw = _bytes_of(self.view.read(start, min(length, self.keepable)))
            self.look(start, raw[:HEAD_NBYTES], View.of(raw), len(raw))

    def text(self, value: str) -> str:
        """As much of a text as a name can have."""
        if SPECIAL.fullmatch(value) and value not in NOT_SPECIAL:
            self.scan.special.append((self.at, value[:MAX_GLOBAL_NAME]))
        return value[:MAX_KEPT_TEXT]

    def look(self, position: int, head: bytes, inner: View, kept: int = 0) -> None:
        """At a constant; `kept` of its bytes would stay in memory."""
        if self.begins is None or len(head) < 2:
            return
        if self.scan.look_work > MAX_LOOK_WORK:
            self.scan.unseen += 1
            return
        noted, work = self.begins(head, inner)
        self.scan.look_work += work + kept
        if noted:
            self.note(position, inner, kept)

    def note(self, position: int, inner: View, kept: int) -> None:
        """A constant that may be one; `kept` of its bytes stay in memory."""
        if len(self.scan.nested) < MAX_NESTED and kept <= self.keepable:
            self.keepable -= kept
            self.scan.nested.append((position, inner))
        else:
            self.scan.unseen += 1


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes_of(text: bytes) -> bytes:
    """Latin-1 characters that were written as UTF-8 (`_codecs.encode(text, "latin1")`)."""
    return text.decode("utf-8", "ignore").encode("latin-1", "replace")


# --- the operations that names depend on; of the others only what they take and leave -------------


def _constant(width: int, text: bool) -> Callable[[_Machine], None]:
    return lambda machine: machine.constant(machine.number(width), text)


def _text_line(unescaped: Callable[[bytes], str]) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        raw = machine.line()
        text = _decoded(raw)
        with suppress(ValueError):
            text = unescaped(raw)
        machine.stack.append(machine.text(text))
        with suppress(UnicodeEncodeError):
            inner = text.encode("latin-1")
            machine.look(machine.at, inner[:HEAD_NBYTES], View.of(inner), len(inner))

    return operation


def _unescaped(raw: bytes) -> str:
    quoted = raw.strip()[1:-1]
    with catch_warnings():  # of escapes that are none, which stay as they are
        simplefilter("ignore")
        return _decoded(codecs.escape_decode(quoted)[0] if b"\\" in quoted else quoted)


def _frame(machine: _Machine) -> None:
    """CPython reads a frame at once. What reaches across its end it reads from there on, without
    what stood before, so that it sees other names than most readers. A frame within one that was
    read has no end of its own."""
    length = machine.number(8)
    end = machine.position + length
    if machine.position >= machine.frame_end:
        machine.frame_end = end
    elif machine.frame_end < end:
        machine.scan.torn.append(machine.at)


def _mark(machine: _Machine) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine) -> None:
    """A mark that nothing stands on goes instead of a value."""
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _drop_to_mark(machine: _Machine) -> None:
    machine.pop_to_mark()


def _duplicate(machine: _Machine) -> None:
    machine.stack.append(machine.top())


def _put(key: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        number = key(machine)
        machine.memo[number] = machine.top()

    return operation


def _get(key: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        number = key(machine)
        if number not in machine.memo:
            raise _Broken("it takes from its memo what was never put there")
        machine.stack.append(machine.memo[number])

    return operation


def _decimal(machine: _Machine) -> int:
    """As C reads numbers, which for it end at a NUL; of any length, as zeros may lead."""
    try:
        return int(machine.line().partition(b"\0")[0])
    except ValueError:
        raise _Broken("a number of its memo is none") from None


def _global(machine: _Machine) -> None:
    module = _decoded(machine.line())
    machine.stack.append(machine.name(module, _decoded(machine.line())))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if isinstance(name, str) and isinstance(module, str):
        machine.stack.append(machine.name(module, name))
    else:
        machine.scan.computed.append(machine.at)
        machine.stack.append(_MADE)


def _extension(width: int) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        machine.scan.extensions.append((machine.at, machine.number(width)))
        machine.stack.append(_MADE)

    return operation


def _reduce(machine: _Machine) -> None:
    """REDUCE and NEWOBJ: what stands below the arguments is called."""
    arguments, function = machine.pop(), machine.pop()
    if arguments is _CODEC and function == ENCODE:
        machine.scan.codecs.append(machine.at)
    machine.called(function)


def _new_with_keywords(machine: _Machine) -> None:
    machine.pop()
    machine.pop()
    function = machine.pop()
    if isinstance(function, Global):
        machine.scan.keywords.append((machine.at, function))
    machine.called(function)


def _instance(machine: _Machine) -> None:
    """INST: names what it calls; the arguments stand above the mark, where that is not missing."""
    module = _decoded(machine.line())
    named = machine.name(module, _decoded(machine.line()))
    machine.pop_to_mark()
    machine.called(named)


def _object(machine: _Machine) -> None:
    """OBJ: what it calls is the first above the mark."""
    values = machine.pop_to_mark()
    if not values:
        raise _Broken("its stack is empty")
    machine.called(values[0])


def _build(machine: _Machine) -> None:
    machine.pop()
    target = machine.top()
    if isinstance(target, Global):
        machine.scan.altered.append((machine.at, target))


def _add(taken: int | None) -> Callable[[_Machine], None]:
    """Items for what stands below them, which stays: a class, too, where there are none."""

    def operation(machine: _Machine) -> None:
        items = taken or len(machine.pop_to_mark())
        for _ in range(taken or 0):
            machine.pop()
        target = machine.top()
        if items and isinstance(target, Global):
            machine.scan.altered.append((machine.at, target))

    return operation


def _tuple(machine: _Machine) -> None:
    machine.stack.append(_described(machine.pop_to_mark()))


def _pair(machine: _Machine) -> None:
    second, first = machine.pop(), machine.pop()
    machine.stack.append(_described([first, second]))


def _described(values: list[Any]) -> object:
    if values[:1] == ["storage"]:
        return _STORAGE_ID
    return _CODEC if len(values) == 2 and values[1] not in LATIN else _OTHER


def _persistent(machine: _Machine) -> None:
    """A storage's description stands for the storage; what other tuples stand for is the loading
    program's affair. In files from before torch 1.6 it is a class that they hold."""
    if machine.pop() is not _STORAGE_ID:
        machine.scan.references.append(machine.at)
    machine.stack.append(_MADE)


def _persistent_line(machine: _Machine) -> None:
    machine.line()
    machine.scan.references.append(machine.at)
    machine.stack.append(_MADE)


_STOP = b"."[0]
_BY_NAME: dict[str, Callable[[_Machine], None]] = {
    "FRAME": _frame,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _drop_to_mark,
    "DUP": _duplicate,
    "STRING": _text_line(_unescaped),
    "UNICODE": _text_line(lambda raw: raw.decode("raw-unicode-escape")),
    "TUPLE": _tuple,
    "TUPLE2": _pair,
    "BINPERSID": _persistent,
    "PERSID": _persistent_line,
    "PUT": _put(_decimal),
    "BINPUT": _put(lambda machine: machine.number(1)),
    "LONG_BINPUT": _put(lambda machine: machine.number(4)),
    "MEMOIZE": _put(lambda machine: len(machine.memo)),
    "GET": _get(_decimal),
    "BINGET": _get(lambda machine: machine.number(1)),
    "LONG_BINGET": _get(lambda machine: machine.number(4)),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "EXT1": _extension(1),
    "EXT2": _extension(2),
    "EXT4": _extension(4),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "APPEND": _add(1),
    "SETITEM": _add(2),
    "APPENDS": _add(None),
    "SETITEMS": _add(None),
    "ADDITEMS": _add(None),
    "BINUNICODE": _constant(4, text=True),
    "SHORT_BINUNICODE": _constant(1, text=True),
    "BINUNICODE8": _constant(8, text=True),
    "BINSTRING": _constant(4, text=True),
    "SHORT_BINSTRING": _constant(1, text=True),
    "BINBYTES": _constant(4, text=False),
    "SHORT_BINBYTES": _constant(1, text=False),
    "BINBYTES8": _constant(8, text=False),
    "BYTEARRAY8": _constant(8, text=False),
}
_LENGTHS_IN_FRONT = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def _plain(opcode: pickletools.OpcodeInfo) -> Callable[[_Machine], None]:
    """An operation as pickletools describes it: its argument, what it takes, what it leaves."""
    kind = opcode.arg.n if opcode.arg else 0
    before = opcode.stack_before
    to_mark = pickletools.stackslice in before
    taken = before.index(pickletools.markobject) if to_mark else len(before)
    left = [_OTHER] * len(opcode.stack_after)

    def operation(machine: _Machine) -> None:
        if kind > 0:
            machine.advance(kind)
        elif kind == pickletools.UP_TO_NEWLINE:
            machine.line()
        elif kind:
            machine.advance(machine.number(_LENGTHS_IN_FRONT[kind]))
        if to_mark:
            machine.pop_to_mark()
        for _ in range(taken):
            machine.pop()
        machine.stack += left

    return operation


_OPERATIONS = {
    ord(opcode.code): _BY_NAME.get(opcode.name) or _plain(opcode) for opcode in pickletools.opcodes
}
