"""JSON from strangers: no duplicates, no NaN, no number that overflows, no bottomless nesting."""

import json
import math
from typing import Any

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.sources import Source

JSON_KINDS = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
MAX_JSON_NBYTES = 32 * 2**20  # an index of 200,000 tensors has 18 MB
MAX_JSON_VALUES = 500_000  # a file of 32 MiB can hold millions, and each takes a hundred bytes


def read_json_object(source: Source, file: str) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptFile with the reason for anything else, and
    UnsupportedFile for what is sound, perhaps, and too large."""
    size = source.nbytes(file)
    if size > MAX_JSON_NBYTES:
        raise UnsupportedFile(
            f"{file}: its {size:,} bytes are not read; {MAX_JSON_NBYTES:,} are the most that are"
        )
    return parse_json_object(source.read(file, 0, size), file)


def parse_json_object(data: bytes, file: str) -> dict[str, Any]:
    """The object that `data` holds. Raises as `parse_json` does, also when it is none."""
    value = parse_json(data, file)
    if not isinstance(value, dict):
        kind = JSON_KINDS.get(type(value), "a number")
        raise CorruptFile(f"{file}: it holds {kind} where an object belongs")
    return value


def parse_json(data: bytes, file: str, way_out: str = "download it again") -> Any:
    """What `data` holds. Raises CorruptFile with the reason when it is no JSON, and
    UnsupportedFile for too much of it."""
    if not data.strip():
        raise CorruptFile(f"{file}: the file is empty; {way_out}")
    if data.lstrip()[:1] == b"<":
        raise CorruptFile(
            f"{file}: it is a web page, not JSON: the download was refused or needs a login; "
            f"{way_out}"
        )
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise UnsupportedFile(
            f"{file}: it holds more than {MAX_JSON_VALUES:,} values, and so many are not read"
        )
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise CorruptFile(f"{file}: it is nested too deeply; {way_out}") from None
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{file}: it is not UTF-8 text; {way_out}") from error
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise CorruptFile(f"{file}: it holds a number of thousands of digits") from error
        raise CorruptFile(f"{file}: it is not valid JSON ({error}); {way_out}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key[:80]!r} stands there twice")
        table[key] = value
    return table


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value
