# ruff: noqa: RUF001 - letters of many scripts that look alike are what a tokenizer is tested with
"""Small tokenizers of the two kinds, trained on the fly, and tokenizer.json files of the same.

Nothing here comes from the package: how a file is set up is spelled out by hand, as Llama 2, Code
Llama and Llama 3 set up theirs.
"""

import base64
import io
import json
import os
import random
import struct
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import tokenizers

# Many scripts, and enough repetition for merges that go across words, cases, digits and signs.
TEXT = """The llama grazes; the lambda calculates. HelloWorld, helloWorld, HELLO WORLD! don't DON'T
we've they'll I'm you're he'd it's IT'S   three   spaces and    four; 1234567890 2024-12-31 3.14159
def total(values):\n    return sum(value for value in values if value >= 0)\n\n\n\tprint(f"{x!r}")
Größe, façade, naïve, Ångström, coöperate; Привет, мир! Это лама. Γειά σου Κόσμε. שלום עולם مرحبا
你好，世界。这是一只羊驼。今天天气很好。 こんにちは、世界。ラマです。 안녕하세요 세계 नमस्ते दुनिया
🦙 🦙🦙 👩‍👩‍👧‍👦 👍🏽 <|begin_of_text|> [INST] <<SYS>> //**// https://example.org/a/b?c=d&e=f
The cat sat on the mat and the dog sat on the log. The end of the text is the end of the line.\r\n
"""
BYTES = tuple(dict.fromkeys([*range(0x21, 0x7F), *range(0xA1, 0x100), *range(0x100)]))
RANKS = 560
PIECES = 600
INFILLING = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
STEP = "<step>"
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
LLAMA_4_PATTERN = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
REAL = Path(
    os.environ.get("LLAMAINSPECT_TOKENIZERS")
    or Path(__file__).parents[1].parent / "shared" / "tokenizers"
)


def real(generation: str) -> Path:
    """A released file: Meta's licence keeps it out of this repository."""
    path = REAL / f"{generation}.tokenizer.model"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in LLAMAINSPECT_TOKENIZERS or ../shared/tokenizers")
    return path


# --- texts ----------------------------------------------------------------------------------------

ADVERSARIAL = (
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    "\t\t x",
    "a",
    " a",
    "a ",
    "  a  b   c    ",
    "\n\n  \n \n x \n",
    "x" * 300,
    " " * 300,
    "\n" * 300,
    "7" * 301,
    "1 12 123 1234 12345 1.5 1,000,000 ٣٤٥ ४५ ⅷ ½ ²",
    "HelloWorld helloWORLD iPhone McDonald HTTPServer ǅ ß ẞ İi ıI",
    "don't DON'T Don'T we'Ll they'RE 'tis 's ’s I'd've",
    "def f(x):\n\treturn x ** 2  # 4\n\n\nif __name__ == '__main__':\n    f(1)\n",
    "http://example.org/a//b?c=d#e /// //\n/\n",
    "你好世界这是一只羊驼今天天气很好" * 8,
    "こんにちは世界ラマです안녕하세요세계",
    "नमस्ते ก็ที่ e\u0301\u0301\u0301 Z\u0351\u036b\u0343\u036a ﬁ ﷺ",
    "שלום עולם \u202eمرحبا\u202c \u200f!",
    "👩‍👩‍👧‍👦👍🏽🏳️‍🌈🇩🇪 🦙🦙 ☺ ☺️",
    "\x00\x01\x02\x1b[31m\x7f\x80\x85\x9f",
    "a\u00a0b\u2003c\u200bd\u2028e\u2029f\u3000g\ufeffh\x1ci\x1fj\x0bk\x0cl",
    "\ufeffwith a byte order mark",
    "\ue000\uffff\ufffd\ufffe\U0001ffff\U00020000\U000e0001\U0010ffff",
    "<|begin_of_text|><|eot_id|> <|start_header_id|>user<|end_header_id|>\n\n<|image|>",
    "<s> </s> <unk> <0x41> <0xFF> ▁ ▁▁a ▁<PRE> <PRE> <SUF><MID> <EOT> <step>",
    "<|reserved_special_token_0|",
    "[INST] <<SYS>>\nx\n<</SYS>>\n\ny [/INST]",
    "  ﬁne ½  ℌello",
)
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz     ",
    "aAbBcCeEhHlLoOrRtT'  's't",
    "0123456789 .,-",
    " \n\r\t\u00a0\u3000x",
    "(){}[]<>|/*+-=_;:!?\"'\n  ab",
    "аеиотнПМ ψυχή שלום مرحبا ",
    "世界你好今天天气羊驼。，こんラマ안녕세계",
    "🦙👩👍🏽\u200d\ufe0f🇩🇪☺ ",
    "e\u0301\u0327\u0489नमस्तेก็ที่",
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of few characters, of many, of pieces of TEXT, and of all planes of Unicode."""
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(generator.randrange(1, 6)):
            kind = generator.randrange(4)
            length = generator.choice((1, 2, 5, 20, 60))
            if kind == 0:
                start = generator.randrange(len(TEXT))
                parts.append(TEXT[start : start + length])
            elif kind == 1:
                parts.append("".join(generator.choices(generator.choice(_ALPHABETS), k=length)))
            elif kind == 2:
                parts.append(generator.choice(" \n\ta1'.世🦙") * length)
            else:
                top = generator.choice((0x80, 0x800, 0x10000, 0x110000))
                codes = (generator.randrange(top) for _ in range(length))
                parts.append("".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000))
        texts.append("".join(parts))
    return texts


# --- tiktoken -------------------------------------------------------------------------------------


@cache
def train_ranks(size: int = RANKS) -> dict[bytes, int]:
    """Byte-pair encoding by the book, on whole lines: the pattern of a model cuts through tokens.

    Single bytes come first, in an order that is not theirs by number, as in Meta's files.
    """
    ranks = {bytes((byte,)): rank for rank, byte in enumerate(BYTES)}
    lines = [[bytes((b,)) for b in line.encode()] for line in TEXT.splitlines(keepends=True)]
    while len(ranks) < size:
        pairs = Counter(pair for line in lines for pair in pairwise(line))
        pair = max(pairs, key=lambda pair: (pairs[pair], -len(pair[0] + pair[1]), pair))
        ranks.setdefault(b"".join(pair), len(ranks))
        lines = [_merged(line, pair) for line in lines]
    return ranks


def _merged(line: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    for token in line:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def rank_lines(ranks: dict[bytes, int]) -> list[bytes]:
    """The lines of a rank file, without their ends."""
    return [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]


@cache
def rank_file(size: int = RANKS) -> bytes:
    """tokenizer.model as Llama 3 and 4 have it."""
    return b"\n".join(rank_lines(train_ranks(size))) + b"\n"


def encoding(
    ranks: dict[bytes, int], pattern: str, special: Iterable[str] = ()
) -> tiktoken.Encoding:
    """tiktoken set up as Meta's code does it: the referee."""
    return tiktoken.Encoding(
        "referee",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={name: len(ranks) + n for n, name in enumerate(special)},
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """A rank file as tiktoken's loader reads it, without its cache."""
    rows = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in rows}


