"""Text to ids and back: the referees are tiktoken, SentencePiece and tokenizers, used directly."""

import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from changes import any_change
from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights, write_native
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import (
    ADVERSARIAL,
    INFILLING,
    LLAMA_3_PATTERN,
    LLAMA_4_PATTERN,
    NFKC,
    NO_BYTES,
    PIECES,
    RANKS,
    STEP,
    byte_level_json,
    changed_json,
    code_llama_file,
    encoding,
    processor,
    random_texts,
    rank_file,
    rank_lines,
    read_ranks,
    real,
    sentencepiece_file,
    sentencepiece_json,
    train_ranks,
)

from llamainspect import open_checkpoint, summarize
from llamainspect.errors import (
    CorruptFile,
    LlamaInspectError,
    MissingFile,
    NotACheckpoint,
    UnsupportedFile,
)
from llamainspect.formats.vocabulary import kind_of, read_vocabulary
from llamainspect.sources import Folder
from llamainspect.tokenization import detokenize, parse_ids, tokenize
from llamainspect.tokenizer import Tokenizer, load_tokenizer, tiktoken_codec
from llamainspect.vocab import describe_vocabulary

MODEL, JSON, PARAMS = "tokenizer.model", "tokenizer.json", "params.json"
LLAMA_4_PARAMS = TINY | {
    "vocab_size": RANKS + 2048,
    "moe_args": {"num_experts": 4, "top_k": 1},
    "use_scaled_rope": True,
}
SURROGATES = st.characters(exclude_categories=("Cs",))
TEXTS = [*ADVERSARIAL, *random_texts(400, seed=1)]


def lay(directory: Path, **files: bytes | dict | None) -> Path:
    """A directory with some of tokenizer.model, tokenizer.json and params.json."""
    directory.mkdir(parents=True, exist_ok=True)
    for word, data in files.items():
        if isinstance(data, dict):
            data = json.dumps(data).encode()
        if data is not None:
            (directory / {"model": MODEL, "json": JSON, "params": PARAMS}[word]).write_bytes(data)
    return directory


def load(directory: Path, **files: bytes | dict | None) -> Tokenizer:
    return load_tokenizer(str(lay(directory, **files)))


# The small tokenizers, each once for the whole module. Ranks: its files and its pattern.
RANK_KINDS = {
    "Llama 3": ({"params": TINY | {"vocab_size": RANKS + 256}}, LLAMA_3_PATTERN),
    "Llama 3.1": ({}, LLAMA_3_PATTERN),
    "Llama 4": ({"params": LLAMA_4_PARAMS}, LLAMA_4_PATTERN),
}
PIECE_KINDS = {
    "Llama 2": sentencepiece_file,
    "Code Llama": code_llama_file,
    "Code Llama 70B": lambda: code_llama_file(step=True),
    "Code Llama, control symbols": lambda: code_llama_file(step=True, type=3),
    "Code Llama, user defined symbols": lambda: code_llama_file(step=True, type=4),
    "NFKC": lambda: sentencepiece_file(**NFKC),
    "without byte fallback": lambda: sentencepiece_file(**NO_BYTES),
    "no space before": lambda: sentencepiece_file(add_dummy_prefix=False),
}
LLAMA_LIKE = [kind for kind in PIECE_KINDS if kind not in ("NFKC", "without byte fallback")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A function that gives the small tokenizer of a kind."""
    known: dict[str, Tokenizer] = {}

    def get(kind: str) -> Tokenizer:
        if kind not in known:
            files = RANK_KINDS[kind][0] if kind in RANK_KINDS else {}
            data = rank_file() if kind in RANK_KINDS else PIECE_KINDS[kind]()
            known[kind] = load(tmp_path_factory.mktemp("small"), model=data, **files)
        return known[kind]

    return get


def differing(texts, encode, referee) -> list[tuple[str, list[int], list[int]]]:
    """Texts of which the two make different ids."""
    rows = ((text, encode(text), referee(text)) for text in texts)
    return [row for row in rows if row[1] != row[2]]


# --- ids are those of the libraries ---------------------------------------------------------------


@pytest.mark.parametrize("kind", RANK_KINDS)
def test_ids_are_those_of_tiktoken(kind, small):
    tokenizer = small(kind)
    referee = encoding(train_ranks(), RANK_KINDS[kind][1], tokenizer.special_tokens)
    assert differing(TEXTS, tokenizer.encode, referee.encode_ordinary) == []


@pytest.mark.parametrize("kind", PIECE_KINDS)
def test_ids_are_those_of_sentencepiece(kind, small):
    referee = processor(PIECE_KINDS[kind]())
    assert differing(TEXTS, small(kind).encode, referee.encode) == []


@pytest.mark.parametrize(
    ("generation", "pattern"), [("llama3", LLAMA_3_PATTERN), ("llama4", LLAMA_4_PATTERN)]
)
def test_ids_of_the_released_ranks_are_those_of_tiktoken(generation, pattern):
    path = real(generation)
    tokenizer = load_tokenizer(str(path))
    referee = encoding(read_ranks(path), pattern, tokenizer.special_tokens)
    texts = [*TEXTS, *random_texts(600, seed=2)]
    assert differing(texts, tokenizer.encode, referee.encode_ordinary) == []
    ids = [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(row) for row in ids] == texts


def test_ids_of_the_released_pieces_are_those_of_sentencepiece():
    path = real("llama2")
    tokenizer = load_tokenizer(str(path))
    referee = processor(path.read_bytes())
    assert differing([*TEXTS, *random_texts(600, seed=2)], tokenizer.encode, referee.encode) == []


@pytest.mark.parametrize(
    ("generation", "text", "ids", "ends"),
    [
        # Meta's test of the tokenizer in meta-llama/llama3
        (
            "llama3",
            "This is a test sentence.",
            [2028, 374, 264, 1296, 11914, 13],
            (128_000, 128_001),
        ),
        ("llama2", "Hello world", [15043, 3186], (1, 2)),
    ],
)
def test_published_ids(generation, text, ids, ends):
    tokenizer = load_tokenizer(str(real(generation)))
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, bos=True, eos=True) == [ends[0], *ids, ends[1]]
    assert (tokenizer.bos_id, tokenizer.eos_id) == ends
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", RANK_KINDS)
def test_ids_are_those_of_hugging_faces_library_for_the_same_ranks(kind, small):
    data = byte_level_json(train_ranks(), RANK_KINDS[kind][1], small(kind).special_tokens)
    referee = tokenizers.Tokenizer.from_str(data.decode())
    referee.encode_special_tokens = True
    texts = random_texts(1500, seed=3)
    assert differing(texts, small(kind).encode, lambda text: referee.encode(text).ids) == []


def test_ids_are_those_of_hugging_faces_library_for_the_same_pieces(small):
    referee = tokenizers.Tokenizer.from_str(sentencepiece_json(sentencepiece_file()).decode())
    referee.encode_special_tokens = True
    texts = random_texts(1500, seed=3)
    assert differing(texts, small("Llama 2").encode, lambda text: referee.encode(text).ids) == []


@pytest.mark.parametrize(
    ("generation", "pattern"), [("llama3", LLAMA_3_PATTERN), ("llama4", LLAMA_4_PATTERN)]
)
def test_ids_of_the_released_ranks_are_those_of_transformers(generation, pattern):
    path = real(generation)
    converter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter

    class Converter(converter):
        """Without tiktoken's cache, which goes by the name of the file."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return read_ranks(Path(tiktoken_url))

    referee = Converter(str(path), pattern).converted()
    tokenizer = load_tokenizer(str(path))
    texts = [*ADVERSARIAL, *random_texts(2000, seed=4)]
    assert differing(texts, tokenizer.encode, lambda text: referee.encode(text).ids) == []


def test_ids_of_the_released_pieces_are_those_of_transformers():
    path = real("llama2")
    transformers = pytest.importorskip("transformers")
    generate_merges = pytest.importorskip("transformers.convert_slow_tokenizer").generate_merges
    model = processor(path.read_bytes())
    vocab = {model.id_to_piece(id): id for id in range(model.vocab_size())}
    scores = {piece: model.get_score(id) for piece, id in vocab.items() if id > 258}
    referee = transformers.LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab, scores))
    backend = referee.backend_tokenizer
    backend.encode_special_tokens = True
    tokenizer = load_tokenizer(str(path))
    # transformers puts no space before a text that has one, nor does it join what stands around
    # the name of a special token: it has parts there.
    names = ("<s>", "</s>", "<unk>")
    texts = [
        text
        for text in [*ADVERSARIAL, *random_texts(2000, seed=4)]
        if not text.startswith((" ", "▁")) and not any(name in text for name in names)
    ]

    def ids(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    assert differing(texts, tokenizer.encode, ids) == []


# --- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RANK_KINDS)
@given(text=st.text(SURROGATES, max_size=60))
@settings(max_examples=100, deadline=None)
def test_decoding_gives_any_text_back_from_ranks(kind, small, text):
    tokenizer = small(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, special=True)) == text


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@given(text=st.text(SURROGATES, max_size=60))
@settings(max_examples=60, deadline=None)
def test_decoding_gives_any_text_back_from_pieces_but_for_u2581(kind, small, text):
    tokenizer = small(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


ANY_BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.one_of(st.text(SURROGATES, max_size=6).map(str.encode), st.binary(max_size=3)),
        max_size=6,
    ).map(b"".join),
)


