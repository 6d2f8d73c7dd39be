"""JSON that Python's json would take and that must not pass."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from changes import changed, examples
from hypothesis import given
from hypothesis import strategies as st

from llamainspect.errors import CorruptFile, MissingFile, UnsupportedFile
from llamainspect.formats.strict_json import parse_json, read_json_object
from llamainspect.sources import Folder

FILE = "params.json"


def read(directory: Path, data: bytes | str) -> dict[str, Any]:
    (directory / FILE).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_json_object(Folder(str(directory)), FILE)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"dim": 4096, "norm_eps": 1e-05, "vocab_size": -1},
        {"a": [1, 2.5, None, True, "x", {"b": []}]},
        {"nested": {"a": 1}, "a": 2},
        {"wörter": "\u2603 \U0001f999", "": ""},
        {"big": 2**200, "small": 5e-324, "large": 1.7e308},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_is_read_as_json_reads_it(value: Any, indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(value, indent=indent)
    assert read(tmp_path, text) == json.loads(text)


def test_a_byte_order_mark_and_white_space_are_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf\r\n {"dim": 8}\n\n') == {"dim": 8}


REFUSED: dict[str, tuple[bytes | str, str]] = {
    "an empty file": ("", "empty"),
    "white space": (" \n\t ", "empty"),
    "a web page": ("<!DOCTYPE html><html></html>", "web page"),
    "a web page after white space": ("\n\n  <html>", "web page"),
    "NaN": ('{"norm_eps": NaN}', "NaN"),
    "Infinity": ('{"norm_eps": Infinity}', "Infinity"),
    "minus Infinity": ('{"norm_eps": -Infinity}', "-Infinity"),
    "a number that overflows": ('{"rope_theta": 1e400}', "1e400"),
    "a negative number that overflows": ('{"rope_theta": -1e400}', "-1e400"),
    "a number that overflows deep inside": ('{"a": {"b": [1, 1e999]}}', "1e999"),
    "a key twice": ('{"dim": 1, "n_layers": 2, "dim": 1}', "'dim'"),
    "a key twice, once escaped": (r'{"dim": 1, "\u0064im": 2}', "'dim'"),
    "a key twice deep inside": ('{"a": [{"dim": 1, "dim": 2}]}', "'dim'"),
    "a list": ('[{"dim": 1}]', "list"),
    "a number": ("5", "a number where"),
    "a text": ('"dim"', "text where"),
    "null": ("null", "null where"),
    "half an object": ('{"dim": 4096, "n_lay', "not valid JSON"),
    "something behind it": ('{"dim": 1} {"dim": 2}', "not valid JSON"),
    "single quotes": ("{'dim': 1}", "not valid JSON"),
    "a trailing comma": ('{"dim": 1,}', "not valid JSON"),
    "a comment": ('{"dim": 1} // it', "not valid JSON"),
    "a bare control character": ('{"dim\n": 1}', "not valid JSON"),
    "a hexadecimal number": ('{"dim": 0x10}', "not valid JSON"),
    "Latin-1": (b'{"w\xf6rter": 1}', "UTF-8"),
    "UTF-16": ('{"dim": 1}'.encode("utf-16"), "UTF-8"),
    "a NUL byte": (b'{"dim": 1}\0', "not valid JSON"),
    "an integer of 5,000 digits": (
        '{"dim": ' + "1" * 5000 + "}",
        "a number of thousands",
    ),
    "100,000 lists in each other": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "deeply"),
    "100,000 objects in each other": ('{"a": ' * 100_000 + "1" + "}" * 100_000, "deeply"),
    "100,000 brackets that never close": ("[" * 100_000, "deeply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_strict_object_gets_a_sentence(name: str, tmp_path: Path) -> None:
    data, words = REFUSED[name]
    with pytest.raises(CorruptFile, match=rf"^params\.json: .*{words}"):
        read(tmp_path, data)


def test_the_sentence_about_a_hostile_key_stays_short(tmp_path: Path) -> None:
    key = "k" * 1_000_000
    with pytest.raises(CorruptFile) as caught:
        read(tmp_path, f'{{"{key}": 1, "{key}": 2}}')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("empty", ["[]", "{}", "0"])
def test_a_million_values_are_too_many_which_is_nobodys_damage(empty: str, tmp_path: Path) -> None:
    data = '{"a": [' + f"{empty}," * 1_000_000 + f"{empty}]}}"
    with pytest.raises(UnsupportedFile, match=r"^params\.json: it holds more than 500,000 values"):
        read(tmp_path, data)


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(2**33)  # a hole
    with pytest.raises(UnsupportedFile, match=r"^params\.json: its 8,589,934,592 bytes"):
        read_json_object(Folder(str(tmp_path)), FILE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"params\.json"):
        read_json_object(Folder(str(tmp_path)), FILE)


GUARDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from llamainspect.errors import CorruptFile
from llamainspect.formats.strict_json import read_json_object
from llamainspect.sources import Folder
try:
    read_json_object(Folder(sys.argv[1]), "params.json")
except CorruptFile as error:
    print(error)
"""  # a bound that holds the machine up, far from any measured value


@pytest.mark.skipif(sys.platform == "win32", reason="limits on time are POSIX's")
def test_one_key_twice_among_very_many_is_found_within_seconds(tmp_path: Path) -> None:
    pairs = ", ".join(f'"{n}": 0' for n in range(200_000))
    (tmp_path / FILE).write_text(f'{{{pairs}, "199999": 1}}')
    child = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path)], capture_output=True, check=False
    )
    assert b"'199999'" in child.stdout, f"exit code {child.returncode}"


# --- anything at all ------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@examples(100)
@given(value=VALUES, ascii=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_any_value_comes_back_as_it_was_written(
    value: Any, ascii: bool, indent: int | None
) -> None:
    data = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    assert parse_json(data, FILE) == value


@examples(100)
@given(data=changed("config"))
def test_any_change_is_read_as_python_reads_it_or_refused(data: bytes) -> None:
    try:
        value = parse_json(data, FILE)
    except CorruptFile:
        return
    assert value == json.loads(data.decode("utf-8-sig"), parse_constant=pytest.fail)
