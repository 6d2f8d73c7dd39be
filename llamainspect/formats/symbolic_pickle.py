"""A pickle followed symbolically: a stack machine that describes calls and makes none.

Globals stay names, objects stay descriptions, and what a call means is left to the caller's hooks.
Values from the stream are never hashed, compared or printed: dictionaries are lists of pairs.
Every length is bounded by the stream's own length, every count by a limit.

Source of the opcodes: CPython's `pickletools`.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from llamainspect.errors import CorruptFile, UnsupportedFile

MAX_OPERATIONS = 8_000_000
MAX_OBJECTS = 1_000_000  # on the stack and in the memo; a 405B shard has 9,000
OPERATIONS_PER_CHECK = 100_000
MAX_GLOBAL_NAME = 1_000


# --- what a stream can contain, beside None, bool, int, float, str, bytes, tuple and list ---------
# (No named tuples here: a stream's own tuples must not be mistaken for these.)


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function named by the stream. A name; never imported."""

    module: str
    name: str


class Dict:
    """A dictionary as the list of the pairs that were put into it."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []


class Opaque:
    """An object that is not looked into, except for its arguments, items and state."""

    __slots__ = ("_state", "arguments", "what")

    def __init__(self, what: str, arguments: tuple[Any, ...]) -> None:
        self.what = what
        self.arguments = arguments  # not copied: a stream can pass one long tuple a million times
        self._state: list[Any] | None = None  # a stream can make a million, and few have any

    @property
    def state(self) -> list[Any]:
        """Its items and what it was built with, to be added to."""
        if self._state is None:
            self._state = []
        return self._state

    @property
    def count(self) -> int:
        """How many values it holds."""
        return len(self.arguments) + len(self._state or ())

    def children(self) -> Iterator[Any]:
        """Those values."""
        return chain(self.arguments, self._state or ())


class Malformed(Exception):
    """Something in the stream makes no sense; becomes a CorruptFile with its position."""


_MARK = object()


class PickleReader:
    """One pass over a stream.

    `call(function, arguments)` says what a call of a global stands for, `persistent_id(value)` what
    a reference to something outside the stream does; both may raise Malformed.
    """

    def __init__(
        self,
        data: bytes,
        call: Callable[[Global, tuple[Any, ...]], Any],
        persistent_id: Callable[[Any], Any],
    ) -> None:
        self.data = data
        self.call = call
        self.persistent_id = persistent_id
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], int] = {}  # and the position where first named

    def run(self) -> Any:
        """The object the stream leaves. Raises CorruptFile, or UnsupportedFile for opcodes that
        torch never writes."""
        try:
            for _ in range(MAX_OPERATIONS // OPERATIONS_PER_CHECK):
                if self._follow(OPERATIONS_PER_CHECK):
                    return self._result()
                if len(self.stack) + len(self.memo) > MAX_OBJECTS:
                    raise Malformed(f"it makes more than {MAX_OBJECTS:,} objects")
            raise Malformed(f"it has more than {MAX_OPERATIONS:,} operations")
        except (IndexError, struct.error) as error:
            raise self._damaged("it ends, or its stack does, too early") from error
        except UnicodeDecodeError as error:
            raise self._damaged("it holds text that is not UTF-8") from error
        except (Malformed, RecursionError) as error:
            raise self._damaged(str(error)) from error
        except KeyError as error:
            if self.data[self.start] in _OPERATIONS:
                raise self._damaged("it uses a memo entry that was never set") from error
            raise self._refused() from error

    def _follow(self, operations: int) -> bool:
        """Up to that many operations; True when the stream has ended."""
        data, table = self.data, _OPERATIONS
        for _ in range(operations):
            self.start = start = self.position
            opcode = data[start]
            self.position = start + 1
            if opcode == _STOP:
                return True
            table[opcode](self)
        return False

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.position != len(self.data):
            raise Malformed("it leaves something behind its end")
        return self.pop()

    def _damaged(self, what: str) -> CorruptFile:
        return CorruptFile(
            f"byte {self.start:,}: {what}; the file is damaged or made to harm, download it again "
            "from a source you trust"
        )

    def _refused(self) -> UnsupportedFile:
        """For the opcodes that torch never writes; INST names what it would have called."""
        opcode = self.data[self.start : self.start + 1]
        named = ""
        if opcode == b"i":
            names = self.data[self.position : self.position + MAX_GLOBAL_NAME].split(b"\n")[:2]
            named = f", which calls {b'.'.join(names).decode('utf-8', 'replace')}"
        return UnsupportedFile(
            f"byte {self.start:,}: pickle opcode {opcode!r}{named}: torch.save writes no such "
            "thing and it is not followed; do not load this file with pickle or torch.load"
        )

    # Arguments. Past the end these give too little, and then the next opcode is missing.

    def take(self, length: int) -> bytes:
        start = self.position
        self.position = end = start + length
        return self.data[start:end]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def byte(self) -> int:
        position = self.position
        self.position = position + 1
        return self.data[position]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_GLOBAL_NAME)
        if end < 0:
            raise Malformed(f"a name has no end within {MAX_GLOBAL_NAME} bytes")
        text = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return text

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise IndexError

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise Malformed("a mark stands where a value should")
        return value

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise Malformed("a mark stands where a value should")
        return value

    def push_global(self, module: str, name: str) -> None:
        if len(module) + len(name) > MAX_GLOBAL_NAME:
            raise Malformed(f"a global has a name of more than {MAX_GLOBAL_NAME:,} characters")
        self.globals.setdefault((module, name), self.start)
        self.stack.append(Global(module, name))


# --- the operations -------------------------------------------------------------------------------


def _constant(value: Any) -> Callable[[PickleReader], None]:
    return lambda reader: reader.stack.append(value)


def _fresh(make: Callable[[], Any]) -> Callable[[PickleReader], None]:
    return lambda reader: reader.stack.append(make())


def _skip(width: int) -> Callable[[PickleReader], None]:
    def operation(reader: PickleReader) -> None:
        reader.take(width)

    return operation


def _unsigned(width: int) -> Callable[[PickleReader], None]:
    return lambda reader: reader.stack.append(reader.number(width))


def _text(width: int) -> Callable[[PickleReader], None]:
    def operation(reader: PickleReader) -> None:
        # surrogatepass: the pickler writes lone surrogates so, and a name may hold one.
        raw = reader.take(reader.number(width))
        reader.stack.append(raw.decode("utf-8", "surrogatepass"))

    return operation


def _bytes(width: int) -> Callable[[PickleReader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(width)))


def _put_byte(reader: PickleReader) -> None:
    reader.memo[reader.byte()] = reader.top()


def _put_long(reader: PickleReader) -> None:
    start = reader.position  # a quarter of all operations, hence not number(4)
    reader.position = end = start + 4
    reader.memo[int.from_bytes(reader.data[start:end], "little")] = reader.top()


def _get_byte(reader: PickleReader) -> None:
    reader.stack.append(reader.memo[reader.byte()])


def _get_long(reader: PickleReader) -> None:
    reader.stack.append(reader.memo[reader.number(4)])


def _tuple(length: int) -> Callable[[PickleReader], None]:
    def operation(reader: PickleReader) -> None:
        values = tuple(reader.stack[-length:])
        if len(values) < length or _MARK in values:
            raise IndexError
        reader.stack[-length:] = [values]

    return operation


def _tuple_to_mark(reader: PickleReader) -> None:
    reader.stack.append(tuple(reader.pop_to_mark()))


def _memoize(reader: PickleReader) -> None:
    reader.memo[len(reader.memo)] = reader.top()


def _int32(reader: PickleReader) -> None:
    reader.stack.append(int.from_bytes(reader.take(4), "little", signed=True))


def _long1(reader: PickleReader) -> None:
    reader.stack.append(int.from_bytes(reader.take(reader.number(1)), "little", signed=True))


def _float64(reader: PickleReader) -> None:
    reader.stack.append(struct.unpack(">d", reader.take(8))[0])


def _global(reader: PickleReader) -> None:
    module = reader.line()
    reader.push_global(module, reader.line())


def _stack_global(reader: PickleReader) -> None:
    name, module = reader.pop(), reader.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Malformed("a global's name is no text")
    reader.push_global(module, name)


def _persistent_id(reader: PickleReader) -> None:
    reader.stack.append(reader.persistent_id(reader.pop()))


def _reduce(reader: PickleReader) -> None:
    """Call, or for NEWOBJ make: described, not done."""
    arguments, function = reader.pop(), reader.pop()
    if not isinstance(arguments, tuple):
        raise Malformed("a call has no tuple of arguments")
    if isinstance(function, Global):
        reader.stack.append(reader.call(function, arguments))
    elif isinstance(function, Opaque):  # what a call returned, such as a method
        reader.stack.append(Opaque("object", (function, arguments)))
    else:
        raise Malformed("something is called that is no function")


def _build(reader: PickleReader) -> None:
    """State of an object; the attributes of a dictionary (`_metadata`) are not kept."""
    state, target = reader.pop(), reader.top()
    if isinstance(target, Opaque):
        target.state.append(state)
    elif not isinstance(target, Dict):  # a tensor's would make another tensor of it
        raise Malformed("state is set on what has none")


def _append(reader: PickleReader) -> None:
    value = reader.pop()
    _extend(reader.top(), [value])


def _extend_to_mark(reader: PickleReader) -> None:
    values = reader.pop_to_mark()
    _extend(reader.top(), values)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Opaque):
        target.state.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise Malformed("something is appended to what is no list")


def _set_item(reader: PickleReader) -> None:
    value, key = reader.pop(), reader.pop()
    _set_pairs(reader.top(), [key, value])


def _set_items(reader: PickleReader) -> None:
    values = reader.pop_to_mark()
    _set_pairs(reader.top(), values)


def _set_pairs(target: Any, flat: list[Any]) -> None:
    if len(flat) % 2:
        raise Malformed("a dictionary gets a key without a value")
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if any(isinstance(key, (list, Dict)) for key, _ in pairs):
        raise Malformed("a list or a dictionary is used as a key, which Python cannot do")
    if isinstance(target, Opaque):
        table = Dict()
        table.pairs = pairs
        target.state.append(table)
    elif isinstance(target, Dict):
        target.pairs.extend(pairs)
    else:
        raise Malformed("items are set on what is no dictionary")


def _drop(reader: PickleReader) -> None:
    reader.stack.pop()


def _drop_to_mark(reader: PickleReader) -> None:
    reader.pop_to_mark()


def _set_to_mark(reader: PickleReader) -> None:
    reader.stack.append(Opaque("frozenset", tuple(reader.pop_to_mark())))


def _duplicate(reader: PickleReader) -> None:
    reader.stack.append(reader.top())


# What torch.save writes, and what protocols up to 5 write for the same objects. Not here, and so
# refused: INST, OBJ, EXT1-4, NEWOBJ_EX, PERSID, LONG4, out-of-band buffers and the text opcodes.
_OPERATIONS: dict[int, Callable[[PickleReader], None]] = {
    code[0]: operation
    for code, operation in {
        b"\x80": _skip(1),  # PROTO
        b"\x95": _skip(8),  # FRAME
        b"(": _constant(_MARK),
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"}": _fresh(Dict),
        b"]": _fresh(list),
        b")": _constant(()),
        b"\x8f": _fresh(lambda: Opaque("set", ())),
        b"K": lambda reader: reader.stack.append(reader.byte()),  # BININT1
        b"M": _unsigned(2),  # BININT2
        b"J": _int32,  # BININT
        b"\x8a": _long1,
        b"G": _float64,
        b"X": _text(4),  # BINUNICODE
        b"\x8c": _text(1),  # SHORT_BINUNICODE
        b"\x8d": _text(8),  # BINUNICODE8
        b"B": _bytes(4),  # BINBYTES
        b"C": _bytes(1),  # SHORT_BINBYTES
        b"\x8e": _bytes(8),  # BINBYTES8
        b"\x96": _bytes(8),  # BYTEARRAY8
        b"T": _bytes(4),  # BINSTRING
        b"U": _bytes(1),  # SHORT_BINSTRING
        b"q": _put_byte,  # BINPUT
        b"r": _put_long,  # LONG_BINPUT
        b"h": _get_byte,  # BINGET
        b"j": _get_long,  # LONG_BINGET
        b"\x94": _memoize,
        b"c": _global,
        b"\x93": _stack_global,
        b"Q": _persistent_id,  # BINPERSID
        b"R": _reduce,
        b"\x81": _reduce,  # NEWOBJ: class and arguments where REDUCE has function and arguments
        b"b": _build,
        b"a": _append,
        b"e": _extend_to_mark,  # APPENDS
        b"\x90": _extend_to_mark,  # ADDITEMS
        b"s": _set_item,
        b"u": _set_items,
        b"t": _tuple_to_mark,
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"\x91": _set_to_mark,  # FROZENSET
        b"0": _drop,
        b"1": _drop_to_mark,
        b"2": _duplicate,
    }.items()
}
_STOP = ord(".")