@pytest.mark.parametrize("kind", RANK_KINDS)
@given(data=ANY_BYTES)
@settings(max_examples=150, deadline=None)
def test_decoding_gives_any_bytes_back_from_ranks(kind, small, data):
    tokenizer = small(kind)
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@given(data=ANY_BYTES)
@settings(max_examples=100, deadline=None)
def test_decoding_gives_any_bytes_back_from_pieces_but_for_u2581(kind, small, data):
    tokenizer = small(kind)
    ids = tokenizer.encode_bytes(data)
    back = tokenizer.decode_bytes(ids)
    assert back == "▁".encode().join(part.replace("▁".encode(), b" ") for part in [data])


@pytest.mark.parametrize("kind", [*RANK_KINDS, *LLAMA_LIKE])
def test_bytes_that_are_text_get_the_ids_of_the_text(kind, small):
    tokenizer = small(kind)
    assert differing(TEXTS, lambda t: tokenizer.encode_bytes(t.encode()), tokenizer.encode) == []


@pytest.mark.parametrize("kind", [*RANK_KINDS, *LLAMA_LIKE])
def test_each_byte_that_is_no_text_is_one_token(kind, small):
    tokenizer = small(kind)
    single = train_ranks() if kind in RANK_KINDS else {bytes((b,)): 3 + b for b in range(256)}
    data = b"\x80\xff\xfe\xc3\xe4\xbd"
    assert tokenizer.encode_bytes(data) == [single[bytes((b,))] for b in data]
    around = tokenizer.encode_bytes(b"the \xff end")
    assert around.count(single[b"\xff"]) == 1
    assert around[: around.index(single[b"\xff"])] == tokenizer.encode("the ")


def test_text_behind_a_bad_byte_gets_no_space_before_it(small):
    model = processor(sentencepiece_file())
    expected = [3 + 0xFF, *map(model.piece_to_id, ("he", "l"))]
    assert small("Llama 2").encode_bytes(b"\xffhel") == expected


def test_bytes_need_tokens_of_bytes(small):
    tokenizer = small("without byte fallback")
    assert tokenizer.encode_bytes(b"the end") == tokenizer.encode("the end")
    with pytest.raises(UnsupportedFile, match=r"^tokenizer\.model: it has no tokens for single"):
        tokenizer.encode_bytes(b"the end\xff")


@pytest.mark.parametrize("kind", PIECE_KINDS)
def test_bytes_of_any_ids_are_what_sentencepiece_makes_of_them(kind, small):
    tokenizer, model = small(kind), processor(PIECE_KINDS[kind]())
    generator = random.Random(6)
    valid = 0
    for _ in range(1500):
        population = generator.choice((range(model.vocab_size()), range(259, model.vocab_size())))
        ids = generator.choices(population, k=generator.randrange(6))
        data = tokenizer.decode_bytes(ids)
        assert tokenizer.decode(ids) == model.decode(ids)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        valid += 1
        assert (ids, text) == (ids, model.decode(ids))
    assert valid > 500


@pytest.mark.parametrize("kind", RANK_KINDS)
def test_bytes_of_any_ids_are_those_of_their_tokens(kind, small):
    tokenizer = small(kind)
    known = {rank: token for token, rank in train_ranks().items()}
    known |= {id: name.encode() for name, id in tokenizer.special_tokens.items()}
    generator = random.Random(6)
    for _ in range(300):
        ids = generator.choices(range(tokenizer.vocab_size), k=generator.randrange(8))
        data = b"".join(map(known.__getitem__, ids))
        assert tokenizer.decode_bytes(ids) == data
        assert tokenizer.decode(ids) == data.decode("utf-8", "replace")
        report = detokenize(tokenizer, ids)
        assert (report.bytes, report.text) == (data.hex(), data.decode("utf-8", "replace"))
        assert report.valid_utf8 == (data.decode("utf-8", "ignore").encode() == data)
    assert [tokenizer.token_bytes(id) for id in known] == list(known.values())


@pytest.mark.parametrize("kind", [*RANK_KINDS, "Llama 2", "NFKC"])
@pytest.mark.parametrize("wrong", [-1, -600, 10_000, 2**31, 2**63, 2**100])
def test_an_id_out_of_range_is_named(kind, wrong, small):
    tokenizer = small(kind)
    words = (
        rf"^tokenizer\.model: there is no token {wrong:,}; it has {tokenizer.vocab_size:,} tokens"
    )
    last = tokenizer.vocab_size - 1
    for ask in (
        lambda: tokenizer.decode([5, wrong]),
        lambda: tokenizer.decode_bytes(iter([wrong])),
        lambda: tokenizer.token_bytes(wrong),
        lambda: detokenize(tokenizer, [last, wrong, 0]),
        lambda: describe_vocabulary(tokenizer, ids=[wrong]),
    ):
        with pytest.raises(MissingFile, match=rf"{words}, 0 to {last:,}$"):
            ask()
    tokenizer.decode([0, last])


def test_nothing_is_decoded_to_nothing(small):
    for kind in (*RANK_KINDS, *PIECE_KINDS):
        assert small(kind).decode([]) == ""
        assert small(kind).decode_bytes([]) == b""
        assert small(kind).encode("") == []
        assert small(kind).encode_bytes(b"") == []
        assert small(kind).encode("", special=True) == []


@pytest.mark.parametrize("kind", ["Llama 3", "Llama 2"])
def test_half_a_character_is_refused_with_its_place(kind, small):
    with pytest.raises(CorruptFile, match=r"^the text: its character 2 is half of one"):
        small(kind).encode("ab\ud83e\udd99")


# --- long texts -----------------------------------------------------------------------------------


