"""A checkpoint: the tensors of all its files joined into the weights of one model."""

import os
from contextlib import suppress
from typing import Literal, NamedTuple

from llamainspect.architecture import WeightSpec
from llamainspect.config import ModelConfig
from llamainspect.errors import (
    LlamaInspectError,
    MissingFile,
    NotACheckpoint,
    UnsupportedFile,
    reason_of,
)
from llamainspect.formats import FORMATS, Format, reader_of
from llamainspect.formats.model_parallel import WEIGHT_FILE
from llamainspect.hub_names import to_hub
from llamainspect.names import component_of, layer_of, listing
from llamainspect.reports import FileEntry, Finding, TensorEntry, TensorPart
from llamainspect.sources import (
    ABSENT,
    CHANGED,
    NATIVE_SUBFOLDER,
    SHRANK,
    Folder,
    Source,
    open_source,
)
from llamainspect.tensors import TensorInfo, contiguous_strides
from llamainspect.weights import Weight

ADAPTER = "adapter_model."  # how the file of an adapter begins
Names = Literal["meta", "hf"]


class Checkpoint(NamedTuple):
    """What a path holds. `findings` are about reading and joining; answers add their own."""

    source: Source
    format: str  # key of FORMATS
    config: ModelConfig | None  # None: missing or unreadable, and then a finding says so
    files: tuple[FileEntry, ...]
    shards: int  # how many the model is cut into, there or not
    weights: dict[str, Weight]  # by Meta's name, in the order of the first file
    expected: dict[str, WeightSpec]  # empty without a configuration
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What concerns a person who looks at single weights: no notes, nothing on the config."""
        return tuple(
            finding
            for finding in self.findings
            if finding.severity != "note" and finding.where != self.config_file
        )

    @property
    def config_file(self) -> str:
        """The file that the configuration is read from, or would be."""
        return self.config.file if self.config else self.reader.CONFIG_FILE

    @property
    def reader(self) -> Format:
        """The format's functions."""
        return FORMATS[self.format]


def open_checkpoint(path: str, config: ModelConfig | None = None) -> Checkpoint:
    """The checkpoint in a directory, in its `original/` folder, or in one weight file.

    `config` stands in where there is none beside the weights. Reads headers only.

    Raises NotACheckpoint, or what a file's reader raised when no weight file can be read; anything
    that leaves something to describe becomes a finding.
    """
    source, name, files = _find(path)
    reader = FORMATS[name]
    found, findings = _read_config(source, reader, files)
    foreign = [f for f in findings if (f.severity, f.where) == ("note", reader.CONFIG_FILE)]
    if found is None and foreign:
        config = None  # it is of no Llama, and none of a Llama may stand in
    shards, entries, problems = _read_files(source, reader, files)
    findings += problems + _check_neighbours(source, reader, files) + _check_original(source)
    unreadable = {entry.file for entry in entries if not entry.readable}
    whole = reader.assemble(source, shards, unreadable, found or config)
    changed = source.changed() if isinstance(source, Folder) else []
    findings += whole.findings
    said = {finding.where for finding in findings if finding.message in (CHANGED, SHRANK)}
    findings += [Finding("error", file, CHANGED) for file in changed if file not in said]
    return Checkpoint(
        source,
        name,
        whole.config,
        tuple(entries),
        whole.shards,
        whole.weights,
        whole.expected,
        tuple(findings),
    )


class ModelSizes(NamedTuple):
    """What a tokenizer has to fit, from the configuration and the headers of weight files."""

    config: ModelConfig | None
    embedding_rows: int | None
    findings: tuple[Finding, ...]
    file: str  # that the configuration is in, or would be


def read_sizes(source: Folder) -> ModelSizes:
    """Of the checkpoint in `source`, if there is one; what is missing there is None."""
    config, findings = None, list[Finding]()
    reader = reader_of(source)
    obstacle = source.obstacle(reader.CONFIG_FILE)
    if obstacle is None:
        config, findings = _read_config(source, reader, [])
    elif obstacle != ABSENT:
        findings = [Finding("error", reader.CONFIG_FILE, f"it cannot be read: {obstacle}")]
    files = reader.weight_files(source)
    rows = reader.embedding_rows(source, files, config) if config is not None and files else None
    errors = tuple(finding for finding in findings if finding.severity == "error")
    return ModelSizes(config, rows, errors, reader.CONFIG_FILE)


def describe_weight(
    checkpoint: Checkpoint, weight: Weight, per_shard: bool = False, names: Names = "meta"
) -> TensorEntry:
    """One weight as a row; `per_shard` reads the header of each part's record for its offset."""
    return TensorEntry(
        name=name_of(checkpoint, weight, names),
        shape=weight.shape,
        dtype=weight.parts[0].dtype.name,
        elements=weight.elements,
        nbytes=weight.nbytes,
        axis=weight.axis,
        files=tuple(part.file for part in weight.parts),
        component=component_of(weight.name),
        layer=layer_of(weight.name),
        parts=tuple(_part(checkpoint, part) for part in weight.parts) if per_shard else (),
    )


def name_of(checkpoint: Checkpoint, weight: Weight, names: Names) -> str:
    """What a weight is called by Meta, or by Hugging Face: there as its file says, if it does."""
    if names == "meta":
        return weight.name
    part = weight.parts[0]
    if part.storage.key.startswith(f"{part.name}["):
        return part.storage.key  # a piece of what the file holds
    return part.name if part.name != weight.name else to_hub(weight.name, checkpoint.config)


def _part(checkpoint: Checkpoint, part: TensorInfo) -> TensorPart:
    return TensorPart(
        file=part.file,
        shape=part.shape,
        strides=part.strides or contiguous_strides(part.shape),
        contiguous=part.strides is None,
        dtype=part.dtype.name,
        offset=checkpoint.reader.locate(checkpoint.source, part.storage) + part.offset,
        nbytes=part.nbytes,
        storage=part.storage.key,
    )