# --- SentencePiece --------------------------------------------------------------------------------


@cache
def sentencepiece_file(**settings: object) -> bytes:
    """tokenizer.model as Llama 2 has it; `settings` of the trainer change that."""
    model = io.BytesIO()
    llama_2 = {
        "model_type": "bpe",
        "vocab_size": PIECES,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98,
        "minloglevel": 5,
        "num_threads": 1,
    }
    lines = [line for line in TEXT.splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **llama_2 | settings
    )
    return model.getvalue()


NFKC = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}
NO_BYTES = {"byte_fallback": False, "vocab_size": 300}


def piece_message(text: str, score: float = 0.0, type: int = 1) -> bytes:
    """One piece as protobuf writes it: field 1 of the model; its text, score and type inside."""
    words = text.encode()
    inner = b"\x0a" + bytes((len(words),)) + words
    inner += b"\x15" + struct.pack("<f", score) + b"\x18" + bytes((type,))
    return b"\x0a" + bytes((len(inner),)) + inner


def with_pieces(data: bytes, names: Iterable[str], type: int = 1) -> bytes:
    """The file with pieces added behind its own, which text never reaches by merging.

    So has Code Llama's file the pieces of its infilling.
    """
    end = 0
    while data[end] == 0x0A:  # messages of pieces are shorter than 128 bytes
        end += 2 + data[end + 1]
    added = b"".join(piece_message(name, -1e4, type) for name in names)
    return data[:end] + added + data[end:]


@cache
def code_llama_file(step: bool = False, type: int = 1) -> bytes:
    """tokenizer.model as Code Llama has it; `step`: as Code Llama 70B Instruct."""
    return with_pieces(sentencepiece_file(), (*INFILLING, STEP) if step else INFILLING, type)


def processor(data: bytes) -> sentencepiece.SentencePieceProcessor:
    """Google's own reader: the referee."""
    return sentencepiece.SentencePieceProcessor(model_proto=data)


# --- tokenizer.json -------------------------------------------------------------------------------


def byte_names() -> dict[int, str]:
    """How a byte-level vocabulary writes each byte: GPT-2's table."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain}
    return names | {byte: chr(256 + n) for n, byte in enumerate(rest)}


def byte_level_json(
    ranks: dict[bytes, int], pattern: str, special: Iterable[str], *, drop: bytes | None = None
) -> bytes:
    """tokenizer.json of a rank file, as Hugging Face has it for Llama 3.

    `drop`: without the merges that make this token.
    """
    names = byte_names()
    written = {token: "".join(names[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        merges += [(rank, ranks[a], ranks[b], a, b) for a, b in pairs]
    merges = sorted(merge for merge in merges if merge[3] + merge[4] != drop)
    model = tokenizers.models.BPE(
        vocab={written[token]: rank for token, rank in ranks.items()},
        merges=[(written[a], written[b]) for *_, a, b in merges],
        ignore_merges=drop is None,
    )
    tokenizer = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, normalized=False, special=True) for name in special]
    )
    return tokenizer.to_str().encode()


def sentencepiece_json(data: bytes) -> bytes:
    """tokenizer.json of a SentencePiece file, as Hugging Face has it for Llama 2."""
    model = processor(data)
    vocab = {model.id_to_piece(id): id for id in range(model.vocab_size())}
    normal = [p for p, id in vocab.items() if not (model.is_control(id) or model.is_unknown(id))]
    merges = []
    for piece in normal:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(a, b) for a, b in cuts if a in vocab and b in vocab]
        merges += [
            (vocab[piece], vocab[a], vocab[b], a, b)
            for a, b in pairs
            if not model.is_byte(vocab[a])
        ]
    merges.sort()
    bpe = tokenizers.models.BPE(
        vocab=vocab,
        merges=[(a, b) for *_, a, b in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer.to_str().encode()


def changed_json(data: bytes, **changes: object) -> bytes:
    """The file with other values at its top."""
    return json.dumps(json.loads(data) | changes).encode()
