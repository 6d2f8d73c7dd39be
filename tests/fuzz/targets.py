"""What is fuzzed: one target per parser, each a function that takes any bytes.

A target returns when the bytes were read or refused with a LlamaInspectError whose text fits a
terminal. Everything else that comes out of it is a bug: another exception, an endless loop, memory
without a bound, or an answer that another reader (zipfile, pickletools, safetensors) contradicts.

torch is imported by the targets of recordings alone, so that the others stay small and quick.
"""

import io
import json
import pickletools
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from fuzz import mutations as change

import llamainspect as li
from llamainspect.architecture import expected_weights
from llamainspect.chat import lay_out
from llamainspect.checklists import is_list, read_list
from llamainspect.config import ModelConfig
from llamainspect.errors import LlamaInspectError
from llamainspect.formats import hf, meta
from llamainspect.formats.ranks import parse_ranks
from llamainspect.formats.safetensors_header import read_header
from llamainspect.formats.sentencepiece_file import count_pieces, parse_sentencepiece
from llamainspect.formats.torch_pickle import read_pickle
from llamainspect.formats.torch_scan import salvage
from llamainspect.formats.torch_zip import locate_record, read_archive, read_root
from llamainspect.formats.vocabulary import read_vocabulary
from llamainspect.hub import read_hub_digests
from llamainspect.integrity import DeepCheck
from llamainspect.questions import KINDS, read_questions
from llamainspect.render.json import to_json
from llamainspect.render.printable import printable
from llamainspect.render.text import to_text
from llamainspect.reports import Finding, Report
from llamainspect.sources import Folder
from llamainspect.tokenization import parse_ids, read_dialogue

MAX_SENTENCE = 2_000  # characters that the program prints of an error
BLOCK_NBYTES = 1_000
PARAMS = {"dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 16,
          "multiple_of": 8, "norm_eps": 1e-5}  # fmt: skip
HUB_CONFIG = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24,
              "vocab_size": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}  # fmt: skip


class Target(NamedTuple):
    """`check(data, directory)` may write into the directory, which is its own."""

    check: Callable[[bytes, Path], None]
    mutate: change.Mutate
    max_nbytes: int = 2**14


