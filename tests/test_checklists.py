"""Lists of checksums against the tools that write and read them, and lists that are none."""

import hashlib
import os
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from changes import any_change
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamainspect.checklists import (
    MAX_BAD_LINES,
    MAX_LIST_NBYTES,
    Digest,
    Digests,
    contradictions,
    format_line,
    is_list,
    join_digests,
    read_lists,
)
from llamainspect.sources import Folder

LIST = "checklist.chk"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"  # of nothing, as RFC 1321 has it
MD5_A = "0cc175b9c0f1b6a831c399e269772661"  # of "a", as RFC 1321 has it
SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"  # of "abc", FIPS 180
SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not have")


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def output(*command: str, cwd: Path, stdin: bytes | None = None) -> bytes:
    run = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, timeout=60, check=True)
    return run.stdout


def read(directory: Path, content: bytes | str, name: str = LIST) -> Digests:
    """The one list `name` with this content, in a directory."""
    data = content if isinstance(content, bytes) else content.encode()
    (directory / name).write_bytes(data)
    return read_lists(Folder(str(directory), only=name), [""])


def rows(found: Digests) -> list[tuple[str, str, str]]:
    return [(digest.file, digest.algorithm, digest.digest) for digest in found.digests]


def problems(found: Digests) -> list[tuple[str, str]]:
    return [(finding.severity, finding.message) for finding in found.findings]


# --- the forms of a line --------------------------------------------------------------------------

