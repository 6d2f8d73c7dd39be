"""Hugging Face's layout: config.json, and safetensors (or pytorch_model*.bin) in one file or many.

Tensors come out under Meta's names. What a name and its bytes mean is `hub_names`'s; here are the
files, the index that says which shard holds what, and whether it tells the truth. Sources: the
format's page (see `safetensors_header`), and `save_pretrained` of transformers 4 and 5.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from llamainspect.architecture import expected_weights
from llamainspect.config import HUB_CONFIG_FILE, PARAMS_FILE, ModelConfig
from llamainspect.dtypes import DTYPES
from llamainspect.errors import CorruptFile, LlamaInspectError, MissingFile, reason_of
from llamainspect.formats.meta import HUB_FILE
from llamainspect.formats.meta import locate as locate_in_zip
from llamainspect.formats.meta import read_tensors as read_pickled
from llamainspect.formats.safetensors_header import Entry, read_header
from llamainspect.formats.strict_json import read_json_object
from llamainspect.hub_config import config_from_hub, says_llama
from llamainspect.hub_names import embedding_rows_of, translate
from llamainspect.names import compress, counted, listing
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Assembly, Weight

CONFIG_FILE = HUB_CONFIG_FILE
SAFETENSORS = ".safetensors"
# The usual names, those first that transformers looks for first.
STEMS = (("model", SAFETENSORS), ("pytorch_model", ".bin"))
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<of>\d{5,6})(?P<ending>\.\w+)")


def weight_files(source: Source) -> list[str]:
    """The files that make one model, or the one file the person named."""
    if source.only:
        return [source.only] if HUB_FILE.fullmatch(source.only) else []
    present = source.files()
    for stem, ending in STEMS:
        single, index = f"{stem}{ending}", f"{stem}{ending}.index.json"
        if single in present:
            return [single]
        named = set(_files_named(source, index)) if index in present else set()
        shards = [file for file in present if file in named or _is_shard(file, stem, ending)]
        if shards:
            return shards
    others = [file for file in present if file.endswith(SAFETENSORS)]
    sets = {found["stem"] if (found := SHARD.fullmatch(file)) else file for file in others}
    return others if len(sets) == 1 else []


def read_config(source: Source) -> ModelConfig:
    """From config.json, or params.json where that is all there is.

    Raises MissingFile, CorruptFile, and UnsupportedFile for what is no Llama.
    """
    files = source.files()
    if CONFIG_FILE not in files and PARAMS_FILE in files:
        return ModelConfig.from_params(read_json_object(source, PARAMS_FILE))
    return config_from_hub(read_json_object(source, CONFIG_FILE), CONFIG_FILE)


def locate(source: Source, storage: Storage) -> int:
    """Offset of a storage's first byte, which a safetensors header says itself."""
    return locate_in_zip(source, storage) if _is_pickled(storage.file) else storage.start


def read_tensors(source: Source, file: str) -> tuple[list[TensorInfo], list[Finding]]:
    """Every tensor of one file, under the name that it has there."""
    if _is_pickled(file):
        return read_pickled(source, file)
    header = read_header(source, file)
    tensors = [_tensor(file, entry) for entry in header.entries]
    return tensors, _check_end(source, file, header.end, header.entries)


def embedding_rows(source: Source, files: list[str], config: ModelConfig) -> int | None:
    """Tokens that the weights have a vector for; None when no file that can be read tells."""
    for file in files:
        with suppress(LlamaInspectError, OSError):
            for tensor in read_tensors(source, file)[0]:
                if (rows := embedding_rows_of(tensor, config)) is not None:
                    return rows
    return None


def assemble(
    source: Source,
    shards: dict[str, dict[str, TensorInfo]],
    unreadable: set[str],
    config: ModelConfig | None,
) -> Assembly:
    """The weights under Meta's names, and whether files and index fit together."""
    findings, complete = _check_files(source, shards, unreadable)
    tensors, doubles = _merge(shards)
    findings += doubles
    is_llama = config is not None or _may_be_llama(source)
    weights: dict[str, Weight] = {}
    for tensor in tensors:
        under_own_name = (Weight(tensor.name, tensor.shape, (tensor,)),)
        for weight in translate(tensor, config) if is_llama else under_own_name:
            if weight.name in weights:
                other = weights[weight.name].parts[0]
                message = f"it is the same weight as {other.name} in {other.file}, which counts"
                findings.append(Finding("error", f"{tensor.name} in {tensor.file}", message))
            else:
                weights[weight.name] = weight
    if config is not None and config.vocab_size is None:  # as params.json may leave it
        embedding = weights.get("tok_embeddings.weight")
        if embedding and len(embedding.shape) == 2:
            config = config._replace(vocab_size=embedding.shape[0])
        else:
            message = "it leaves vocab_size open, and no embedding tells it: shapes not checked"
            findings.append(Finding("error", config.file, message))
    known = config is not None and config.vocab_size is not None
    expected = expected_weights(config, weights) if config and known else {}
    if not complete:  # what is missing is in files that are not here, as was said
        expected = {name: spec for name, spec in expected.items() if name in weights}
    if config is not None:
        findings += _check_prefixes(tensors, config)
    return Assembly(config, weights, expected, len(shards) + len(unreadable), tuple(findings))


