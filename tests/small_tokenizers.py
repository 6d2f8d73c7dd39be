"""Small tokenizers of the two kinds, trained on the fly, and tokenizer.json files of the same.

Nothing here comes from the package: how a file is set up is spelled out by hand, as Llama 2, Code
Llama and Llama 3 set up theirs.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import sentencepiece
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
RANKS = 700
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
        pair = max(pairs, key=lambda pair: (pairs[pair], pair))
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
        "character_coverage": 0.9,
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
    inner += b"\x15" + _float(score) + b"\x18" + bytes((type,))
    return b"\x0a" + bytes((len(inner),)) + inner


def _float(number: float) -> bytes:
    import struct

    return struct.pack("<f", number)


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
    ranks: dict[bytes, int], pattern: str, special: Iterable[str], *, drop_merge: int | None = None
) -> bytes:
    """tokenizer.json of a rank file, as Hugging Face has it for Llama 3."""
    names = byte_names()
    written = {token: "".join(names[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        merges += [
            (rank, a, b) for a, b in sorted(pairs, key=lambda pair: tuple(map(ranks.get, pair)))
        ]
    merges.sort(key=lambda merge: merge[0])
    if drop_merge is not None:
        del merges[drop_merge]
    model = tokenizers.models.BPE(
        vocab={written[token]: rank for token, rank in ranks.items()},
        merges=[(written[a], written[b]) for _, a, b in merges],
        ignore_merges=True,
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
            (vocab[piece], vocab[a], vocab[b], a, b) for a, b in pairs if not model.is_byte(vocab[a])
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