LINES = {
    "GNU, text": (f"{MD5}  params.json", "params.json", "md5"),
    "GNU, binary": (f"{MD5} *params.json", "params.json", "md5"),
    "one space": (f"{MD5} params.json", "params.json", "md5"),
    "a tab": (f"{MD5}\tparams.json", "params.json", "md5"),
    "upper case": (f"{MD5.upper()}  params.json", "params.json", "md5"),
    "a name with spaces": (f"{MD5}  my model (1).pth", "my model (1).pth", "md5"),
    "a name beyond ASCII": (f"{MD5}  modèle-羊驼.pth", "modèle-羊驼.pth", "md5"),
    "SHA-1": (f"{SHA1}  params.json", "params.json", "sha1"),
    "SHA-224": (f"{'0' * 56}  params.json", "params.json", "sha224"),
    "SHA-256": (f"{SHA256}  params.json", "params.json", "sha256"),
    "SHA-384": (f"{'0' * 96}  params.json", "params.json", "sha384"),
    "SHA-512": (f"{'0' * 128}  params.json", "params.json", "sha512"),
    "BSD, MD5": (f"MD5 (params.json) = {MD5}", "params.json", "md5"),
    "BSD, SHA1": (f"SHA1 (params.json) = {SHA1}", "params.json", "sha1"),
    "BSD, SHA256": (f"SHA256 (params.json) = {SHA256}", "params.json", "sha256"),
    "BSD, SHA-256": (f"SHA-256 (params.json) = {SHA256}", "params.json", "sha256"),
    "BSD, SHA2-256": (f"SHA2-256(params.json)= {SHA256}", "params.json", "sha256"),
    "BSD, upper case": (f"MD5 (params.json) = {MD5.upper()}", "params.json", "md5"),
    "BSD, a name with parentheses": (f"MD5 (a) = (b) = {MD5}", "a) = (b", "md5"),
    "BSD, a name with spaces": (f"MD5 (my model.pth) = {MD5}", "my model.pth", "md5"),
    "OpenSSL, MD5": (f"MD5(params.json)= {MD5}", "params.json", "md5"),
    "the folder itself before the name": (f"{MD5}  ./params.json", "params.json", "md5"),
    "a folder below": (f"{MD5}  7B/params.json", "7B/params.json", "md5"),
    "a folder below and back": (f"{MD5}  7B/../params.json", "params.json", "md5"),
    "an escaped backslash": (f"\\{MD5}  a\\\\b", "a\\b", "md5"),
    "an escaped newline": (f"\\{MD5}  a\\nb", "a\nb", "md5"),
    "an escaped carriage return": (f"\\{MD5}  a\\rb", "a\rb", "md5"),
    "a backslash before an n, escaped": (f"\\{MD5}  a\\\\nb", "a\\nb", "md5"),
    "BSD, an escaped newline": (f"\\MD5 (a\\nb) = {MD5}", "a\nb", "md5"),
    "a backslash without the mark in front": (f"{MD5}  a\\nb", "a\\nb", "md5"),
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", ""], ids=["LF", "CRLF", "no line end"])
@pytest.mark.parametrize("form", LINES)
def test_a_line_of_every_form_is_read(form: str, line_end: str, tmp_path: Path) -> None:
    line, name, algorithm = LINES[form]
    found = read(tmp_path, line + line_end)
    digits = next(part for part in (MD5, SHA1, SHA256, "0" * 128, "0" * 96, "0" * 56)
                  if part in line.lower())  # fmt: skip
    assert rows(found) == [(name, algorithm, digits)]
    assert found.digests[0].origin == "checklist.chk, line 1"
    assert found.findings == ()
    assert [(entry.name, entry.digests) for entry in found.lists] == [(LIST, 1)]


ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 as PowerShell writes it": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "UTF-16, big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_in_the_encodings_of_windows_is_read(encoding: str, tmp_path: Path) -> None:
    text = f"{MD5}  params.json\r\n{MD5_A}  modèle.pth\r\n"
    found = read(tmp_path, ENCODINGS[encoding](text))
    assert rows(found) == [("params.json", "md5", MD5), ("modèle.pth", "md5", MD5_A)]
    assert found.findings == ()


def test_comments_and_blank_lines_are_passed_over_and_counted_in_the_line_number(
    tmp_path: Path,
) -> None:
    text = f"# made today\n\n; another\n  \t\n\r\n  # indented\n{MD5}  a\n\n{MD5_A}  b"
    found = read(tmp_path, text)
    assert [digest.origin for digest in found.digests] == [f"{LIST}, line 7", f"{LIST}, line 9"]
    assert found.findings == ()


def test_each_line_has_the_algorithm_of_its_own_digest(tmp_path: Path) -> None:
    found = read(tmp_path, f"{MD5}  a\n{SHA256}  b\nSHA1 (c) = {SHA1}\n{MD5_A}  d\n")
    assert [digest.algorithm for digest in found.digests] == ["md5", "sha256", "sha1", "md5"]


@posix_only
def test_a_name_that_is_not_utf_8_is_that_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, MD5.encode() + b"  caf\xe9.pth\n")
    assert os.fsencode(found.digests[0].file) == b"caf\xe9.pth"


@pytest.mark.parametrize(
    ("name", "digest", "file"),
    [
        ("consolidated.00.pth.md5", MD5, "consolidated.00.pth"),
        ("model.safetensors.sha256", SHA256, "model.safetensors"),
        ("model.safetensors.SHA256", SHA256.upper(), "model.safetensors"),
        ("model.safetensors.sha256sum", SHA256, "model.safetensors"),
        ("model.safetensors.sha256.txt", SHA256, "model.safetensors"),
        ("params.json.sha1", SHA1, "params.json"),
    ],
)
def test_a_bare_digest_is_that_of_the_file_the_list_is_named_after(
    name: str, digest: str, file: str, tmp_path: Path
) -> None:
    found = read(tmp_path, f"{digest}\n", name)
    assert [(row.file, row.digest) for row in found.digests] == [(file, digest.lower())]
    assert found.findings == ()


@pytest.mark.parametrize("name", [LIST, "SHA256SUMS", "sha256sums.txt", "md5sum.txt"])
def test_a_bare_digest_in_a_list_of_many_files_is_no_checksum(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, f"{SHA256}\n", name)
    assert found.digests == ()
    assert [severity for severity, _ in problems(found)] == ["error"]


