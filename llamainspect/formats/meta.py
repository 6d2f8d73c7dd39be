"""Meta's layout: consolidated.NN.pth, one per model-parallel rank, and params.json."""

import re
import zlib

from llamainspect.config import ModelConfig
from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.formats.strict_json import read_json_object
from llamainspect.formats.torch_pickle import (
    MAX_PICKLE_NBYTES,
    Contents,
    StorageRef,
    read_pickle,
)
from llamainspect.formats.torch_zip import Record, locate_record, read_directory
from llamainspect.names import listing
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo

WEIGHT_FILE = re.compile(r"consolidated(?:\.(\d+))?\.pth")
CONFIG_FILE = "params.json"
PICKLE = "data.pkl"


def weight_files(source: Source) -> list[str]:
    """consolidated.pth or consolidated.NN.pth by rank, or the one file the person named."""
    if source.only:
        return [source.only]
    found = [(file, WEIGHT_FILE.fullmatch(file)) for file in source.files()]
    return [file for _, file in sorted((int(m[1] or 0), file) for file, m in found if m)]


def read_config(source: Source) -> ModelConfig:
    """From params.json. Raises MissingFile or CorruptFile."""
    return ModelConfig.from_params(read_json_object(source, CONFIG_FILE), CONFIG_FILE)


def locate(source: Source, storage: Storage) -> int:
    """Offset of a storage's first byte: read from its zip record's local header."""
    return locate_record(source, storage.file, storage.start, storage.nbytes)


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
        )
        for name, tensor in contents.tensors
        if tensor.storage.key in storages
    ]
    return tensors, [*damaged, *_describe_contents(file, contents), *findings]


def _read_contents(
    source: Source, file: str, records: dict[str, Record]
) -> tuple[Contents, list[Finding]]:
    record = records.get(PICKLE)
    if record is None:
        if "constants.pkl" in records:
            raise UnsupportedFile(
                f"{file}: it is a TorchScript archive (torch.jit.save), which holds a program "
                "rather "
                "than a state dict; save model.state_dict() with torch.save instead"
            )
        raise CorruptFile(
            f"{file}: it holds no {PICKLE}: not written by torch.save, or torch.save was "
            "interrupted; "
            "get it again"
        )
    if record.nbytes > MAX_PICKLE_NBYTES:
        raise UnsupportedFile(f"{file}: {PICKLE} has {record.nbytes:,} bytes; that is not read")
    if "byteorder" in records and records["byteorder"].nbytes < 16:
        order = _read_record(source, file, records["byteorder"])
        if order.strip() != b"little":
            raise UnsupportedFile(
                f"{file}: it was written on a big-endian machine; re-save it on a little-endian one"
            )
    data = _read_record(source, file, record)
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


def _read_record(source: Source, file: str, record: Record) -> bytes:
    offset = locate_record(source, file, record.start, record.nbytes)
    return source.read(file, offset, record.nbytes)


def _check_storages(
    file: str, contents: Contents, records: dict[str, Record]
) -> tuple[dict[str, Storage], list[Finding]]:
    """Storages as the zip has them, held against what the pickle says of them."""
    storages: dict[str, Storage] = {}
    findings: list[Finding] = []
    for ref, nbytes in contents.storages:
        key = f"data/{ref.key}"
        record = records.get(key)
        if record is None:
            message = f"the bytes of {_users(contents, ref)} are not in the file (no record {key})"
            findings.append(Finding("error", file, f"{message}; download it again"))
            continue
        storages[ref.key] = Storage(file, key, record.nbytes, record.start, record.crc32 or None)
        if record.nbytes != nbytes:
            findings.append(
                Finding(
                    "error",
                    file,
                    f"{_users(contents, ref)}: {nbytes:,} bytes are needed, record "
                    f"{key} has {record.nbytes:,}; the file is damaged, download it again",
                )
            )
    if contents.unused:
        keys = listing([f"data/{key}" for key in contents.unused])
        findings.append(
            Finding(
                "warning",
                file,
                f"{sum(contents.unused.values()):,} bytes are stored and no tensor uses them: "
                f"the storages {keys} are larger than the views into them (a slice was saved "
                "with its whole storage; .clone() it before torch.save)",
            )
        )
    orphans = [key for key in records if key.startswith("data/")]
    if len(orphans) > len(storages):
        known = {storage.key for storage in storages.values()}
        orphans = [key for key in orphans if key not in known]
        total = sum(records[key].nbytes for key in orphans)
        findings.append(
            Finding(
                "warning", file, f"{len(orphans):,} storages ({total:,} bytes) belong to no tensor"
            )
        )
    return storages, findings


def _users(contents: Contents, ref: StorageRef) -> str:
    names = [name for name, tensor in contents.tensors if tensor.storage.key == ref.key]
    return listing(names) if names else "an unused storage"


def _describe_contents(file: str, contents: Contents) -> list[Finding]:
    findings = [
        Finding(
            "error",
            file,
            f"its pickle names {name} (at byte {position:,}), which is no tensor "
            "construct: loading the file the ordinary way would import it and may run it; nothing "
            "was "
            "run here. Load it only with torch.load(..., weights_only=True)",
        )
        for name, position in contents.foreign
    ]
    findings += [
        Finding("warning", file, f"{name} is given more than once; the last one counts")
        for name in contents.repeated
    ]
    findings += [
        Finding(
            "warning", file, f"{name} was saved from the meta device: it has a shape, no values"
        )
        for name in contents.without_data
    ]
    return findings
