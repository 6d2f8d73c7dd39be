"""Meta's layout: consolidated.NN.pth, one per model-parallel rank, and params.json.

Of FP8 releases also fp8_scales_N.pt, one per rank: their tensors have keys of their own, as
llama-models' `llama3/quantization/loader.py` and `llama4/scripts/quantize.py` spell them.
"""

import re
import zlib
from collections.abc import Iterable
from contextlib import suppress

from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.formats.model_parallel import SCALES_FILE, WEIGHT_FILE, count_rows, join_ranks
from llamainspect.formats.strict_json import read_json_object
from llamainspect.formats.torch_pickle import (
    MAX_PICKLE_NBYTES,
    Contents,
    StorageRef,
    read_pickle,
)
from llamainspect.formats.torch_zip import (
    PICKLE,
    STORAGE,
    Record,
    locate_record,
    read_directory,
    read_root,
)
from llamainspect.names import counted, listing
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Assembly

CONFIG_FILE = PARAMS_FILE
# Llama 3 has the rank in it, too; Llama 4 has scales for the routed experts of a layer.
SCALES_KEY = re.compile(
    r"(?:(?P<dense>\d{1,5})_feed_forward|layers\.(?P<routed>\d{1,5})\.feed_forward\.experts)"
    r"\.(?P<matrix>w[123])(?:_(?P<rank>\d{1,5}))?"
)
HUB_FILE = re.compile(r".*\.safetensors|pytorch_model.*\.bin")  # of Hugging Face's layout
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # {"model": {...}, ...}
TORCHSCRIPT = "constants.pkl"
BYTE_ORDER = "byteorder"
LITTLE = b"little"
MAX_EXAMPLES = 3


def weight_files(source: Source) -> list[str]:
    """consolidated.pth or consolidated.NN.pth by rank, and then the scales that stand in files of
    their own; or the one file the person named."""
    if source.only:
        others = HUB_FILE.fullmatch(source.only) or source.only.endswith(".json")
        return [] if others else [source.only]
    files = source.files()
    shards = _by_rank(WEIGHT_FILE, files)
    return shards + _by_rank(SCALES_FILE, files) if shards else []


def _by_rank(pattern: re.Pattern[str], files: Iterable[str]) -> list[str]:
    found = [(file, pattern.fullmatch(file)) for file in files]
    return [file for _, file in sorted((int(m[1] or 0), file) for file, m in found if m)]


def read_config(source: Source) -> ModelConfig:
    """From params.json. Raises MissingFile or CorruptFile."""
    return ModelConfig.from_params(read_json_object(source, PARAMS_FILE), PARAMS_FILE)


def locate(source: Source, storage: Storage) -> int:
    """Offset of a storage's first byte: read from its zip record's local header."""
    return locate_record(source, storage.file, storage.key, Record(storage.start, storage.nbytes))


def assemble(
    source: Source,
    shards: dict[str, dict[str, TensorInfo]],
    unreadable: set[str],
    config: ModelConfig | None,
) -> Assembly:
    """The weights, each joined from the parts of all ranks."""
    unwrapped = {
        file: _unwrap(tensors)
        for file, tensors in shards.items()
        if source.only or not SCALES_FILE.fullmatch(file)
    }
    scales = {file: tensors for file, tensors in shards.items() if file not in unwrapped}
    findings = _put_beside(unwrapped, scales)
    unreadable = {file for file in unreadable if not SCALES_FILE.fullmatch(file)}
    whole = join_ranks(source, locate, unwrapped, unreadable, config)
    return whole._replace(findings=(*findings, *whole.findings))


def _put_beside(
    shards: dict[str, dict[str, TensorInfo]], scales: dict[str, dict[str, TensorInfo]]
) -> list[Finding]:
    """Each rank's scales among the tensors of its shard, called like the matrix they are of."""
    by_rank = {_rank(WEIGHT_FILE, file): tensors for file, tensors in shards.items()}
    there = {_rank(SCALES_FILE, file) for file in scales}
    message = "it is not there or cannot be read, and other shards have theirs; download it"
    findings = [
        Finding("error", f"fp8_scales_{rank}.pt", message) for rank in by_rank
        if there and rank not in there
    ]  # fmt: skip
    first: dict[int, str] = {}
    for file, tensors in scales.items():
        rank = _rank(SCALES_FILE, file)
        if first.setdefault(rank, file) != file:
            message = f"it has the number of {first[rank]}, which is read instead; remove one"
            findings.append(Finding("error", file, message))
            continue
        shard = by_rank.get(rank)
        if shard is None:
            message = f"it belongs to consolidated.{rank:02d}.pth, which cannot be read"
            findings.append(Finding("warning", file, message))
            continue
        strange = []
        for key, tensor in tensors.items():
            found = SCALES_KEY.fullmatch(key)
            if found is None or int(found["rank"] or rank) != rank:
                strange.append(key)
                continue
            layer, inner, axes = found["dense"], "feed_forward", 1
            if layer is None:
                layer, inner, axes = found["routed"], "feed_forward.experts", 2
            name = f"layers.{int(layer)}.{inner}.{found['matrix']}.scales"
            shard[name] = _of_rows(tensor, axes)
        if strange:
            message = (
                f"no scales of rank {rank} of a feed-forward, and not used: {listing(strange)}"
            )
            findings.append(Finding("error", file, message))
    return findings