def test_a_list_named_after_a_file_may_spell_the_name_out(tmp_path: Path) -> None:
    found = read(tmp_path, f"{SHA256}  other.pth\n", "model.pth.sha256")
    assert [row.file for row in found.digests] == ["other.pth"]


# --- names of lists -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "checklist.chk", "tokenizer_checklist.chk", "CHECKLIST.CHK", "7B/checklist.chk",
        "SHA256SUMS", "SHA256SUMS.txt", "sha256sum.txt", "MD5SUMS", "md5sum", "checksums.txt",
        "CHECKSUMS", "checksums.md5", "checksums.sha256", "sha1sums", "sha512sums",
        "consolidated.00.pth.md5", "model.safetensors.sha256", "a.sha256sum", "a.sha512sums",
        "a.md5.txt",
    ],
)  # fmt: skip
def test_a_list_is_known_by_its_name(name: str) -> None:
    assert is_list(name)


@pytest.mark.parametrize(
    "name",
    ["params.json", "consolidated.00.pth", "model.safetensors", "README.md", "checklist", ".md5",
     "md5", "sha256", "checklist.chk.bak", "SHA256SUMS.asc", "SHA256SUMS.sig", "checksums.json",
     "x.md5/params.json"],
)  # fmt: skip
def test_other_files_are_not_taken_for_lists(name: str) -> None:
    assert not is_list(name)


# --- the tools as referees ------------------------------------------------------------------------

CONTENTS = {"params.json": b'{"dim": 64}', "my model (1).pth": bytes(range(256)) * 9, "empty": b""}


def write_contents(directory: Path) -> list[tuple[str, bytes]]:
    for name, data in CONTENTS.items():
        (directory / name).write_bytes(data)
    return list(CONTENTS.items())


TOOLS = [
    *(
        (algorithm, (f"{algorithm}sum", *options))
        for algorithm in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
        for options in ((), ("--binary",), ("--tag",))
    ),
    *(
        (algorithm, ("openssl", "dgst", f"-{algorithm}", *options))
        for algorithm in ("md5", "sha1", "sha256", "sha512")
        for options in ((), ("-r",))
    ),
]