# --- files ----------------------------------------------------------------------------------------


def _is_pickled(file: str) -> bool:
    return not file.endswith(SAFETENSORS)


def _is_shard(file: str, stem: str, ending: str) -> bool:
    found = SHARD.fullmatch(file)
    return found is not None and (found["stem"], found["ending"]) == (stem, ending)


def _tensor(file: str, entry: Entry) -> TensorInfo:
    storage = Storage(file, entry.name, entry.end - entry.start, entry.start)
    return TensorInfo(entry.name, DTYPES[entry.dtype], entry.shape, storage)


def _check_end(source: Source, file: str, end: int, entries: Iterable[Entry]) -> list[Finding]:
    """Whether the file ends where its last tensor does."""
    nbytes = source.nbytes(file)
    if nbytes > end:
        message = f"{nbytes - end:,} bytes follow its last tensor, which no reader accepts"
        return [Finding("error", file, f"{message}; download it again")]
    if nbytes == end:
        return []
    absent = [entry.name for entry in entries if entry.start >= nbytes and entry.end > nbytes]
    cut = [entry.name for entry in entries if entry.start < nbytes < entry.end]
    parts = [f"{cut[0]} is cut"] if cut else []
    if absent:
        parts.append(f"of {counted(len(absent), 'tensor')} nothing is there: {listing(absent)}")
    message = f"cut short: {nbytes:,} of {end:,} bytes; {', '.join(parts)}; download it again"
    return [Finding("error", file, message)]


def _may_be_llama(source: Source) -> bool:
    """Whether names may be taken for a Llama's: not when config.json says otherwise."""
    try:
        return says_llama(read_json_object(source, CONFIG_FILE))
    except (LlamaInspectError, OSError):
        return True


def _check_prefixes(tensors: list[TensorInfo], config: ModelConfig) -> list[Finding]:
    """Names of another class of transformers than config.json names: it would not find them."""
    composite = config.vision is not None or config.cross_attention is not None
    for prefix, what in (
        ("language_model.", "as of a model with an image encoder, which config.json does not name"),
        ("base_model.model.", "as PEFT holds a model in memory"),
    ):
        named = [tensor.name for tensor in tensors if tensor.name.startswith(prefix)]
        if 2 * len(named) > len(tensors) and not (composite and prefix == "language_model."):
            message = f"names begin with {prefix!r}, {what}; loaders do not find them"
            return [Finding("warning", listing(compress(named), 1), message)]
    return []


def _merge(
    shards: dict[str, dict[str, TensorInfo]],
) -> tuple[list[TensorInfo], list[Finding]]:
    """All tensors, each once; of two of one name that of the first file counts."""
    merged: dict[str, TensorInfo] = {}
    doubles: dict[tuple[str, str], list[str]] = {}
    for file, tensors in shards.items():
        for name, tensor in tensors.items():
            if name in merged:
                doubles.setdefault((merged[name].file, file), []).append(name)
            else:
                merged[name] = tensor
    return list(merged.values()), [
        Finding(
            "error",
            file,
            f"{listing(compress(names))} ({counted(len(names), 'tensor')}) stand in {first} too, "
            "which is read; files of two models, or of two ways to cut one, are mixed here",
        )
        for (first, file), names in doubles.items()
    ]


# --- the index ------------------------------------------------------------------------------------


def _files_named(source: Source, index: str) -> list[str]:
    """The files that an index names, if it can be read; those outside the directory left out."""
    try:
        table = read_json_object(source, index).get("weight_map")
    except (LlamaInspectError, OSError):
        return []
    values = table.values() if isinstance(table, dict) else ()
    names = {name for name in values if isinstance(name, str) and _is_inside(name)}
    return sorted(name for name in names if name.endswith((SAFETENSORS, ".bin")))


def _is_inside(name: str) -> bool:
    """Whether it is the plain name of a file: the index lies in the directory that it speaks of."""
    return bool(name) and "/" not in name and "\\" not in name and name not in (".", "..")


def _check_files(
    source: Source, shards: dict[str, dict[str, TensorInfo]], unreadable: set[str]
) -> tuple[list[Finding], bool]:
    """What is wrong with the files as a set, and whether all of them could be read."""
    files = [*shards, *unreadable]
    shard = next((found for file in files if (found := SHARD.fullmatch(file))), None)
    if source.only:
        return ([], True) if shard is None else ([_one_of_many(source.only, shard)], False)
    findings = _check_numbers(files)
    complete = not findings and not unreadable
    present = source.files()
    ending = SAFETENSORS if files[0].endswith(SAFETENSORS) else ".bin"
    usual = [f"{stem}{end}.index.json" for stem, end in STEMS]
    indexes = [file for file in present if file.endswith(f"{ending}.index.json")]
    indexes.sort(key=lambda file: file not in usual)
    if files in [[f"{stem}{end}"] for stem, end in STEMS] or (len(files) == 1 and not indexes):
        shards_too = [file for file in present if _is_usual_shard(file, ending)]
        if unused := shards_too or indexes:
            message = f"{files[0]} is read instead, as loaders do; remove what is not wanted"
            findings.append(Finding("warning", listing(unused), message))
        return findings, complete
    if not indexes:
        message = (
            "there is no index (model.safetensors.index.json), so loaders that go by it find no "
            "weights; it comes with the download"
        )
        return [*findings, Finding("warning", files[0], message)], complete
    about_index, gone = _check_index(source, indexes[0], shards, unreadable)
    return findings + about_index, complete and not gone