class InMemory:
    """A source of one file."""

    place = "memory"

    def __init__(self, file: str, data: bytes) -> None:
        self.only: str | None = file
        self.data = data

    def files(self) -> tuple[str, ...]:
        return (str(self.only),)

    def nbytes(self, file: str) -> int:
        if file != self.only:
            raise li.MissingFile(f"{file}: it is not there")
        return len(self.data)

    def read(self, file: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.nbytes(file):
            raise li.CorruptFile(f"{file}: cut short; download it again")
        return self.data[offset : offset + length]

    def read_into(
        self, file: str, offset: int, buffer: memoryview, run: int | None = None, step: int = 0
    ) -> None:
        raise AssertionError("headers are read in one piece")


def ask(question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The answer; None when the file is refused with a sentence."""
    try:
        return question(*arguments, **options)
    except LlamaInspectError as error:
        assert_sentence(str(error))
        return None


def assert_sentence(text: str) -> None:
    """One line that a terminal shows as it stands, and whole."""
    shown = printable(text, limit=MAX_SENTENCE)
    assert 8 < len(text) <= MAX_SENTENCE, f"a sentence of {len(text)} characters: {text[:300]!r}"
    assert not _obeyed(shown), repr(shown)
    shown.encode("utf-8")


def _obeyed(text: str) -> list[str]:
    """Characters that a terminal obeys instead of showing them."""
    kinds = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return [
        c
        for c in set(text)
        if unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in kinds
    ]


def assert_report(report: Report, seldom: int = 0) -> None:
    """It has a JSON text without NaN; and, for one input in eight, a text that is safe to print."""
    json.loads(to_json(report), parse_constant=_refuse)
    if seldom % 8 == 0:
        text = to_text(report, terminal=False, plain=True)
        assert set(_obeyed(text)) <= {"\n"}, repr(text)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


def assert_findings(findings: Any) -> None:
    """Each is a sentence and says where; it may list names that are long."""
    for finding in findings:
        assert isinstance(finding, Finding)
        assert isinstance(finding.where, str)  # which a tensor without a name leaves empty
        assert_sentence(finding.message[:MAX_SENTENCE])


# --- .pth -----------------------------------------------------------------------------------------

PTH = "consolidated.00.pth"


def _zip_directory(data: bytes, directory: Path) -> None:
    source = InMemory(PTH, data)
    found = ask(read_archive, source, PTH)
    if found is None:
        return
    records, end, _ = found
    ask(read_root, source, PTH)
    position = 0
    for name, record in records.items():
        assert record.start >= position
        position = record.start + record.nbytes
        assert position <= end <= len(data)
        offset = ask(locate_record, source, PTH, name, record)
        assert offset is None or record.start < offset <= len(data) - record.nbytes
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError):
        return
    theirs = {i.filename.partition("/")[2]: (i.header_offset, i.file_size, i.CRC)
              for i in archive.infolist()}  # fmt: skip
    assert theirs == {name: tuple(record) for name, record in records.items()}


def _pickle(data: bytes, directory: Path) -> None:
    contents = ask(read_pickle, data)
    if contents is None:
        return
    names = [name for name, _ in contents.tensors]
    assert len(set(names)) == len(names)
    for _, tensor in contents.tensors:
        assert tensor.offset >= 0
        assert tensor.span >= 0
        assert not tensor.span or tensor.offset + tensor.span <= tensor.storage.nbytes
    foreign = {name for name, _ in contents.foreign}
    for module, name in _globals(data):
        harmless = module.partition(".")[0] in ("torch", "collections", "builtins", "__builtin__",
                                                "_codecs", "_io")  # fmt: skip
        assert harmless or contents.more_foreign or f"{module}.{name}" in foreign, (module, name)


def _globals(data: bytes) -> set[tuple[str, str]]:
    """What pickletools says that the stream names, where it can read the names."""
    found = set()
    position = -1
    try:
        for opcode, argument, at in pickletools.genops(data):
            position = at or 0
            if opcode.name == "GLOBAL":
                module, _, name = argument.partition(" ")
                raw = f"c{module}\n{name}\n".encode()
                if data[position : position + len(raw)] == raw:  # it has no escapes in it
                    found.add((module, name))
    except UnicodeDecodeError:  # names in another alphabet, which pickle itself allows
        return found
    except ValueError as error:
        if "escape" in str(error) or "Trailing" in str(error):  # a backslash in a name, to it
            return found
        raise AssertionError(f"pickletools refuses what was read: {error}") from error
    assert position == len(data) - 1, "something stands behind the end"
    return found


def _salvage(data: bytes, directory: Path) -> None:
    found = ask(salvage, InMemory(PTH, data), PTH)
    if found is not None:
        for record in found.records.values():
            assert 0 <= record.start <= record.start + record.nbytes <= len(data)
        for start, end in found.broken.values():
            assert 0 <= start <= end <= len(data)
    _deep_check(PTH, data)


def _deep_check(file: str, data: bytes) -> None:
    """What `verify-checksums --deep` finds in the bytes themselves."""
    check = DeepCheck(InMemory(file, data), file)
    if check.needs_bytes:
        for start in range(0, len(data), BLOCK_NBYTES):
            check.update(memoryview(data)[start : start + BLOCK_NBYTES])
    verdict = check.verdict()
    assert_sentence(verdict.message)
    for damage in verdict.damage:
        assert 0 <= damage.start <= damage.end <= len(data), damage
    if verdict.intact and verdict.by_sums:
        with suppress(NotImplementedError):  # a version of zip that the module does not know
            assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


# What is asked of a path that holds a model. The first is asked each time, and one of the others.
QUESTIONS: tuple[Callable[[str], Report], ...] = (
    lambda path: li.summarize(li.open_checkpoint(path)),
    lambda path: li.list_tensors(li.open_checkpoint(path), per_shard=True),
    lambda path: li.verify_checksums(path, deep=True),
    lambda path: li.estimate_memory(li.find_subject(path)),
    lambda path: li.estimate_compute(li.find_subject(path)),
    lambda path: li.explain_model(li.find_subject(path)),
)


def _ask_of(path: Path, data: bytes) -> None:
    """Reports of a directory in which `data` stands."""
    draw = zlib.crc32(data)
    for question in (QUESTIONS[0], QUESTIONS[1 + draw % (len(QUESTIONS) - 1)]):
        report = ask(question, str(path))
        if report is not None:
            assert_report(report, draw >> 8)
            assert_findings(getattr(report, "findings", ()))


def _pth(data: bytes, directory: Path) -> None:
    _put(directory, "params.json", json.dumps(PARAMS).encode())
    (directory / PTH).write_bytes(data)
    _ask_of(directory, data)


@cache
def _put(directory: Path, file: str, data: bytes) -> None:
    """A file that stays the same."""
    (directory / file).write_bytes(data)


def _scan(data: bytes, directory: Path) -> None:
    (directory / "strange.bin").write_bytes(data)
    report = ask(li.scan_files, str(directory / "strange.bin"))
    assert report is not None
    assert_report(report, zlib.crc32(data))
    if not report.files:  # it begins as another format does, and has no pickle in it
        return
    (scanned,) = report.files
    for pickle in scanned.pickles:
        positions = [entry.position for entry in pickle.globals]
        assert positions == sorted(positions)
        assert all(" > " in pickle.where or at < len(data) for at in positions)
    if data.startswith(b"\x80"):
        named = {entry.name for pickle in scanned.pickles for entry in pickle.globals}
        with suppress(AssertionError):  # no pickle to pickletools
            assert {
                f"{module}.{name}" for module, name in _globals(data)
            } <= named or scanned.oddities


# --- Hugging Face's layout ------------------------------------------------------------------------

SAFETENSORS = "model.safetensors"
HUB_SHARDS = {
    "model-00001-of-00002.safetensors": {
        "model.embed_tokens.weight": (16, 8),
        "model.layers.0.input_layernorm.weight": (8,),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.self_attn.k_proj.weight": (4, 8),
        "model.layers.0.self_attn.v_proj.weight": (4, 8),
        "model.layers.0.self_attn.o_proj.weight": (8, 8),
    },
    "model-00002-of-00002.safetensors": {
        "model.layers.0.post_attention_layernorm.weight": (8,),
        "model.layers.0.mlp.gate_proj.weight": (24, 8),
        "model.layers.0.mlp.up_proj.weight": (24, 8),
        "model.layers.0.mlp.down_proj.weight": (8, 24),
        "model.norm.weight": (8,),
    },
}
WEIGHTS = {name: shape for shapes in HUB_SHARDS.values() for name, shape in shapes.items()}


def safetensors_file(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Tensors of zeros, as safetensors writes them."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(position)


def _safetensors_header(data: bytes, directory: Path) -> None:
    header = ask(read_header, InMemory(SAFETENSORS, data), SAFETENSORS)
    _deep_check(SAFETENSORS, data)
    if header is None:
        return
    position = begin = 8 + int.from_bytes(data[:8], "little")
    for entry in header.entries:
        assert position == entry.start <= entry.end
        position = entry.end
    assert position == header.end
    assert len({entry.name for entry in header.entries}) == len(header.entries)
    # What is read here, the reference reads as well, but for a zero that is written -0.
    if header.end == len(data) and b"-0" not in data[:begin]:
        theirs = dict(safetensors.deserialize(data))
        assert {e.name: (e.dtype, list(e.shape)) for e in header.entries} == {
            name: (tensor["dtype"], tensor["shape"]) for name, tensor in theirs.items()
        }


def _hub(data: bytes, directory: Path) -> None:
    _put(directory, "config.json", json.dumps(HUB_CONFIG).encode())
    (directory / SAFETENSORS).write_bytes(data)
    _ask_of(directory, data)


def _index(data: bytes, directory: Path) -> None:
    _put(directory, "config.json", json.dumps(HUB_CONFIG).encode())
    for file, shapes in HUB_SHARDS.items():
        _put(directory, file, safetensors_file(shapes))
    (directory / "model.safetensors.index.json").write_bytes(data)
    _ask_of(directory, data)


# --- configurations -------------------------------------------------------------------------------


def _config(reader: Any, file: str) -> Callable[[bytes, Path], None]:
    def check(data: bytes, directory: Path) -> None:
        config = ask(reader.read_config, InMemory(file, data))
        if not isinstance(config, ModelConfig):
            return
        ask(expected_weights, config)
        _put(directory, SAFETENSORS, safetensors_file(WEIGHTS))
        (directory / file).write_bytes(data)
        _ask_of(directory, data)

    return check


# --- lists of checksums ---------------------------------------------------------------------------

LIST = "checklist.chk"


def _checklist(data: bytes, directory: Path) -> None:
    (directory / LIST).write_bytes(data)
    folder = Folder(str(directory))
    found = ask(read_list, folder, LIST)
    for digest in found.digests:
        assert not digest.file.startswith(("/", "../")), digest
        assert digest.file != ".."
        assert digest.digest == digest.digest.lower()
    assert_findings(found.findings)
    _put(directory, PTH, b"weights")
    report = ask(li.verify_checksums, str(directory))
    if report is not None:
        assert_report(report, zlib.crc32(data))


def _hub_metadata(data: bytes, directory: Path) -> None:
    folder = directory / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{SAFETENSORS}.metadata").write_bytes(data)
    found = ask(read_hub_digests, Folder(str(directory)), [""])
    assert_findings(found.findings)
    assert all(not is_list(digest.file) for digest in found.digests)


# --- tokenizers -----------------------------------------------------------------------------------

MODEL = "tokenizer.model"
TEXT = "Hello  wörld 🦙\n<s> <|eot_id|> 12"


def _use_tokenizer(path: Path) -> None:
    """Load it, and once to ids and back."""
    tokenizer = ask(li.load_tokenizer, str(path))
    if tokenizer is None:
        return
    for special in (False, True):
        ids = ask(tokenizer.encode, TEXT, bos=True, eos=True, special=special)
        if ids is None:
            ids = ask(tokenizer.encode, TEXT, special=special) or []
        ask(tokenizer.decode, ids)
        ask(tokenizer.decode_bytes, ids)
    ask(tokenizer.encode_bytes, b"a\xff\0")
    for id in (0, tokenizer.vocab_size // 2, tokenizer.vocab_size - 1):
        ask(tokenizer.token_bytes, id)
        tokenizer.codec.facts(id)
    report = ask(li.describe_vocabulary, tokenizer, stats=True)
    if report is not None:
        assert_report(report, 1)


def _sentencepiece(data: bytes, directory: Path) -> None:
    found = ask(parse_sentencepiece, data, MODEL)
    ask(read_vocabulary, InMemory(MODEL, data), MODEL)
    try:
        count = count_pieces(data)
    except ValueError:
        count = None
    if found is None:
        return
    assert count is None or count <= len(found.pieces)
    (directory / MODEL).write_bytes(data)
    _use_tokenizer(directory / MODEL)


def _tiktoken(data: bytes, directory: Path) -> None:
    ranks = ask(parse_ranks, data, MODEL)
    vocabulary = ask(read_vocabulary, InMemory(MODEL, data), MODEL)
    if ranks is None:
        return
    assert list(ranks.values()) == list(range(len(ranks)))
    assert vocabulary is None or vocabulary.base_tokens in (None, len(ranks))
    (directory / MODEL).write_bytes(data)
    _use_tokenizer(directory / MODEL)


def _tokenizer_json(data: bytes, directory: Path) -> None:
    (directory / "tokenizer.json").write_bytes(data)
    _use_tokenizer(directory / "tokenizer.json")


# --- what a person gives --------------------------------------------------------------------------

SPECIAL = (["<|header_start|>"], ["<|eom_id|>"], ["<|start_header_id|>"], ["<step>"], [])


def _dialogue(data: bytes, directory: Path) -> None:
    messages = ask(read_dialogue, data, "dialogue.json")
    for special_tokens in SPECIAL if messages else ():
        layout = ask(lay_out, messages, special_tokens, "<s>", "</s>")
        for segment in layout.segments if layout else ():
            segment.text.encode("utf-8")


def _questions(data: bytes, directory: Path) -> None:
    for kind in KINDS:
        for question in ask(read_questions, data, "questions.jsonl", kind) or ():
            assert 0 <= question.label < len(question.endings) == len(question.characters)
            "".join((question.context, *question.endings)).encode("utf-8")


def _ids(data: bytes, directory: Path) -> None:
    ask(parse_ids, data.decode("utf-8", "surrogateescape"), "--ids")


def _recording(suffix: str) -> Callable[[bytes, Path], None]:
    def check(data: bytes, directory: Path) -> None:
        from llamainspect.model.recordings import load

        file = directory / f"logits{suffix}"
        file.write_bytes(data)
        found = ask(load, str(file))
        if found is not None:
            assert len(found.positions) == len(found.logits)
            assert all(0 <= position < len(found.tokens) for position in found.positions)

    return check


TARGETS: dict[str, Target] = {
    "zip": Target(_zip_directory, change.change_zip),
    "salvage": Target(_salvage, change.change_zip),
    "pickle": Target(_pickle, change.change_pickle),
    "pth": Target(_pth, change.change_zip),
    "scan": Target(_scan, change.change_pickled),
    "safetensors": Target(_safetensors_header, change.change_safetensors),
    "hub": Target(_hub, change.change_safetensors),
    "index": Target(_index, change.change_json),
    "params": Target(_config(meta, "params.json"), change.change_json),
    "config": Target(_config(hf, "config.json"), change.change_json),
    "checklist": Target(_checklist, change.change_lines(change.change_bytes)),
    "hub-metadata": Target(_hub_metadata, change.change_lines(change.change_bytes)),
    "sentencepiece": Target(_sentencepiece, change.change_protobuf),
    "tiktoken": Target(_tiktoken, change.change_lines(change.change_bytes)),
    "tokenizer-json": Target(_tokenizer_json, change.change_json, 2**16),
    "dialogue": Target(_dialogue, change.change_json),
    "questions": Target(_questions, change.change_lines(change.change_json)),
    "ids": Target(_ids, change.change_bytes),
    "recording": Target(_recording(".safetensors"), change.change_safetensors),
    "recording-npz": Target(_recording(".npz"), change.change_npz),
}