@pytest.mark.parametrize(
    ("algorithm", "command"), [pytest.param(*tool, id=" ".join(tool[1])) for tool in TOOLS]
)
def test_what_a_tool_writes_is_read(
    algorithm: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    expected = [
        (name, algorithm, hashlib.new(algorithm, data).hexdigest())
        for name, data in write_contents(tmp_path)
    ]
    found = read(tmp_path, output(*command, *CONTENTS, cwd=tmp_path))
    assert rows(found) == expected
    assert found.findings == ()


def _is_told_apart_from_a_path(name: bytes) -> bool:
    """Names that lead out of a directory on some system are refused on all; see below."""
    parts = name.replace(b"\\", b"/").split(b"/")
    return not name.startswith(b"\\") and name[1:2] != b":" and b".." not in parts


SPECIAL = st.sampled_from([*b" \t\r\n\\*()=#;:.aA0\x7f\x0b\x85\xff\xe9"])
FILE_NAMES = (
    st.lists(st.one_of(SPECIAL, st.integers(1, 255)), min_size=1, max_size=20)
    .map(bytes)
    .filter(lambda name: b"/" not in name and name not in (b".", b"..", b"-", LIST.encode()))
    .filter(_is_told_apart_from_a_path)
)


@posix_only
@needs("md5sum")
@pytest.mark.parametrize("options", [(), ("--binary",), ("--tag",)], ids=["text", "binary", "tag"])
@settings(max_examples=40, deadline=None)
@given(names=st.lists(FILE_NAMES, min_size=1, max_size=8, unique=True))
def test_what_md5sum_writes_is_read_back_exactly(
    options: tuple[str, ...], names: list[bytes]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        files = _make_files(directory, names)
        listed = output("md5sum", *options, "--", *map(os.fsdecode, files), cwd=directory)
        found = read(directory, listed)
    assert [(os.fsencode(row.file), row.digest) for row in found.digests] == [
        (name, hashlib.md5(data).hexdigest()) for name, data in files.items()
    ]
    assert found.findings == ()


@posix_only
@needs("md5sum")
@settings(max_examples=40, deadline=None)
@given(names=st.lists(FILE_NAMES, min_size=1, max_size=8, unique=True))
def test_what_is_written_is_accepted_by_md5sum_and_read_back(names: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        files = _make_files(directory, names)
        lines = "".join(
            format_line(hashlib.md5(data).hexdigest(), os.fsdecode(name))
            for name, data in files.items()
        )
        found = read(directory, os.fsencode(lines))
        output("md5sum", "--check", "--strict", "--quiet", LIST, cwd=directory)  # raises if not
    assert [os.fsencode(row.file) for row in found.digests] == list(files)


def _make_files(directory: Path, names: Iterable[bytes]) -> dict[bytes, bytes]:
    files = {name: b"content of " + name for name in names}
    for name, data in files.items():
        with open(os.path.join(os.fsencode(directory), name), "wb") as file:
            file.write(data)
    return files


@needs("md5sum")
def test_a_line_is_byte_for_byte_that_of_md5sum(tmp_path: Path) -> None:
    names = ["params.json", "my model.pth"] + (["a\\b", "a\nb"] if sys.platform != "win32" else [])
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    expected = output("md5sum", "--", *names, cwd=tmp_path)
    lines = [format_line(hashlib.md5(name.encode()).hexdigest(), name) for name in names]
    assert "".join(lines).encode() == expected


# --- lists that are none --------------------------------------------------------------------------

NO_LISTS = {
    "an empty file": (b"", "empty"),
    "blank lines": (b"\n \n\r\n", "names no file"),
    "a comment alone": (b"# nothing yet\n", "names no file"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>Access denied</body></html>\n", "web page"),
    "HTML behind blank lines": (b"\r\n\n  <HTML lang=en>\n", "web page"),
    "HTML with a byte order mark": (b"\xef\xbb\xbf<html>", "web page"),
    "HTML that holds one good line": (f"<html>\n{MD5}  params.json\n</html>".encode(), "web page"),
    "the XML of a storage service": (b'<?xml version="1.0"?>\n<Error></Error>', "web page"),
    "binary": (b"PK\x03\x04\0\0\0\0", "no text"),
    "binary that holds one good line": (f"\0\n{MD5}  params.json\n".encode(), "no text"),
}


@pytest.mark.parametrize("kind", NO_LISTS)
def test_what_is_no_list_is_one_error_that_says_what_it_is(kind: str, tmp_path: Path) -> None:
    data, words = NO_LISTS[kind]
    found = read(tmp_path, data)
    assert found.digests == ()
    assert [(entry.name, entry.digests) for entry in found.lists] == [(LIST, 0)]
    ((severity, message),) = problems(found)
    assert severity == "error"
    assert words in message
    assert "get it again" in message or "get the list again" in message


def test_a_list_too_long_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / LIST).open("wb") as file:
        file.truncate(MAX_LIST_NBYTES + 1)  # a hole
    found = read_lists(Folder(str(tmp_path)), [""])
    assert found.digests == ()
    assert problems(found) == [("error", "1,048,577 bytes are too many for a list of checksums")]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no FIFOs on Windows")
def test_a_fifo_or_a_dangling_link_in_place_of_a_list_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LIST)
    os.symlink("nowhere", tmp_path / "SHA256SUMS")
    found = read_lists(Folder(str(tmp_path)), [""])
    assert found.digests == ()
    assert [(finding.severity, finding.where) for finding in found.findings] == [
        ("error", "SHA256SUMS"),
        ("error", LIST),
    ]


def test_a_directory_with_the_name_of_a_list_is_no_list(tmp_path: Path) -> None:
    (tmp_path / LIST).mkdir()
    assert read_lists(Folder(str(tmp_path)), [""]) == Digests((), (), ())


# --- lines that are none --------------------------------------------------------------------------

DAMAGED = {
    "31 digits": f"{MD5[:-1]}  b",
    "33 digits": f"{MD5}0  b",
    "63 digits": f"{SHA256[:-1]}  b",
    "an O for a zero": f"{'O' + MD5[1:]}  b",
    "a digest without a name": f"{MD5}  ",
    "BSD, 31 digits": f"MD5 (b) = {MD5[:-1]}",
    "BSD, MD5 of the length of SHA-256": f"MD5 (b) = {SHA256}",
    "BSD, SHA256 of the length of MD5": f"SHA256 (b) = {MD5}",
    "BSD, SHA512 of the length of SHA-256": f"SHA512 (b) = {SHA256}",
    "BSD, SHA3 of the length of SHA-256": f"SHA3-256 (b) = {SHA256}",
    "BSD, SHA-512/256": f"SHA512/256 (b) = {SHA256}",
    "BSD, SM3 of the length of SHA-256": f"SM3 (b) = {SHA256}",
    "BSD, BLAKE2b of the length of SHA-512": f"BLAKE2b (b) = {'0' * 128}",
    "BSD, without a name": f"MD5 () = {MD5}",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_checksum_is_an_error_and_the_other_lines_count(
    kind: str, tmp_path: Path
) -> None:
    found = read(tmp_path, f"{MD5}  a\n{DAMAGED[kind]}\n{MD5_A}  c\n")
    assert [digest.file for digest in found.digests] == ["a", "c"]
    ((severity, message),) = problems(found)
    assert severity == "error"
    assert message.startswith("line 2 is a checksum that is damaged or of an unknown kind: ")


def test_a_line_of_other_text_is_a_warning_beside_good_ones_and_an_error_alone(
    tmp_path: Path,
) -> None:
    beside = read(tmp_path, f"{MD5}  a\nhello, world\n")
    assert problems(beside) == [("warning", "line 2 is no checksum: 'hello, world'")]
    alone = read(tmp_path, "hello, world\n")
    assert problems(alone) == [("error", "line 1 is no checksum: 'hello, world'")]


@pytest.mark.parametrize("more", [1, 2, 3000])
def test_many_bad_lines_are_named_one_by_one_up_to_a_limit_and_then_counted(
    more: int, tmp_path: Path
) -> None:
    found = read(tmp_path, f"{MD5}  a\n" + "hello\n" * (MAX_BAD_LINES + more))
    messages = [message for _, message in problems(found)]
    assert [message.split(" is ")[0] for message in messages[:-1]] == [
        f"line {number}" for number in range(2, 2 + MAX_BAD_LINES)
    ]
    assert messages[-1].startswith(f"{more:,} more line{'s' if more > 1 else ''} that ")


def test_a_damaged_checksum_behind_many_bad_lines_is_still_an_error(tmp_path: Path) -> None:
    text = f"{MD5}  a\n" + "hello\n" * MAX_BAD_LINES + f"{MD5[:-1]}  b\n"
    severities = [severity for severity, _ in problems(read(tmp_path, text))]
    assert severities == ["warning"] * MAX_BAD_LINES + ["error"]


def test_a_very_long_line_is_shown_in_part(tmp_path: Path) -> None:
    ((_, message),) = problems(read(tmp_path, "x" * 1_000_000))
    assert len(message) < 200


def test_a_name_longer_than_any_file_has_is_no_checksum(tmp_path: Path) -> None:
    found = read(tmp_path, f"{MD5}  {'x' * 5000}\n")
    assert found.digests == ()
    assert [severity for severity, _ in problems(found)] == ["error"]


# --- names that are not followed ------------------------------------------------------------------

AWAY = {
    "the folder above": "../secret",
    "two folders above": "../../secret",
    "the folder above, behind blanks": "  ../secret",
    "the folder above, before blanks": "../secret \t",
    "an absolute path behind a blank": " /etc/passwd",
    "above by a detour": "7B/../../secret",
    "the folder above itself": "..",
    "an absolute path": "/etc/passwd",
    "a Windows drive": "C:\\secret",
    "a Windows drive with a slash": "c:/secret",
    "a Windows share": "\\\\server\\share\\secret",
    "the root of a Windows drive": "\\secret",
    "the folder above, as Windows spells it": "..\\secret",
    "above by a detour, as Windows spells it": "7B\\..\\..\\secret",
}


@pytest.mark.parametrize(
    "form", ["{digest}  {name}", "{digest} *{name}", "MD5 ({name}) = {digest}"]
)
@pytest.mark.parametrize("kind", AWAY)
def test_a_name_that_leaves_the_directory_is_reported_and_not_followed(
    kind: str, form: str, tmp_path: Path
) -> None:
    line = form.format(digest=MD5, name=AWAY[kind])
    found = read(tmp_path, f"{line}\n{MD5_A}  good\n")
    assert [digest.file for digest in found.digests] == ["good"]
    ((severity, message),) = problems(found)
    assert severity == "error"
    assert message.startswith("line 1 names ")
    assert message.endswith("it was not opened")


@posix_only
def test_an_escaped_name_that_leaves_the_directory_is_not_followed(tmp_path: Path) -> None:
    found = read(tmp_path, f"\\{MD5}  ../a\\nb\n")
    assert found.digests == ()
    assert "outside of its directory" in found.findings[0].message


def test_a_name_behind_a_link_that_leads_away_is_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"")
    (inside / "real").mkdir()
    os.symlink(outside, inside / "away", target_is_directory=True)
    os.symlink("real", inside / "near", target_is_directory=True)
    found = read(inside, f"{MD5}  away/secret\n{MD5}  near/file\n{MD5}  real/file\n")
    assert [digest.file for digest in found.digests] == ["near/file", "real/file"]
    ((severity, message),) = problems(found)
    assert severity == "error"
    assert message.startswith("line 1 names 'away/secret'")


@pytest.mark.parametrize("name", [LIST, f"./{LIST}", f"7B/../{LIST}"])
def test_a_list_that_lists_itself_is_a_note_since_no_list_can_hold_its_own_digest(
    name: str, tmp_path: Path
) -> None:
    found = read(tmp_path, f"{MD5}  {name}\n{MD5_A}  a\n")
    assert [digest.file for digest in found.digests] == ["a"]
    assert [severity for severity, _ in problems(found)] == ["note"]


def test_a_list_may_name_another_list(tmp_path: Path) -> None:
    found = read(tmp_path, f"{MD5}  tokenizer_checklist.chk\n")
    assert [digest.file for digest in found.digests] == ["tokenizer_checklist.chk"]


def test_a_name_with_a_nul_in_a_list_of_utf_16_is_no_crash(tmp_path: Path) -> None:
    text = f"{MD5}  a\0/b\n{MD5}  c\0d\n{MD5_A}  good\n"
    found = read(tmp_path, b"\xff\xfe" + text.encode("utf-16-le"))
    assert [digest.file for digest in found.digests if "\0" not in digest.file] == ["good"]
    assert not any("\0" in digest.file for digest in found.digests)  # no file can be called that
    assert found.findings


# --- several lists --------------------------------------------------------------------------------


def digest(file: str, value: str, algorithm: str = "md5") -> Digest:
    return Digest(file, algorithm, value, "somewhere")


def test_a_contradiction_is_one_file_with_two_digests_of_one_algorithm() -> None:
    good = (digest("a", MD5), digest("a", SHA256, "sha256"), digest("b", MD5_A), digest("a", MD5))
    assert list(contradictions(good)) == []
    other = digest("a", MD5_A)
    assert list(contradictions((*good, other))) == [(good[0], other)]


def test_upper_and_lower_case_of_one_digest_do_not_contradict(tmp_path: Path) -> None:
    found = read(tmp_path, f"{MD5}  a\n{MD5.upper()}  ./a\n")
    assert len(found.digests) == 2
    assert list(contradictions(found.digests)) == []


def test_all_lists_of_the_directories_are_read_with_names_relative_to_each(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / LIST).write_text(f"{MD5}  params.json\n")
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  original/params.json\n")
    (tmp_path / "original" / LIST).write_text(f"{MD5_A}  params.json\n{MD5}  ../params.json\n")
    found = read_lists(Folder(str(tmp_path)), ["", "original"])
    assert rows(found) == [
        ("original/params.json", "sha256", SHA256),
        ("params.json", "md5", MD5),
        ("original/params.json", "md5", MD5_A),
    ]
    assert [entry.name for entry in found.lists] == ["SHA256SUMS", LIST, f"original/{LIST}"]
    # What lies above the list's own directory is not its business, though it is in the folder.
    assert [finding.where for finding in found.findings] == [f"original/{LIST}"]


def test_one_list_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / LIST).write_text(f"{MD5}  a\n")
    (tmp_path / "MD5SUMS").write_text(f"{MD5}  b\n")
    found = read_lists(Folder(str(tmp_path)), [""], without=LIST)
    assert [row.file for row in found.digests] == ["b"]


def test_a_list_that_the_person_named_is_the_only_one_read(tmp_path: Path) -> None:
    (tmp_path / LIST).write_text(f"{MD5}  a\n")
    (tmp_path / "MD5SUMS").write_text(f"{MD5}  b\n")
    found = read_lists(Folder(str(tmp_path), only="MD5SUMS"), [""])
    assert [row.file for row in found.digests] == ["b"]


def test_several_findings_of_digests_are_one_in_their_order(tmp_path: Path) -> None:
    one, two = read(tmp_path, f"{MD5}  a\nbad\n"), read(tmp_path, f"{MD5}  b\n")
    both = join_digests(one, two)
    assert both == Digests(one.digests + two.digests, one.lists + two.lists, one.findings)
    assert join_digests() == Digests((), (), ())


# --- lists one level up ---------------------------------------------------------------------------


@pytest.fixture
def llama_1(tmp_path: Path) -> Path:
    """Meta's layout of 2023: the tokenizer above, a folder for each model."""
    for model in ("7B", "13B"):
        (tmp_path / model).mkdir()
        for name in ("consolidated.00.pth", "params.json"):
            (tmp_path / model / name).write_bytes(b"x")
        lines = f"{MD5}  consolidated.00.pth\n{MD5_A}  params.json\n"
        (tmp_path / model / LIST).write_text(lines)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    (tmp_path / "tokenizer_checklist.chk").write_text(f"{SHA256}  tokenizer.model\n")
    return tmp_path


def test_the_tokenizer_of_llama_1_is_checked_by_the_list_above(llama_1: Path) -> None:
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert rows(found) == [
        ("consolidated.00.pth", "md5", MD5),
        ("params.json", "md5", MD5_A),
        ("../tokenizer.model", "sha256", SHA256),
    ]
    assert [(entry.name, entry.digests) for entry in found.lists] == [
        (LIST, 2),
        ("../tokenizer_checklist.chk", 1),
    ]
    assert found.digests[-1].origin == "../tokenizer_checklist.chk, line 1"
    assert found.findings == ()


def test_a_tokenizer_beside_the_weights_is_not_the_one_above(llama_1: Path) -> None:
    (llama_1 / "7B" / "tokenizer.model").write_bytes(b"x")
    (llama_1 / "other").write_bytes(b"x")  # that the list above is not meant for this directory
    (llama_1 / "tokenizer_checklist.chk").write_text(f"{MD5}  tokenizer.model\n{MD5}  other\n")
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert [row.file for row in found.digests] == ["consolidated.00.pth", "params.json"]


def test_of_a_list_above_only_what_concerns_this_directory_counts(llama_1: Path) -> None:
    (llama_1 / "7B" / LIST).unlink()
    (llama_1 / LIST).write_text(
        f"{MD5}  7B/consolidated.00.pth\n{MD5_A}  13B/consolidated.00.pth\n{MD5_A}  LICENSE\n"
    )
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert [(row.file, row.origin) for row in found.digests] == [
        ("consolidated.00.pth", f"../{LIST}, line 1"),
        ("../tokenizer.model", "../tokenizer_checklist.chk, line 1"),
    ]


def test_a_list_that_was_put_one_level_too_high_counts(tmp_path: Path) -> None:
    (tmp_path / "7B").mkdir()
    (tmp_path / "7B" / "params.json").write_bytes(b"x")
    (tmp_path / LIST).write_text(f"{MD5}  params.json\n{MD5_A}  consolidated.00.pth\n")
    found = read_lists(Folder(str(tmp_path / "7B")), [""])
    assert rows(found) == [("params.json", "md5", MD5), ("consolidated.00.pth", "md5", MD5_A)]


def test_a_list_above_that_concerns_other_directories_alone_is_not_mentioned(
    llama_1: Path,
) -> None:
    (llama_1 / "tokenizer_checklist.chk").unlink()
    (llama_1 / LIST).write_text(f"{MD5}  13B/consolidated.00.pth\nhello\n")
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert [entry.name for entry in found.lists] == [LIST]
    assert found.findings == ()


def test_a_list_above_of_files_that_are_nowhere_is_not_about_this_directory(tmp_path: Path) -> None:
    (tmp_path / "7B").mkdir()
    (tmp_path / "7B" / "params.json").write_bytes(b"x")
    (tmp_path / LIST).write_text(f"{MD5}  consolidated.00.pth\n")
    assert read_lists(Folder(str(tmp_path / "7B")), [""]).digests == ()


def test_a_web_page_in_place_of_the_list_above_is_told(llama_1: Path) -> None:
    (llama_1 / "tokenizer_checklist.chk").write_text("<!DOCTYPE html>")
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert [finding.where for finding in found.findings] == ["../tokenizer_checklist.chk"]
    assert "web page" in found.findings[0].message


def test_other_lists_above_are_not_read(llama_1: Path) -> None:
    (llama_1 / "SHA256SUMS").write_text(f"{SHA256}  7B/params.json\n")
    found = read_lists(Folder(str(llama_1 / "7B")), [""])
    assert not any("SHA256SUMS" in row.origin for row in found.digests)


def test_for_one_file_the_lists_above_are_not_read(llama_1: Path) -> None:
    found = read_lists(Folder(str(llama_1 / "7B"), only="params.json"), [""])
    assert [row.file for row in found.digests] == ["consolidated.00.pth", "params.json"]


# --- anything at all ------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [MD5, MD5.upper(), SHA256, MD5[:31], "  ", " *", "\t", "\n", "\r\n", "\\", "\\n", "../", "/",
     "C:\\", "MD5 (", "SHA256(", ") = ", ")= ", "#", "\ufeff", "\0", "a", "é", "..", "."]
)  # fmt: skip
LIST_LIKE = st.lists(PIECES, max_size=30).map("".join)
CONTENT = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=300).map(lambda data: b"\xff\xfe" + data),
    LIST_LIKE.map(str.encode),
    LIST_LIKE.map(lambda text: b"\xff\xfe" + text.encode("utf-16-le")),
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=CONTENT, name=st.sampled_from([LIST, "SHA256SUMS", "model.pth.sha256"]))
def test_whatever_stands_in_a_list_nothing_leads_away_and_nothing_is_raised(
    content: bytes, name: str, tmp_path: Path
) -> None:
    found = read(tmp_path, content, name)
    for row in found.digests:
        assert set(row.digest) <= set(string.hexdigits.lower())
        assert not os.path.isabs(row.file)
        assert ".." not in row.file.split("/")
        assert row.file != name
        Folder(str(tmp_path)).obstacle(row.file)  # must be able to look for it
    if not found.digests:
        assert found.findings


test_any_change_to_a_list_is_answered = any_change("checklist", 60)