def _of_rows(scales: TensorInfo, axes: int) -> TensorInfo:
    """(rows, 1) as (rows), of experts (experts, rows, 1) as (experts, rows)."""
    if len(scales.shape) != axes + 1 or scales.shape[-1] != 1:
        return scales
    strides = None if scales.strides is None else scales.strides[:-1]
    return scales._replace(shape=scales.shape[:-1], strides=strides)


def _rank(pattern: re.Pattern[str], file: str) -> int:
    found = pattern.fullmatch(file)
    return int(found[1] or 0) if found else 0


def embedding_rows(source: Source, files: list[str], config: ModelConfig) -> int | None:
    """Tokens that the weights have a vector for, by the header of the first file."""
    with suppress(LlamaInspectError, OSError):  # `summary` tells what is wrong with weights
        ranks = sum(not SCALES_FILE.fullmatch(file) for file in files)
        named = {tensor.name: tensor for tensor in read_tensors(source, files[0])[0]}
        return count_rows({files[0]: _unwrap(named)}, ranks, config.dim)
    return None


def read_tensors(source: Source, file: str) -> tuple[list[TensorInfo], list[Finding]]:
    """Tensors of one .pth, in the order they were saved, without reading any of their bytes."""
    records = read_directory(source, file)
    contents, damaged = _read_contents(source, file, records)
    storages, findings = _check_storages(file, contents, records)
    tensors = [
        TensorInfo(
            name,
            tensor.dtype,
            tensor.shape,
            storages[tensor.storage.key],
            tensor.offset,
            tensor.strides,
            tensor.conjugate,
            tensor.negative,
            tensor.meaning,
        )
        for name, tensor in contents.tensors
        if tensor.storage.key in storages
    ]
    renamed = _check_rank(file, read_root(source, file))
    return tensors, [*damaged, *renamed, *_describe_contents(file, contents), *findings]


def _read_contents(
    source: Source, file: str, records: dict[str, Record]
) -> tuple[Contents, list[Finding]]:
    if TORCHSCRIPT in records:
        raise UnsupportedFile(
            f"{file}: it is a TorchScript archive (torch.jit.save), which holds a program rather "
            "than a state dict; save model.state_dict() with torch.save instead"
        )
    record = records.get(PICKLE)
    if record is None:
        raise CorruptFile(
            f"{file}: it holds no {PICKLE}: not written by torch.save, or torch.save was "
            "interrupted; get it again"
        )
    if record.nbytes > MAX_PICKLE_NBYTES:
        raise UnsupportedFile(f"{file}: {PICKLE} has {record.nbytes:,} bytes; that is not read")
    if BYTE_ORDER in records:
        _check_byte_order(source, file, records[BYTE_ORDER])
    data = _read_record(source, file, PICKLE, record)
    damaged = []
    if record.crc32 and zlib.crc32(data) != record.crc32:
        damaged.append(
            Finding(
                "error",
                file,
                f"{PICKLE} differs from its CRC-32: the names and shapes below may be "
                "wrong; download the file again",
            )
        )
    try:
        return read_pickle(data), damaged
    except LlamaInspectError as error:
        raise type(error)(f"{file}, {PICKLE}: {error}") from error


def _check_rank(file: str, saved_as: str) -> list[Finding]:
    """torch keeps the name a file was saved under, so a shard in another's place shows."""
    here, there = WEIGHT_FILE.fullmatch(file), WEIGHT_FILE.fullmatch(f"{saved_as}.pth")
    if not here or not there or int(here[1] or 0) == int(there[1] or 0):
        return []
    message = (
        f"torch saved it as {saved_as}.pth: it was renamed, and shards in another order give "
        "another model"
    )
    return [Finding("warning", file, message)]