# --- finding and reading -------------------------------------------------------------------------


def _find(path: str) -> tuple[Source, str, list[str]]:
    source: Source = open_source(path)
    candidates: list[Source] = [source]
    if source.only is None:
        with suppress(NotACheckpoint):
            candidates.append(open_source(os.path.join(path, NATIVE_SUBFOLDER)))
    for candidate in candidates:
        for name, reader in FORMATS.items():
            if files := reader.weight_files(candidate):
                return candidate, name, files
    raise NotACheckpoint(_nothing_there(path, source))


def _nothing_there(path: str, source: Source) -> str:
    files = source.files()
    text = f"{path}: no consolidated.*.pth here or in {NATIVE_SUBFOLDER}/, no model.safetensors"
    others = [file for file in files if file.endswith((".pth", ".pt", ".bin", ".safetensors"))]
    if source.only and source.only.endswith(".json"):
        return f"{path}: it is no weight file; give the directory that it stands in"
    if irregular := _irregular(source):
        return f"{text}; of {listing(list(irregular))}: {next(iter(irregular.values()))}"
    if others:
        return f"{text}; to read {listing(others)}, give the path of that file"
    configs = {reader.CONFIG_FILE for reader in FORMATS.values()} & set(files)
    if configs:
        return (
            f"{text}, only {listing(sorted(configs))}; memory, compute, explain and diff "
            "--config-only need no more than that"
        )
    return f"{text}; give a directory that Meta's download made, or one weight file"


def _read_config(
    source: Source, reader: Format, files: list[str]
) -> tuple[ModelConfig | None, list[Finding]]:
    try:
        config = reader.read_config(source)
    except MissingFile:
        if any(file.startswith(ADAPTER) for file in files):
            message = "an adapter alone, as PEFT saves it; adapter_config.json names its model"
            return None, [Finding("note", files[0], message)]
        # Someone who names one file may well have no more; a directory claims to be a checkpoint.
        return None, [
            Finding(
                "warning" if source.only else "error",
                reader.CONFIG_FILE,
                "there is none, so shapes are not checked and shards are joined only where that is "
                "certain; it comes with the download",
            )
        ]
    except (LlamaInspectError, OSError) as error:
        foreign = isinstance(error, UnsupportedFile)  # what is there is described all the same
        message = reason_of(error, reader.CONFIG_FILE)
        return None, [Finding("note" if foreign else "error", reader.CONFIG_FILE, message)]
    if not config.unknown:
        return config, []
    message = f"keys not understood, and so not used: {listing(list(config.unknown), 12)}"
    return config, [Finding("note", config.file, message)]


def _read_files(
    source: Source, reader: Format, files: list[str]
) -> tuple[dict[str, dict[str, TensorInfo]], list[FileEntry], list[Finding]]:
    shards: dict[str, dict[str, TensorInfo]] = {}
    entries: list[FileEntry] = []
    findings: list[Finding] = []
    first_error: LlamaInspectError | OSError | None = None
    for file in files:
        try:
            tensors, problems = reader.read_tensors(source, file)
        except (LlamaInspectError, OSError) as error:
            first_error = first_error or error
            findings.append(Finding("error", file, reason_of(error, file)))
            entries.append(FileEntry(file, _nbytes(source, file), 0, readable=False))
            continue
        shards[file] = {tensor.name: tensor for tensor in tensors}
        findings += problems
        entries.append(FileEntry(file, source.nbytes(file), len(tensors), readable=True))
    if not shards and first_error:
        raise first_error
    if not any(shards.values()):
        found = [finding for finding in findings if finding.severity == "error"]
        reason = f" ({found[0].message})" if found else ""
        raise NotACheckpoint(f"{source.place}: there is no tensor in {listing(files)}{reason}")
    return shards, entries, findings


def _check_neighbours(source: Source, reader: Format, files: list[str]) -> list[Finding]:
    """Links to nothing and FIFOs where weights belong, and names that no loader reads."""
    if source.only:
        return []
    findings = [
        Finding("error", name, f"{reason}, so it is not read")
        for name, reason in _irregular(source).items()
    ]
    if reader is FORMATS["meta"]:
        findings += [
            Finding("warning", file, "its name is not consolidated.NN.pth, so it is not read")
            for file in source.files()
            if file.startswith("consolidated") and file.endswith(".pth") and file not in files
        ]
    return findings


def _irregular(source: Source) -> dict[str, str]:
    """What has the name of a weight file and is none, and why: it is a link to nothing, say."""
    if not isinstance(source, Folder):
        return {}
    files = set(source.files())
    return {
        name: source.obstacle(name) or "it is no regular file"
        for name in source.names()
        if name not in files and (WEIGHT_FILE.fullmatch(name) or name.endswith(".safetensors"))
    }


def _check_original(source: Source) -> list[Finding]:
    """Where Meta's files of the same model lie below Hugging Face's, as in Meta's repositories."""
    if not isinstance(source, Folder) or source.only or NATIVE_SUBFOLDER not in source.folders():
        return []
    files: list[str] = []
    with suppress(OSError):
        files = source.names(NATIVE_SUBFOLDER)
    if not any(WEIGHT_FILE.fullmatch(file) for file in files):
        return []
    message = "Meta's files of the model; `llamainspect diff` tells whether these are the same"
    return [Finding("note", f"{NATIVE_SUBFOLDER}/", message)]


def _nbytes(source: Source, file: str) -> int:
    try:
        return source.nbytes(file)
    except LlamaInspectError:
        return 0