def split_slowly(text: str, at_most: int, run_at_most: int) -> list[str]:
    """Every `at_most` characters, and within those in every run of one kind of character.

    As `_split_whitespaces_or_nonwhitespaces` of Meta's tokenizers does it, said in another way.
    """
    parts = []
    for start in range(0, len(text), at_most):
        slice = text[start : start + at_most]
        cuts, begin = [0], 0
        for _, group in itertools.groupby(slice, str.isspace):
            length = len(list(group))
            cuts += range(begin + run_at_most, begin + length, run_at_most)
            begin += length
        cuts.append(len(slice))
        parts += [slice[a:b] for a, b in itertools.pairwise(cuts)]
    return parts


RUN, ALL = 25_000, 400_000
X, S = "x", " "
LONG = {
    "one under a run": X * (RUN - 1),
    "a run": X * RUN,
    "one over a run": X * (RUN + 1),
    "two runs": X * 2 * RUN,
    "one over two runs": X * (2 * RUN + 1),
    "one over a run of spaces": S * (RUN + 1),
    "runs after one another": X * RUN + S * RUN + X * RUN,
    "runs over, after one another": X * (RUN + 1) + S * (RUN + 1) + X * (RUN + 1),
    "runs under, after one another": (X * (RUN - 1) + S * (RUN - 1)) * 3,
    "a run that begins at 1": S + X * (RUN + 1),
    "a run that begins before a multiple": "a b" + S + X * (RUN - 4) + S + X * (RUN + 5) + " y",
    "a run from multiple to multiple": "a " * (RUN // 2) + S * RUN + "b " * 10,
    "a run around a multiple": "a " * (RUN // 2 - 5) + X * (RUN + 1) + S,
    "a run that just holds one multiple": "a " * (RUN // 2) + S + X * (2 * RUN - 1) + " b",
    "spaces of Unicode": "\u3000\u00a0\u2003\x1c\x85\u2028" * 5_000,
    "what looks like space and is none": "\u200b\ufeff\u180e" * 9_000,
    "an emoji over and over": "🦙" * (RUN + 3),
    "all": "ab " * (ALL // 3) + X,
    "all and one": "ab " * (ALL // 3) + X * 2,
    "a run over the end of all": "ab " * (ALL // 3 - 10_000) + X * 70_000,
    "a run that ends at the end of all": "a " * ((ALL - RUN - 1) // 2) + X * (RUN + 2),
    "a megabyte of one letter": X * 2**20,
    "a megabyte of spaces": S * 2**20,
    "a megabyte of words": "word " * (2**20 // 5),
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_split_where_meta_splits_them(name):
    assert list(tiktoken_codec.split_text(LONG[name])) == split_slowly(LONG[name], ALL, RUN)


def test_texts_with_long_runs_are_split_where_meta_splits_them():
    generator = random.Random(7)
    lengths = (1, 2, 300, 24_999, 25_000, 25_001, 49_999, 50_000, 50_001, 130_000)
    for _ in range(25):
        runs = (generator.choice(("x", " ", "\n", "\u3000", "世")) for _ in itertools.count())
        text = "".join(next(runs) * generator.choice(lengths) for _ in range(12))
        assert list(tiktoken_codec.split_text(text)) == split_slowly(text, ALL, RUN)


@given(text=st.text(st.sampled_from("ab \n\u3000"), max_size=120))
@settings(max_examples=300, deadline=None)
def test_the_limits_scaled_down_split_any_text_the_same_way(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken_codec, "MAX_CHARACTERS", 20)
        patch.setattr(tiktoken_codec, "MAX_RUN", 4)
        found = list(tiktoken_codec.split_text(text))
    assert [part for part in found if part] == split_slowly(text, 20, 4)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    "name", ["one over a run", "a run over the end of all", "spaces of Unicode", "all and one"]
)
def test_each_part_is_encoded_by_itself(name, special, small):
    tokenizer = small("Llama 3")
    referee = encoding(train_ranks(), LLAMA_3_PATTERN, tokenizer.special_tokens)
    text = "<|eot_id|>" + LONG[name]
    allowed = set(tokenizer.special_tokens) if special else set()
    expected = [
        id
        for part in split_slowly(text, ALL, RUN)
        for id in referee.encode(part, allowed_special=allowed, disallowed_special=())
    ]
    assert tokenizer.encode(text, special=special) == expected


@pytest.mark.parametrize("kind", ["Llama 3", "Llama 4", "Llama 2"])
@pytest.mark.parametrize("name", ["a megabyte of one letter", "a megabyte of spaces"])
def test_a_megabyte_of_one_character_comes_back(kind, name, small):
    tokenizer = small(kind)
    assert tokenizer.decode(tokenizer.encode(LONG[name])) == LONG[name]


# --- special tokens in a text ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Llama 3", "<|reserved_special_token_250|>"),
        ("Llama 3", "<|begin_of_text|>"),
        ("Llama 3.1", "<|eom_id|>"),
        ("Llama 3.1", "<|image|>"),
        ("Llama 4", "<|header_start|>"),
        ("Llama 4", "<|reserved_special_token_903|>"),
    ],
)
def test_a_name_in_a_text_is_text_unless_special(kind, name, small):
    tokenizer = small(kind)
    referee = encoding(train_ranks(), RANK_KINDS[kind][1])
    before, after = referee.encode_ordinary("the end"), referee.encode_ordinary(" of\n")
    text = f"the end{name} of\n"
    special = [*before, tokenizer.special_tokens[name], *after]
    assert tokenizer.encode(text, special=True) == special
    assert tokenizer.encode(text) == referee.encode_ordinary(text)
    assert tokenizer.encode_bytes(text.encode(), special=True) == special
    assert tokenizer.encode(name * 3, special=True) == [tokenizer.special_tokens[name]] * 3
    assert tokenizer.decode(special) == text


@pytest.mark.parametrize("kind", [*RANK_KINDS, "Llama 2", "Code Llama"])
def test_bos_and_eos_are_put_around_any_text(kind, small):
    tokenizer = small(kind)
    first, last = (RANKS, RANKS + 1) if kind in RANK_KINDS else (1, 2)
    for text in ("", "the end", "\n"):
        ids = tokenizer.encode(text)
        assert tokenizer.encode(text, bos=True) == [first, *ids]
        assert tokenizer.encode(text, eos=True) == [*ids, last]
        assert tokenizer.encode(text, bos=True, eos=True, special=True) == [first, *ids, last]
        data = text.encode()
        assert tokenizer.encode_bytes(data, bos=True, eos=True) == [first, *ids, last]
    report = tokenize(tokenizer, "the end", bos=True, eos=True)
    assert [token.special for token in report.tokens[:1] + report.tokens[-1:]] == [True, True]
    assert not any(token.special for token in report.tokens[1:-1])
    assert report.characters_per_token == 7 / (report.count - 2)
    assert report.count == len(report.ids) == len(report.tokens)


@pytest.mark.parametrize(("wanted", "words"), [("bos", "begins"), ("eos", "ends")])
def test_a_model_without_the_token_refuses_it(wanted, words, tmp_path):
    data = sentencepiece_file(bos_id=-1, eos_id=-1)
    tokenizer = load(tmp_path, model=data)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)
    with pytest.raises(UnsupportedFile, match=rf"^tokenizer\.model: it has no token that {words}"):
        tokenizer.encode("a", **{wanted: True})
    assert tokenizer.encode("a") == processor(data).encode("a")


def test_names_in_a_text_of_pieces_are_text_unless_special(small):
    tokenizer, model = small("Llama 2"), processor(sentencepiece_file())
    text = "<s>the end</s> <unk>"
    assert tokenizer.encode(text) == model.encode(text)
    expected = [1, *model.encode("the end"), 2, *model.encode(" "), 0]
    assert tokenizer.encode(text, special=True) == expected


PREFIXES = ("a", "def f(x):\n    return", " a", "a  ", "\n", "the <s> end", "🦙", "☺")
SUFFIXES = ("b", " b", "  b", "", "\n  b", "☺", "b ", "🦙🦙", "the end of the text")


@pytest.mark.parametrize("type", [1, 3, 4], ids=["normal", "control", "user defined"])
@pytest.mark.parametrize("prefix", [*PREFIXES, pytest.param("", id="empty")])
def test_infilling_is_laid_out_as_metas_recipe_does(prefix, type, tmp_path):
    """`infilling_prompt_tokens` of codellama: <PRE>, the prefix, <SUF>, the suffix, <MID>.

    The suffix is encoded behind a ☺ that is taken off, so that it gets no space before it.
    """
    data = code_llama_file(type=type)
    tokenizer, model = load(tmp_path, model=data), processor(data)
    pre, suf, mid, eot = map(model.piece_to_id, INFILLING)
    anchor = len(model.encode("☺"))
    for suffix in SUFFIXES:
        behind = model.encode("☺" + suffix)[anchor:]
        expected = [pre, *_plain(model, prefix), suf, *behind, mid]
        text = f"<PRE> {prefix} <SUF>{suffix} <MID>"
        assert tokenizer.encode(text, special=True) == expected
        assert tokenizer.encode(text, special=True, bos=True) == [1, *expected]
        assert tokenizer.encode(f"{text} <EOT>", special=True) == [*expected, eot]


@pytest.mark.parametrize("suffix", [" ", "  ", "\n", " \n"])
def test_a_suffix_of_white_space_alone_is_kept(suffix, small):
    tokenizer, model = small("Code Llama"), processor(code_llama_file())
    pre, suf, mid, _ = map(model.piece_to_id, INFILLING)
    behind = model.encode("☺" + suffix)[len(model.encode("☺")) :]
    expected = [pre, *model.encode("a"), suf, *behind, mid]
    assert tokenizer.encode(f"<PRE> a <SUF>{suffix} <MID>", special=True) == expected
    expected = [pre, suf, *behind, mid, *model.encode("a")]
    assert tokenizer.encode(f"<PRE> <SUF>{suffix} <MID> a", special=True) == expected


def _plain(model: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """Ids of a text in which <s> is the token."""
    first, *rest = text.split("<s>")
    return [*model.encode(first), *(id for part in rest for id in (1, *model.encode(part)))]


@pytest.mark.parametrize("prefix", ["a", "x = 1\n", "the"])
def test_infilling_with_the_suffix_first_is_laid_out_as_metas_recipe_does(prefix, small):
    tokenizer, model = small("Code Llama"), processor(code_llama_file())
    pre, suf, mid, _ = map(model.piece_to_id, INFILLING)
    behind = model.encode("☺b c")[len(model.encode("☺")) :]
    expected = [pre, suf, *behind, mid, *model.encode(prefix)]
    assert tokenizer.encode(f"<PRE> <SUF>b c <MID> {prefix}", special=True) == expected


def test_names_of_infilling_are_special_tokens_of_code_llama_alone(small):
    assert set(small("Code Llama").special_tokens) == {"<unk>", "<s>", "</s>", *INFILLING}
    assert set(small("Code Llama 70B").special_tokens) == {
        *("<unk>", "<s>", "</s>", STEP),
        *INFILLING,
    }
    assert set(small("Llama 2").special_tokens) == {"<unk>", "<s>", "</s>"}
    step = small("Code Llama 70B").special_tokens[STEP]
    assert small("Code Llama 70B").encode(STEP * 2, special=True) == [step, step]


# --- what a person is told ------------------------------------------------------------------------


def notes(report) -> list[str]:
    return [f"{f.severity}: {f.where}: {f.message}" for f in report.findings]


@pytest.mark.parametrize(
    ("kind", "text", "names"),
    [
        ("Llama 3", "a <|eot_id|><|eot_id|> b", "<|eot_id|> (2 times)"),
        ("Llama 4", "<|image|><|eom|>", "<|image|>, <|eom|>"),
        ("Llama 2", "<s> x </s>", "<s>, </s>"),
        ("Code Llama", "x <PRE>y", "<PRE>"),
        ("Code Llama 70B", "<step>", "<step>"),
    ],
)
def test_names_of_special_tokens_are_told(kind, text, names, small):
    (note,) = notes(tokenize(small(kind), text))
    assert note.startswith(f"note: the text: it holds {names}, encoded as plain text")
    assert notes(tokenize(small(kind), text, special=True)) == []


@pytest.mark.parametrize("text", ["<|eot|> <|header_start|>", "<s>", "<|eot_id", "< |eot_id|>"])
def test_names_of_other_tokenizers_are_no_news(text, small):
    assert notes(tokenize(small("Llama 3"), text)) == []


def test_a_symbol_that_the_file_itself_defines_is_not_called_plain_text(small):
    """A user defined piece is cut out of any text, by SentencePiece itself."""
    tokenizer = small("Code Llama, user defined symbols")
    report = tokenize(tokenizer, "x <step> y")
    assert tokenizer.special_tokens[STEP] in report.ids
    assert not any("plain text" in note for note in notes(report))


@pytest.mark.parametrize(
    ("kind", "text", "place"),
    [("Llama 2", "ab▁c", "character 2 it has ' '"), ("NFKC", "aﬁ", "character 1 it has 'f'")],
)
def test_a_text_that_does_not_come_back_is_told(kind, text, place, small):
    (note,) = notes(tokenize(small(kind), text))
    assert note.startswith(f"note: the text: decoding these ids gives another text: at {place}")


@pytest.mark.parametrize("kind", ["Llama 3", "Llama 2"])
def test_a_byte_order_mark_is_told(kind, small):
    (note,) = notes(tokenize(small(kind), "\ufeffa"))
    assert note.startswith("note: the text: it begins with a byte order mark")
    assert notes(tokenize(small(kind), "a\ufeff")) == []


@pytest.mark.parametrize("kind", [*RANK_KINDS, "Llama 2"])
def test_a_report_counts_characters_and_bytes(kind, small):
    report = tokenize(small(kind), "é🦙 a", bos=True)
    assert (report.characters, report.nbytes) == (4, 8)
    assert report.bytes_per_token == 8 / (report.count - 1)
    data = tokenize(small(kind), b"\xff\xc3\xa9a")
    assert (data.characters, data.nbytes) == (3, 4)
    empty = tokenize(small(kind), "", bos=True)
    assert (empty.count, empty.characters_per_token, empty.bytes_per_token) == (1, None, None)
    assert tokenize(small(kind), "a", ids_only=True).tokens == ()


@pytest.mark.parametrize("kind", [*RANK_KINDS, "Llama 2"])
def test_tokens_of_a_report_say_what_they_stand_for(kind, small):
    tokenizer = small(kind)
    report = tokenize(tokenizer, "the llama 🦙 grazes", eos=True)
    data = b"".join(bytes.fromhex(token.bytes) for token in report.tokens[:-1])
    assert data.removeprefix(b" ") == "the llama 🦙 grazes".encode()
    assert report.tokens[-1].text == ("</s>" if kind == "Llama 2" else "<|end_of_text|>")
    for token in report.tokens:
        assert token.text == bytes.fromhex(token.bytes).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1 2 3", [1, 2, 3]),
        ("[1, 2,3]", [1, 2, 3]),
        ("1\n2\t-3", [1, 2, -3]),
        ("", []),
        ("[]", []),
    ],
)
def test_ids_are_read_as_people_write_them(text, ids):
    assert parse_ids(text, "IDS") == ids


@pytest.mark.parametrize("text", ["1 a", "1.5", "٣", "0x10", "--1", "-", "1_000", "9" * 200, "²"])
def test_what_is_no_id_is_named(text):
    with pytest.raises(CorruptFile, match=r"^IDS: '.*' is no token id"):
        parse_ids(text, "IDS")


# --- where it is ----------------------------------------------------------------------------------


def reading(place: Path) -> tuple[str, str]:
    tokenizer = load_tokenizer(str(place))
    return os.path.realpath(tokenizer.path), tokenizer.kind


FOUND = {
    "beside params.json": ([MODEL, PARAMS], ".", MODEL),
    "alone": ([MODEL], ".", MODEL),
    "in original/": ([f"original/{MODEL}", f"original/{PARAMS}"], ".", f"original/{MODEL}"),
    "in original/ without params.json": ([f"original/{MODEL}"], ".", f"original/{MODEL}"),
    "both here and in original/": ([MODEL, f"original/{MODEL}"], ".", MODEL),
    "in original/ before tokenizer.json": ([JSON, f"original/{MODEL}"], ".", f"original/{MODEL}"),
    "one level up, as Llama 1": ([MODEL, f"7B/{PARAMS}"], "7B", MODEL),
    "one level up of weights alone": ([MODEL, "7B/consolidated.00.pth"], "7B", MODEL),
    "one level up of original/": ([MODEL, f"original/{PARAMS}"], "original", MODEL),
    "tokenizer.json alone": ([JSON], ".", JSON),
    "tokenizer.json above original/": ([JSON, f"original/{PARAMS}"], "original", JSON),
    "tokenizer.model above before tokenizer.json here": (
        [MODEL, f"7B/{JSON}", f"7B/{PARAMS}"],
        "7B",
        MODEL,
    ),
    "beside the weight file that was given": (
        [MODEL, "consolidated.00.pth"],
        "consolidated.00.pth",
        MODEL,
    ),
    "beside params.json that was given": ([MODEL, PARAMS], PARAMS, MODEL),
    "the file itself": ([MODEL], MODEL, MODEL),
    "the file under any name": (["my vocabulary.bpe"], "my vocabulary.bpe", "my vocabulary.bpe"),
    "tokenizer.json given, with another beside": ([MODEL, JSON], JSON, JSON),
    "a file in original/ that was given": (
        [MODEL, f"original/{MODEL}"],
        f"original/{MODEL}",
        f"original/{MODEL}",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_tokenizer_is_found(name, tmp_path):
    files, given, expected = FOUND[name]
    contents = {
        PARAMS: json.dumps(TINY).encode(),
        JSON: sentencepiece_json(sentencepiece_file()),
        "consolidated.00.pth": b"",
    }
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents.get(path.name, rank_file()))
    kind = "tokenizer.json" if expected == JSON else "tiktoken"
    assert reading(tmp_path / given) == (os.path.realpath(tmp_path / expected), kind)


def test_a_relative_path_is_enough(tmp_path, monkeypatch):
    lay(tmp_path / "a", model=rank_file(), params=TINY)
    monkeypatch.chdir(tmp_path / "a")
    assert load_tokenizer(".").path in (MODEL, f"./{MODEL}")
    assert load_tokenizer(MODEL).path == MODEL
    monkeypatch.chdir(tmp_path)
    assert load_tokenizer("a").path == f"a/{MODEL}"


def test_the_model_above_the_tokenizer_is_found_through_the_hubs_cache(tmp_path):
    snapshot = tmp_path / "models--meta-llama--Llama-3.1-8B" / "snapshots" / "0e9e39f"
    lay(snapshot / "original", model=rank_file(), params=TINY | {"use_scaled_rope": True})
    (snapshot.parents[1] / "blobs").mkdir()
    for path in (snapshot.parents[1], snapshot, snapshot / "original"):
        tokenizer = load_tokenizer(str(path))
        assert tokenizer.codec.generation == "Llama 3.1 and later"
        assert tokenizer.codec.reason == "params.json asks for scaled RoPE"


@pytest.mark.parametrize("files", [[], ["README.md"], ["vocab.txt", "special.json"]])
def test_nothing_there_says_where_was_looked(files, tmp_path):
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(MissingFile) as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).startswith(
        f"{tmp_path}: there is no tokenizer.model or tokenizer.json here, in original/ or one level"
    )


def test_a_tokenizer_above_a_directory_that_is_no_model_is_not_taken(tmp_path):
    lay(tmp_path, model=rank_file())
    (tmp_path / "notes").mkdir()
    with pytest.raises(MissingFile):
        load_tokenizer(str(tmp_path / "notes"))


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotACheckpoint, match="nowhere"):
        load_tokenizer(str(tmp_path / "nowhere"))


OBSTACLES = {
    "a FIFO": (lambda path: os.mkfifo(path), "it is a FIFO"),
    "a directory": (lambda path: path.mkdir(), "it is a directory"),
    "a dangling link": (
        lambda path: path.symlink_to("gone"),
        "it is a link to gone, which does not exist",
    ),
    "a link in a circle": (lambda path: path.symlink_to(path), "it cannot be opened"),
}


@pytest.mark.parametrize("where", [".", "original", "above"])
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_place_of_the_file_is_told(name, where, tmp_path):
    make, words = OBSTACLES[name]
    model = lay(tmp_path / "model", params=TINY)
    (model / "original").mkdir()
    make({".": model, "original": model / "original", "above": tmp_path}[where] / MODEL)
    with pytest.raises(MissingFile, match=rf"{re.escape(MODEL)}: {words}"):
        load_tokenizer(str(model))


def test_summary_finds_the_tokenizer_one_level_up(tmp_path):
    model = write_native(tmp_path / "7B", TINY, [random_weights(dense_shapes(TINY, TINY_HIDDEN))])
    lay(tmp_path, model=sentencepiece_file())
    report = summarize(open_checkpoint(str(model)))
    assert report.tokenizer == {
        "file": f"../{MODEL}",
        "kind": "sentencepiece",
        "base_tokens": PIECES,
        "special_tokens": 0,
        "vocab_size": PIECES,
    }


# --- whether it fits ------------------------------------------------------------------------------


def weights_of(vocab_size: int) -> dict:
    return random_weights(dense_shapes(TINY | {"vocab_size": vocab_size}, TINY_HIDDEN))


BIG = RANKS + 256
# tokenizer.model, vocab_size in params.json, rows of the embedding, what is said
FITS = {
    "all the same, pieces": (sentencepiece_file, PIECES, PIECES, None),
    "all the same, ranks": (rank_file, BIG, BIG, None),
    "left to the tokenizer": (sentencepiece_file, -1, PIECES, None),
    "special tokens forgotten": (
        rank_file,
        RANKS,
        RANKS,
        f"it has {BIG} tokens, the model has {RANKS}.",
    ),
    "another model's": (
        sentencepiece_file,
        128,
        128,
        f"it has {PIECES} tokens, the model has 128.",
    ),
    "extended": (
        sentencepiece_file,
        PIECES + 8,
        PIECES + 8,
        f"it has {PIECES} tokens, the model has {PIECES + 8}.",
    ),
    "left to the tokenizer, another model's": (
        sentencepiece_file,
        -1,
        128,
        f"it has {PIECES} tokens, the model has 128.",
    ),
    "params.json and weights differ": (
        sentencepiece_file,
        PIECES,
        PIECES - 8,
        f"it has {PIECES} tokens, params.json says {PIECES} and the embedding has {PIECES - 8} "
        "rows.",
    ),
}


@pytest.mark.parametrize("shards", ["1", "2 by rows", "2 by columns"])
@pytest.mark.parametrize("name", FITS)
def test_tokenize_and_summary_say_the_same_of_sizes(name, shards, tmp_path):
    file, vocab_size, rows, said = FITS[name]
    weights = weights_of(rows)
    axis = 1 if shards.endswith("columns") else 0
    parts = [weights] if shards == "1" else cut(weights, 2, embedding_axis=axis)
    write_native(tmp_path, TINY | {"vocab_size": vocab_size}, parts)
    tokenizer = load(tmp_path, model=file())
    told = [
        [finding for finding in report.findings if finding.where == MODEL]
        for report in (
            summarize(open_checkpoint(str(tmp_path))),
            tokenize(tokenizer, "a"),
            detokenize(tokenizer, [1]),
            describe_vocabulary(tokenizer),
        )
    ]
    assert told[1:] == told[:1] * 3
    if said is None:
        assert told[0] == []
        assert tokenize(tokenizer, "a").ok
    else:
        assert told[0][0].message.startswith(said)
        assert told[0][0].severity == "error"
        assert not tokenize(tokenizer, "a").ok


@pytest.mark.parametrize("order", ["as written", "backwards"])
def test_summary_and_tokenize_count_ranks_in_any_order(order, tmp_path):
    lines = rank_lines(train_ranks())
    data = b"\n".join(lines if order == "as written" else lines[::-1])
    write_native(tmp_path, TINY | {"vocab_size": BIG}, [weights_of(BIG)])
    tokenizer = load(tmp_path, model=data)
    assert tokenize(tokenizer, "a").findings == ()
    assert summarize(open_checkpoint(str(tmp_path))).findings == ()


def test_a_damaged_params_json_is_told_and_the_text_is_encoded_all_the_same(tmp_path):
    tokenizer = load(tmp_path, model=rank_file(), params=b'{"dim": ')
    report = tokenize(tokenizer, "the end")
    assert report.ids == tuple(encoding(train_ranks(), LLAMA_3_PATTERN).encode_ordinary("the end"))
    assert PARAMS in [finding.where for finding in report.findings]
    assert not report.ok


# --- files that are none --------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n"
BAD = {
    "empty": (b"", "the file is empty"),
    "a web page": (b"<!DOCTYPE html>\n<html>403</html>", "it is a web page"),
    "a web page from a storage service": (b"<?xml version='1.0'?><Error/>", "it is a web page"),
    "a Git LFS pointer": (POINTER, "it is a Git LFS pointer"),
    "zeros": (bytes(5000), "it begins with zeros"),
    "words": (b"some words\n", "it is neither a SentencePiece nor a tiktoken model"),
    "a piece and then nothing": (sentencepiece_file()[:100], "damaged SentencePiece model"),
    "pieces without settings": (b"\x0a\x05\x0a\x03abc", "0 pieces for unknown"),
    "ranks cut after a line": (b"\n".join(rank_lines(train_ranks())[:200]), "56 single bytes"),
    "ranks cut in a line": (rank_file()[:-7], "it ends in the middle of line 560"),
    "ranks with a hole": (rank_file().replace(b" 300\n", b" 999\n"), "rank 300 is missing"),
    "JSON that is no tokenizer": (b'{"a": 1}', "the tokenizers library refuses it"),
    "JSON cut short": (sentencepiece_json(sentencepiece_file())[:500], "library refuses it"),
    "JSON without tokens": (
        changed_json(
            sentencepiece_json(sentencepiece_file()),
            model={"type": "BPE", "vocab": {}, "merges": []},
            added_tokens=[],
        ),
        "0 is no size of a vocabulary",
    ),
}


@pytest.mark.parametrize("file", [MODEL, JSON, "any name"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_sentence_that_begins_with_it(name, file, tmp_path):
    data, words = BAD[name]
    (tmp_path / file).write_bytes(data)
    given = tmp_path if file != "any name" else tmp_path / file
    with pytest.raises(CorruptFile, match=rf"^{re.escape(file)}: .*({words})"):
        load_tokenizer(str(given))


def test_ranks_followed_by_anything_are_refused(tmp_path):
    for tail in (b"<html>", bytes(10), b"\n\nAAAA", b"AAAA", b"AAAA ", b"= 560", b"\xff"):
        words = r"^tokenizer\.model: (line \d+ is damaged|it ends in the middle of line \d+)"
        with pytest.raises(CorruptFile, match=words):
            load(tmp_path, model=rank_file() + tail)


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / MODEL).open("wb") as file:
        file.write(rank_file())
        file.truncate(2**33)
    with pytest.raises(CorruptFile, match=r"^tokenizer\.model: 8,589,934,592 bytes are too many"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("generation", ["llama2", "llama3", "llama4"])
def test_a_released_file_cut_anywhere_is_refused(generation, tmp_path):
    data = real(generation).read_bytes()
    generator = random.Random(8)
    for length in (generator.randrange(len(data)) for _ in range(12)):
        (tmp_path / MODEL).write_bytes(data[:length])
        tail = data[:length].rpartition(b"\n")[2]
        try:
            tokenizer = load_tokenizer(str(tmp_path))
        except LlamaInspectError as error:
            assert str(error).startswith(f"{MODEL}: ")  # noqa: PT017  all lengths in one go
        else:
            assert generation != "llama2"
            assert tail == b"" or tokenizer.codec.base_tokens == len(data[:length].splitlines())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (rank_file(), "tiktoken"),
        (rank_file().replace(b"\n", b"\r\n"), "tiktoken"),
        (b"\n\n" + rank_file(), "tiktoken"),
        (sentencepiece_file(), "sentencepiece"),
        (sentencepiece_json(sentencepiece_file()), "tokenizer.json"),
        (b"\n  {}", "tokenizer.json"),
    ],
)
def test_kinds_are_told_by_content(data, kind, tmp_path):
    (tmp_path / "x").write_bytes(data)
    assert kind_of(Folder(str(tmp_path)), "x") == kind


def test_tokenizer_json_is_no_tokenizer_model(tmp_path):
    lay(tmp_path, model=sentencepiece_json(sentencepiece_file()))
    with pytest.raises(CorruptFile, match=r"^tokenizer\.model: it is neither"):
        read_vocabulary(Folder(str(tmp_path)))


# --- tokenizer.json -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jsons(tmp_path_factory, small):
    """The same tokenizers in tokenizer.json, and as they are in tokenizer.model."""
    level = byte_level_json(train_ranks(), LLAMA_3_PATTERN, small("Llama 3").special_tokens)
    pieces = sentencepiece_json(sentencepiece_file())
    return {
        "ranks": (load(tmp_path_factory.mktemp("json"), json=level), small("Llama 3")),
        "pieces": (load(tmp_path_factory.mktemp("json"), json=pieces), small("Llama 2")),
    }


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_tokenizer_json_encodes_as_the_file_that_it_was_made_of(kind, jsons):
    here, there = jsons[kind]
    texts = [text for text in TEXTS if kind == "ranks" or "<" not in text]
    assert differing(texts, here.encode, there.encode) == []
    assert [here.decode(here.encode(text)) for text in texts] == [
        there.decode(there.encode(text)) for text in texts
    ]
    assert (here.bos_id, here.eos_id) == (there.bos_id, there.eos_id)
    assert (here.vocab_size, here.special_tokens) == (there.vocab_size, there.special_tokens)
    assert here.describe().kind == "tokenizer.json"
    assert here.describe().generation is None


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_tokenizer_json_takes_bytes(kind, jsons):
    here, there = jsons[kind]
    for data in (b"\xff", b"the \xff end", b"\xffthe", "é\udcff".encode("utf-8", "replace"), b"a"):
        assert here.encode_bytes(data) == there.encode_bytes(data)
        assert here.decode_bytes(here.encode_bytes(data)) == data


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_bytes_of_any_ids_are_what_the_tokenizers_library_makes_of_them(kind, jsons):
    here, _ = jsons[kind]
    generator = random.Random(9)
    for _ in range(600):
        ids = generator.choices(range(259, here.vocab_size), k=generator.randrange(6))
        data = here.decode_bytes(ids)
        if kind == "pieces" or data.decode("utf-8", "ignore").encode() == data:
            assert (ids, data.decode()) == (ids, here.decode(ids))


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_spaces_before_a_text_come_back_from_tokenizer_json(kind, jsons):
    here, _ = jsons[kind]
    for text in (" a", "  a", "    ", " ", "a", "\n a"):
        assert here.decode(here.encode(text)) == text
        assert here.decode_bytes(here.encode(text)) == text.encode()


def test_a_token_that_only_looks_like_a_byte_is_a_token(tmp_path):
    data = sentencepiece_json(sentencepiece_file()).replace(b'"<0x41>"', b'"<0xZZ>"')
    assert load(tmp_path, json=data).token_bytes(3 + 0x41) == b"<0xZZ>"


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_bytes_of_tokens_in_tokenizer_json_are_those_of_the_other_file(kind, jsons):
    here, there = jsons[kind]
    ids = range(here.vocab_size)
    assert [here.token_bytes(id) for id in ids] == [there.token_bytes(id) for id in ids]
    assert here.token_bytes(0) != b""


@pytest.mark.parametrize("kind", ["ranks", "pieces"])
def test_special_tokens_of_tokenizer_json_are_text_unless_special(kind, jsons):
    here, there = jsons[kind]
    name = "<|eot_id|>" if kind == "ranks" else "</s>"
    ids = here.encode(f"{name}{name}", special=True)
    assert ids == [there.special_tokens[name]] * 2
    assert here.encode(name) == there.encode(name)
    assert here.encode("a", bos=True, eos=True) == there.encode("a", bos=True, eos=True)
    with pytest.raises(MissingFile, match=r"^tokenizer\.json: there is no token 100,000"):
        here.decode([100_000])


def test_what_a_tokenizer_json_adds_cuts_and_pads_is_left_out(tmp_path):
    tokenizer = tokenizers.Tokenizer.from_str(sentencepiece_json(sentencepiece_file()).decode())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    here = load(tmp_path, json=tokenizer.to_str().encode())
    text = "the llama grazes on the log"
    assert here.encode(text) == processor(sentencepiece_file()).encode(text)


def test_an_id_far_off_is_no_vocabulary_to_go_through(tmp_path):
    table = json.loads(byte_level_json(train_ranks(), LLAMA_3_PATTERN, ()))
    table["model"]["vocab"]["far"] = 2**20
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(CorruptFile, match=r"^tokenizer\.json: 1,048,577 is no size of a vocab"):
        load_tokenizer(str(tmp_path))


def test_a_vocabulary_with_holes_has_unused_ids(tmp_path):
    data = json.loads(byte_level_json(train_ranks(), LLAMA_3_PATTERN, []))
    data["added_tokens"] = [
        {"id": 600, "content": "<|far|>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ]
    data["model"]["vocab"]["<|far|>"] = 600
    tokenizer = load(tmp_path, json=json.dumps(data).encode())
    assert tokenizer.vocab_size == 601
    entry = describe_vocabulary(tokenizer, ids=[580]).tokens[0]
    assert (entry.type, entry.bytes) == ("unused", "")
    assert describe_vocabulary(tokenizer, ids=[600]).tokens[0].type == "special"


# --- --check --------------------------------------------------------------------------------------


CHECKED = {
    "ranks": (
        rank_file,
        lambda names: byte_level_json(train_ranks(), LLAMA_3_PATTERN, names),
    ),
    "pieces": (sentencepiece_file, lambda names: sentencepiece_json(sentencepiece_file())),
}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("where", ["beside", "original"])
@pytest.mark.parametrize("kind", CHECKED)
def test_files_that_agree_are_said_to(kind, where, bos, tmp_path, small):
    model, make = CHECKED[kind]
    data = make(small("Llama 3.1").special_tokens)
    lay(tmp_path if where == "beside" else tmp_path / "original", model=model())
    tokenizer = load(tmp_path, json=data)
    assert tokenizer.kind != "tokenizer.json"
    for text in ("the llama grazes <s> <|eot_id|>", "", b"a\xffb"):
        report = tokenize(tokenizer, text, check=True, bos=bos, ids_only=True)
        assert report.check.agrees
        assert report.ok
        assert report.check.position is None
        assert report.check.other_count == len(report.ids)


def test_a_long_text_is_cut_alike_for_both_files(tmp_path, small):
    data = byte_level_json(train_ranks(), LLAMA_3_PATTERN, small("Llama 3.1").special_tokens)
    tokenizer = load(tmp_path, model=rank_file(), json=data)
    assert tokenize(tokenizer, "ll" * 13_000, check=True, ids_only=True).check.agrees
    assert tokenize(tokenizer, "x" + "ll" * 13_000, check=True, ids_only=True).check.agrees


@pytest.mark.parametrize("bos", [False, True])
def test_another_pattern_differs_at_its_first_token(bos, tmp_path, small):
    names = small("Llama 3.1").special_tokens
    other = byte_level_json(train_ranks(), LLAMA_4_PATTERN, names)
    tokenizer = load(tmp_path, model=rank_file(), json=other)
    text = "the cat helloWorld"
    mine = encoding(train_ranks(), LLAMA_3_PATTERN).encode_ordinary(text)
    theirs = encoding(train_ranks(), LLAMA_4_PATTERN).encode_ordinary(text)
    at = next(n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
    report = tokenize(tokenizer, text, check=True, bos=bos)
    check = report.check
    assert not check.agrees
    assert not report.ok
    assert check.position == at + bos
    assert check.ids == tuple(mine[at : at + 8])
    assert check.other_ids == tuple(theirs[at : at + 8])
    assert check.other_count == len(theirs) + bos
    assert check.message.startswith(f"the files differ from token {at + bos} on: {mine[at]} ")
    assert f"{theirs[at]} " in check.message


def test_a_missing_merge_differs_where_it_was_used(tmp_path, small):
    names = small("Llama 3.1").special_tokens
    other = byte_level_json(train_ranks(), LLAMA_3_PATTERN, names, drop=b"ll")
    tokenizer = load(tmp_path, model=rank_file(), json=other)
    assert tokenize(tokenizer, "cat", check=True).check.agrees
    ranks = train_ranks()
    before = encoding(ranks, LLAMA_3_PATTERN).encode_ordinary("cat ")
    check = tokenize(tokenizer, "cat ll", check=True).check
    assert not check.agrees
    assert (check.position, check.other_count) == (len(before), len(before) + 2)
    assert (check.ids, check.other_ids) == ((ranks[b"ll"],), (ranks[b"l"], ranks[b"l"]))


def test_a_text_that_one_file_ends_sooner_differs_at_its_end(tmp_path, small):
    data = json.loads(CHECKED["ranks"][1](small("Llama 3.1").special_tokens))
    data["normalizer"] = {"type": "Strip", "strip_left": False, "strip_right": True}
    tokenizer = load(tmp_path, model=rank_file(), json=json.dumps(data).encode())
    check = tokenize(tokenizer, "cat\n\n", check=True).check
    shorter = tokenizer.encode("cat")
    assert (check.agrees, check.position) == (False, len(shorter))
    assert check.other_ids == ()
    assert check.message.endswith("nothing more in tokenizer.json")


def test_a_text_that_one_file_goes_on_with_differs_at_its_end(tmp_path, small):
    data = json.loads(CHECKED["ranks"][1](small("Llama 3.1").special_tokens))
    data["normalizer"] = {"type": "Replace", "pattern": {"String": "!"}, "content": "! x"}
    tokenizer = load(tmp_path, model=rank_file(), json=json.dumps(data).encode())
    check = tokenize(tokenizer, "cat!", check=True).check
    ranks = train_ranks()
    assert (check.agrees, check.position) == (False, len(tokenizer.encode("cat!")))
    assert (check.ids, check.other_ids) == ((), (ranks[b" "], ranks[b"x"]))
    assert "nothing more in tokenizer.model" in check.message


def test_check_needs_both_files(tmp_path, small):
    with pytest.raises(MissingFile, match=r"there is no tokenizer\.json"):
        tokenize(load(tmp_path / "a", model=rank_file()), "a", check=True)
    data = sentencepiece_json(sentencepiece_file())
    with pytest.raises(MissingFile, match=r"--check holds tokenizer\.model against"):
        tokenize(load(tmp_path / "b", json=data), "a", check=True)


# --- vocab ----------------------------------------------------------------------------------------


def test_entries_of_ranks_are_the_lines_of_the_file(small):
    tokenizer = small("Llama 3")
    lines = rank_lines(train_ranks())
    report = describe_vocabulary(tokenizer, ids=range(RANKS))
    rows = report.tokens
    assert [f"{row.base64} {row.rank}".encode() for row in rows] == lines
    assert [bytes.fromhex(row.bytes) for row in rows] == list(train_ranks())
    assert [row.id for row in rows] == [row.rank for row in rows]
    assert {(row.type, row.special, row.score) for row in rows} == {("normal", False, None)}
    assert report.count == RANKS


def test_base64_of_a_shuffled_file_is_that_of_its_rank(tmp_path):
    lines = rank_lines(train_ranks())
    shuffled = random.Random(3).sample(lines, len(lines))
    rows = describe_vocabulary(load(tmp_path, model=b"\n".join(shuffled)), ids=range(RANKS)).tokens
    assert [f"{row.base64} {row.rank}".encode() for row in rows] == lines


TYPES = ("is_byte", "is_control", "is_unknown", "is_unused")


@pytest.mark.parametrize("kind", PIECE_KINDS)
def test_entries_of_pieces_are_those_of_googles_reader(kind, small):
    model = processor(PIECE_KINDS[kind]())
    tokenizer = small(kind)
    for row in describe_vocabulary(tokenizer, ids=range(tokenizer.vocab_size)).tokens:
        piece = model.id_to_piece(row.id)
        assert row.score == model.get_score(row.id)
        assert (row.rank, row.base64) == (None, None)
        types = [name[3:] for name in TYPES if getattr(model, name)(row.id)]
        marked = piece in (*INFILLING, STEP)
        user = ["user_defined"] if "user" in kind and marked else ["normal"]
        assert [row.type] == (types or user)
        assert row.special == (marked or row.type in ("control", "unknown"))
        data = bytes((int(piece[3:5], 16),)) if row.type == "byte" else piece.encode()
        shown = data if row.special else data.replace("▁".encode(), b" ")
        assert bytes.fromhex(row.bytes) == shown


@pytest.mark.parametrize("kind", ["Llama 3", "Llama 2", "NFKC"])
@pytest.mark.parametrize(
    "wanted", ["the", " the", "\n", "🦙", "世", "e", "zz-never", "<", "\udcf0"]
)
def test_search_finds_the_tokens_that_hold_the_text(kind, wanted, small):
    tokenizer = small(kind)
    data = wanted.encode("utf-8", "surrogateescape")
    expected = [id for id in range(tokenizer.vocab_size) if data in tokenizer.token_bytes(id)]
    report = describe_vocabulary(tokenizer, search=wanted)
    assert [row.id for row in report.tokens] == expected
    assert report.count == len(expected)
    assert all(data in bytes.fromhex(row.bytes) for row in report.tokens)
    assert report.stats is None


def test_several_conditions_must_all_hold(small):
    tokenizer = small("Llama 3.1")
    names = tokenizer.special_tokens

    def listed(**asked) -> list[int]:
        return [row.id for row in describe_vocabulary(tokenizer, **asked).tokens]

    assert listed() == []
    assert listed(ids=[3, 1, 3]) == [3, 1, 3]
    headers = [names["<|start_header_id|>"], names["<|end_header_id|>"]]
    assert listed(special=True, search="header") == headers
    assert listed(ids=[5, names["<|image|>"]], special=True) == [names["<|image|>"]]
    the = train_ranks()[b" the "]
    assert listed(ids=[0, the, 1], search="the") == [the]
    assert listed(ids=[the], search="the", special=True) == []


@pytest.mark.parametrize("kind", [*RANK_KINDS, *PIECE_KINDS])
def test_statistics_sum_up_to_the_vocabulary(kind, small):
    tokenizer = small(kind)
    stats = describe_vocabulary(tokenizer, stats=True).stats
    ids = [id for id in range(tokenizer.vocab_size) if id not in tokenizer.special_ids]
    lengths = [len(tokenizer.token_bytes(id)) for id in ids]
    assert sum(stats.by_content.values()) == sum(stats.by_nbytes.values()) == len(ids)
    assert stats.by_nbytes == {str(n): lengths.count(n) for n in sorted(set(lengths))}
    assert stats.mean_nbytes == pytest.approx(sum(lengths) / len(lengths))
    by_length = sorted(ids, key=lambda id: (-len(tokenizer.token_bytes(id)), id))
    assert [row.id for row in stats.longest] == by_length[:5]


def test_statistics_of_scripts_and_kinds_of_tokens(tmp_path):
    tokens = {
        " the": ("word after a space", "LATIN"),
        "the": ("word or part of one", "LATIN"),
        "é": ("word or part of one", "LATIN"),
        "мир": ("word or part of one", "CYRILLIC"),
        " мир": ("word after a space", "CYRILLIC"),
        "世界": ("word or part of one", "CJK"),
        "\n\n": ("white space", None),
        "12": ("digits", None),
        "!?": ("punctuation and symbols", None),
        "a1": ("letters with other signs", "LATIN"),
        "🦙": ("punctuation and symbols", None),
    }
    single = list(train_ranks())[:256]
    ranks = {token: n for n, token in enumerate([*single, *(t.encode() for t in tokens)])}
    tokenizer = load(tmp_path, model=b"\n".join(rank_lines(ranks)))
    stats = describe_vocabulary(tokenizer, stats=True).stats
    ascii_letters = 52
    expected: dict[str, int] = {"word or part of one": ascii_letters, "part of a character": 128}
    expected |= {"digits": 10, "white space": 6}
    expected["punctuation and symbols"] = 128 - 52 - 10 - 6
    whites = [c for c in range(128) if chr(c).isspace()]
    expected["punctuation and symbols"] += 6 - len(whites)
    expected["white space"] = len(whites)
    scripts = {"LATIN": ascii_letters}
    for content, script in tokens.values():
        expected[content] = expected.get(content, 0) + 1
        if script:
            scripts[script] = scripts.get(script, 0) + 1
    assert stats.by_content == expected
    assert stats.by_script == scripts
    assert list(stats.by_content.values()) == sorted(stats.by_content.values(), reverse=True)


def test_settings_of_pieces_are_shown(small):
    assert describe_vocabulary(small("NFKC"), stats=True).stats.settings == {
        "algorithm": "bpe",
        "byte_fallback": True,
        "normalizer": "nmt_nfkc",
        "add_dummy_prefix": True,
        "remove_extra_whitespaces": True,
    }


test_any_change_to_tokenizer_json_is_read_or_refused = any_change("tokenizer-json", 40)