def _check_byte_order(source: Source, file: str, record: Record) -> None:
    """Files without this record are little-endian; others say so, or are not read."""
    order = _read_record(source, file, BYTE_ORDER, record) if record.nbytes < 16 else b""
    if order != LITTLE:
        what = "big-endian" if order == b"big" else "in no byte order that torch knows"
        raise UnsupportedFile(
            f"{file}: its numbers are {what}; re-save it with torch.save on a little-endian machine"
        )


def _read_record(source: Source, file: str, name: str, record: Record) -> bytes:
    return source.read(file, locate_record(source, file, name, record), record.nbytes)


def _check_storages(
    file: str, contents: Contents, records: dict[str, Record]
) -> tuple[dict[str, Storage], list[Finding]]:
    """Storages as the zip has them, held against what the pickle says of them."""
    storages: dict[str, Storage] = {}
    missing: list[StorageRef] = []
    wrong: list[StorageRef] = []
    for ref, nbytes in contents.storages:
        key = f"{STORAGE}{ref.key}"
        record = records.get(key)
        if record is None:
            missing.append(ref)
            continue
        # A CRC of 0 on bytes means that torch was told not to compute one.
        storages[ref.key] = Storage(file, key, record.nbytes, record.start, record.crc32 or None)
        if record.nbytes != nbytes:
            wrong.append(ref)
    findings = []
    if missing:
        findings.append(
            Finding(
                "error",
                file,
                f"the bytes of {_users(contents, missing)} are not in the file (no record "
                f"{listing([f'data/{ref.key}' for ref in missing])}); download it again",
            )
        )
    if wrong:
        sizes = [
            f"data/{ref.key} has {storages[ref.key].nbytes:,} bytes where {ref.nbytes:,} are needed"
            for ref in wrong[:MAX_EXAMPLES]
        ]
        findings.append(
            Finding(
                "error",
                file,
                f"{_users(contents, wrong)}: {'; '.join(sizes)}; the file is damaged, download it "
                "again",
            )
        )
    return storages, findings + _check_waste(file, contents, records)


def _check_waste(file: str, contents: Contents, records: dict[str, Record]) -> list[Finding]:
    findings = []
    if contents.unused:
        keys = listing([f"{STORAGE}{key}" for key in contents.unused])
        findings.append(
            Finding(
                "warning",
                file,
                f"{sum(contents.unused.values()):,} bytes are stored and no tensor uses them: "
                f"in {keys} there is more than the views into it show (a slice was saved "
                "with its whole storage; .clone() it before torch.save)",
            )
        )
    orphans = [
        record.nbytes
        for key, record in records.items()
        if key.startswith(STORAGE) and key[len(STORAGE) :] not in contents.viewed
    ]
    if orphans:
        message = f"{counted(len(orphans), 'storage')} of no tensor: {sum(orphans):,} bytes"
        findings.append(Finding("warning", file, message))
    return findings


def _users(contents: Contents, refs: list[StorageRef]) -> str:
    """The tensors that view these storages."""
    keys = {ref.key for ref in refs}
    names = [name for name, tensor in contents.tensors if tensor.storage.key in keys]
    return listing(names) if names else "unused storages"


def _describe_contents(file: str, contents: Contents) -> list[Finding]:
    findings = [
        Finding(
            "error",
            file,
            f"its pickle names {name} (at byte {position:,}), which is no tensor construct: "
            "loading the file the ordinary way would import it and may run it; nothing was run "
            "here. Load it only with torch.load(..., weights_only=True)",
        )
        for name, position in contents.foreign
    ]
    if contents.more_foreign:
        message = f"its pickle names {contents.more_foreign:,} more that are no tensor constructs"
        findings.append(Finding("error", file, message))
    findings += [
        Finding("warning", file, f"{name} is given more than once; the last one counts")
        for name in contents.repeated
    ]
    findings += [
        Finding(
            "error",
            file,
            f"{name} was saved from the meta device: it has a shape, {list(tensor.shape)} of "
            f"{tensor.dtype.name}, and no values",
        )
        for name, tensor in contents.without_data
    ]
    return findings


def _unwrap(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by name, without the key under which a training script put the state dict."""
    for wrapper in WRAPPERS:
        prefix = f"{wrapper}."
        if f"{prefix}tok_embeddings.weight" in tensors or f"{prefix}norm.weight" in tensors:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
