"""tiktoken's rank file: what is read, and the sentence for each kind of damage."""

import base64
import random
import re

import pytest
from changes import any_change, examples
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import rank_file, rank_lines, train_ranks

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.ranks import parse_ranks

FILE = "tokenizer.model"
LINES = rank_lines(train_ranks())


def refusal(data: bytes) -> str:
    """What the error says after the name of the file."""
    with pytest.raises(CorruptFile) as caught:
        parse_ranks(data, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")
    return str(caught.value).removeprefix(f"{FILE}: ")


def line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d" % rank


def referee(data: bytes) -> dict[bytes, int]:
    """As tiktoken and Meta's code read it. Raises ValueError where they do."""
    ranks = {}
    for row in data.splitlines():
        if row.strip():
            token, rank = row.split()
            ranks[base64.b64decode(token)] = int(rank)
    return ranks


# --- good files -----------------------------------------------------------------------------------


def test_ranks_are_those_that_were_written():
    assert parse_ranks(rank_file(), FILE) == train_ranks()


def test_ranks_stand_in_their_order():
    shuffled = random.Random(1).sample(LINES, len(LINES))
    ranks = parse_ranks(b"\n".join(shuffled), FILE)
    assert list(ranks.values()) == list(range(len(LINES)))


BROKEN_LINES = b"\n\n" + b"\n   \n\t\n".join(LINES) + b"\n\n\n"
SAME = {
    "no line end at the end": b"\n".join(LINES),
    "a space at the end": b"\n".join(LINES) + b" ",
    "line ends of Windows": b"\r\n".join(LINES) + b"\r\n",
    "line ends of Windows but the last": b"\r\n".join(LINES),
    "line ends of both kinds": b"\r\n".join(LINES[:300]) + b"\n" + b"\n".join(LINES[300:]),
    "line ends of old": b"\r".join(LINES) + b"\r",
    "blank lines": BROKEN_LINES,
    "one blank line at the end": b"\n".join(LINES) + b"\n\n",
    "tabs": b"\n".join(LINES).replace(b" ", b"\t") + b"\n",
    "two spaces": b"\n".join(LINES).replace(b" ", b"  ") + b"\n",
    "spaces around lines": b" \n ".join(LINES),
    "zeros before the numbers": b"\n".join(LINES).replace(b" ", b" 00") + b"\n",
    "backwards": b"\n".join(LINES[::-1]) + b"\n",
    "in any order": b"\n".join(random.Random(0).sample(LINES, len(LINES))) + b"\n",
}


@pytest.mark.parametrize("name", SAME)
def test_another_way_to_write_the_file_gives_the_same_ranks(name):
    assert parse_ranks(SAME[name], FILE) == train_ranks()


# --- damage ---------------------------------------------------------------------------------------


def test_a_file_cut_at_any_byte_is_refused_or_ends_after_a_whole_line():
    data = rank_file()
    wrong = []
    for length in range(len(data)):
        rows = data[:length].split(b"\n")
        whole = rows[:-1] + rows[-1:] * (rows[-1] in LINES)
        try:
            found = parse_ranks(data[:length], FILE)
        except CorruptFile as error:
            said = str(error)
            if len(whole) == len([row for row in rows if row]) >= 256 or FILE not in said[:15]:
                wrong.append((length, said))
        except Exception as error:
            wrong.append((length, repr(error)))
        else:
            if found != referee(b"\n".join(whole)) or len(whole) < 256:
                wrong.append((length, len(found)))
    assert wrong == []


LAST = len(LINES) - 1
DAMAGED = {
    "a token alone in the last line": ([*LINES, b"AAAA"], "line 561 is damaged"),
    "a token and a space in the last line": ([*LINES, b"AAAA "], "line 561 is damaged"),
    "a token alone in the middle": ([*LINES[:300], b"AAAA", *LINES[300:]], "line 301 is damaged"),
    "a rank alone": ([*LINES[:300], b"300", *LINES[300:]], r"line 301 is damaged \('300'"),
    "a rank alone, which the file ends with": (
        [*LINES[:9], b"9", *LINES[9:]],
        "line 10 is damaged",
    ),
    "three fields": ([*LINES[:9], LINES[9] + b" 9", *LINES[10:]], "line 10 is damaged"),
    "two tokens in one line": ([LINES[0] + b" " + LINES[1], *LINES[2:]], "line 1 is damaged"),
    "fields in another order": ([b"0 AAAA", *LINES[1:]], "line 1 is damaged"),
    "signs that are no base64": ([b"@@@@ 0", *LINES[1:]], r"line 1 is damaged \('@@@@ 0'"),
    "base64 without its end": ([*LINES, b"QUI 560"], "line 561 is damaged"),
    "base64 with too long an end": ([*LINES, b"QUI== 560"], "line 561 is damaged"),
    "base64 with an end inside": ([*LINES, b"QQ==QUJD 560"], "line 561 is damaged"),
    "base64 of the other alphabet": ([*LINES, b"-_-_ 560"], "line 561 is damaged"),
    "a rank in words": ([*LINES, b"QUJD many"], "line 561 is damaged"),
    "a rank with a point": ([*LINES, b"QUJD 560.0"], "line 561 is damaged"),
    "a rank in other digits": ([*LINES, "QUJD ٥٦٠".encode()], "line 561 is damaged"),
    "a negative rank": ([*LINES, b"QUJD -1"], r"line 561 is damaged \('QUJD -1'"),
    "a rank of many digits": ([*LINES, b"QUJD " + b"9" * 5000], "line 561|rank 560 is missing"),
    "a rank twice": ([*LINES, line(b"never", 7)], "rank 7 stands there twice"),
    "a line twice": ([*LINES, LINES[300]], "rank 300 stands there twice"),
    "a token twice": (
        [*LINES, line(b"a", len(LINES))],
        rf"ranks {train_ranks()[b'a']} and {len(LINES)} stand for the same bytes, 0x61",
    ),
    "a hole": ([*LINES[:400], *LINES[401:]], f"rank 400 is missing, and ranks go on to {LAST}"),
    "no rank 0": (LINES[1:], f"rank 0 is missing, and ranks go on to {LAST}"),
    "ranks from 1 on": (
        [line(token, rank + 1) for token, rank in train_ranks().items()],
        rf"rank 0 is missing, and ranks go on to {LAST + 1}",
    ),
    "a hole of a billion": ([*LINES, line(b"never", 999_999_999)], "rank 560 is missing"),
    "a web page": ([b"<!DOCTYPE html>", b"<html>"], "line 1 is damaged"),
    "zeros": ([bytes(4000)], "line 1 is damaged"),
    "no line": ([], "it lacks 256 single bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_with_its_place(name):
    lines, words = DAMAGED[name]
    said = refusal(b"\n".join(lines) + b"\n")
    assert re.match(words, said)
    assert said.endswith("download it again")
    assert "cut short" not in said


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_in_the_last_line_without_its_end_is_a_cut(name):
    lines, words = DAMAGED[name]
    last = f"line {len(lines)}" in words or name == "zeros"
    said = refusal(b"\n".join(lines))
    if last:
        words = rf"it ends in the middle of line {len(lines)}, so it was cut short"
    assert re.match(words, said)
    assert said.endswith("download it again")


@pytest.mark.parametrize("byte", [0x00, 0x20, 0x61, 0xFF])
def test_a_missing_single_byte_is_named(byte):
    tokens = [token for token in train_ranks() if token != bytes((byte,))]
    said = refusal(b"\n".join(line(token, rank) for rank, token in enumerate(tokens)))
    assert said.startswith(f"it lacks 1 single byte (the first is 0x{byte:02x})")


def test_missing_single_bytes_are_counted():
    tokens = [token for token in train_ranks() if token not in (b"\x03", b"\x07", b"\xf0")]
    said = refusal(b"\n".join(line(token, rank) for rank, token in enumerate(tokens)))
    assert said.startswith("it lacks 3 single bytes (the first is 0x03)")


@pytest.mark.parametrize("at", [10, 300, 520])
def test_a_line_of_garbage_is_shown_without_its_control_characters(at):
    garbage = b"\x1b[31m\xff\x00" + b"x" * 500
    said = refusal(b"\n".join([*LINES[:at], garbage, *LINES[at:]]))
    assert said.startswith(f"line {at + 1} is damaged")
    assert said.isprintable()
    assert len(said) < 300


def test_changed_bytes_are_refused_or_read_as_the_referee_reads_them():
    generator = random.Random(2)
    wrong = []
    for _ in range(1500):
        data = bytearray(rank_file())
        for _ in range(generator.choice((1, 1, 1, 3))):
            at = generator.randrange(len(data))
            change = generator.choice(("byte", "digit", "drop", "double"))
            if change == "byte":
                data[at] = generator.choice(b"\x00\t\n\r =+/-_A9\x1c\x85\xa0\xff")
            elif change == "digit":
                data[at] = generator.randrange(0x30, 0x3A)
            elif change == "drop":
                del data[at : at + generator.randrange(1, 12)]
            else:
                data[at:at] = data[at : at + generator.randrange(1, 12)]
        try:
            ranks = parse_ranks(bytes(data), FILE)
        except CorruptFile:
            continue
        except Exception as error:
            wrong.append((bytes(data), repr(error)))
            continue
        if ranks != referee(bytes(data)) or sorted(ranks.values()) != list(range(len(ranks))):
            wrong.append((bytes(data), "other ranks"))
    assert wrong == []


@pytest.mark.parametrize("between", [b" 1\n", b" 1\r\n", b" 1 "])
def test_more_ranks_than_any_model_has_are_refused_before_they_are_taken_apart(between):
    with pytest.raises(UnsupportedFile, match="holds more ranks than the 524,288 that are read"):
        parse_ranks((b"eA==" + between) * 800_000, FILE)


# --- anything at all ------------------------------------------------------------------------------


@examples(40)
@given(
    longer=st.lists(st.binary(min_size=2, max_size=6), unique=True, max_size=20),
    random=st.randoms(use_true_random=False),
    ending=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)
def test_any_tokens_in_lines_of_any_order_are_read_as_the_referee_reads_them(
    longer, random, ending
):
    tokens = [bytes((byte,)) for byte in range(256)] + longer
    random.shuffle(tokens)
    lines = [line(token, rank) for rank, token in enumerate(tokens)]
    random.shuffle(lines)
    data = b"".join(row + ending for row in lines)
    assert parse_ranks(data, FILE) == referee(data)
    assert list(parse_ranks(data, FILE)) == tokens


test_any_change_to_a_file_is_read_or_refused = any_change("tiktoken", 40)