def _is_usual_shard(file: str, ending: str) -> bool:
    return any(end == ending and _is_shard(file, stem, end) for stem, end in STEMS)


def _one_of_many(file: str, shard: re.Match[str]) -> Finding:
    message = f"it is one of {int(shard['of']):,} files, and counts are of it alone; give the "
    return Finding("error", file, f"{message}directory that holds all of them")


def _check_numbers(files: list[str]) -> list[Finding]:
    """Whether each of model-00001-of-00004 ... is there, and none of another set."""
    numbers: dict[int, set[int]] = {}
    for file in files:
        if found := SHARD.fullmatch(file):
            numbers.setdefault(int(found["of"]), set()).add(int(found["number"]))
    findings = []
    if len(numbers) > 1:
        sets = " and ".join(f"of {of:,}" for of in sorted(numbers))
        message = f"the names say that they are shards {sets}: two sets are mixed; remove one"
        findings.append(Finding("error", listing(files), message))
    for of, there in numbers.items():
        missing = [number for number in range(1, min(of, 100_000) + 1) if number not in there]
        if missing and len(numbers) == 1:
            message = f"{len(missing):,} of {of:,} shards not here; download what is missing"
            where = f"shard {', '.join(map(str, missing[:8]))}{', …' * (len(missing) > 8)}"
            findings.append(Finding("error", where, message))
    return findings


def _check_index(
    source: Source, index: str, shards: dict[str, dict[str, TensorInfo]], unreadable: set[str]
) -> tuple[list[Finding], list[str]]:
    """The index against the headers: every tensor where it says, and none that it leaves out.

    And which files it names that are not there.
    """
    try:
        raw = read_json_object(source, index)
        table = _weight_map(raw, index)
    except (LlamaInspectError, OSError) as error:
        return [Finding("error", index, reason_of(error, index))], []
    holders = {name: file for file, tensors in shards.items() for name in tensors}
    absent: dict[str, list[str]] = {}
    for name, file in table.items():
        if file in shards and name not in shards[file]:
            absent.setdefault(file, []).append(name)
    findings = []
    for file, names in absent.items():
        elsewhere = {holders[name] for name in names if name in holders}
        where = f"; {listing(sorted(elsewhere))} has some" if elsewhere else ""
        message = (
            f"it looks for {listing(compress(names))} ({counted(len(names), 'tensor')}) in "
            f"{file}, whose header does not have them{where}"
        )
        findings.append(Finding("error", index, message))
    named = set(table.values())
    outside = sorted(file for file in named if not _is_inside(file))
    if outside:
        shown = listing([repr(file) for file in outside])
        message = f"it names {shown}, below or outside of the directory; not opened"
        findings.append(Finding("error", index, message))
    gone = sorted(named - shards.keys() - unreadable - set(outside))
    if gone:
        message = f"it names {listing(gone)}, and there is no such file; download what is missing"
        findings.append(Finding("error", index, message))
    unnamed = [name for name in holders if name not in table]
    if unnamed:
        files = sorted({holders[name] for name in unnamed})
        message = (
            f"it does not name {listing(compress(unnamed))} ({counted(len(unnamed), 'tensor')}) in "
            f"{listing(files)}: loaders that go by it do not find them"
        )
        findings.append(Finding("error", index, message))
    if not gone and not unreadable:
        findings += _check_total(raw, index, shards)
    return findings, gone


def _weight_map(raw: dict[str, Any], index: str) -> dict[str, str]:
    table = raw.get("weight_map")
    if table is None:
        raise MissingFile(f"{index}: it has no weight_map; download it again")
    if not isinstance(table, dict) or not all(isinstance(file, str) for file in table.values()):
        raise CorruptFile(f"{index}: its weight_map is no table of names and files")
    return table


def _check_total(
    raw: dict[str, Any], index: str, shards: dict[str, dict[str, TensorInfo]]
) -> Iterator[Finding]:
    """What the index says of all bytes together; loaders do not need it."""
    metadata = raw.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    views = {  # a pickle may hold two names for the same bytes
        (tensor.storage, tensor.offset, tensor.shape): tensor.nbytes
        for tensors in shards.values()
        for tensor in tensors.values()
    }
    total = sum(views.values())
    if said is not None and said != total:
        what = f"{said:,}" if isinstance(said, int) else str(said)[:40]
        message = f"its total_size is {what}, the tensors have {total:,} bytes"
        yield Finding("warning", index, message)
