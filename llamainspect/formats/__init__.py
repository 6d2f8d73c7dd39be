"""One module per format. Headers only: a file becomes TensorInfos, weights stay on disk."""

from typing import Protocol

from llamainspect.config import ModelConfig
from llamainspect.formats import hf, meta
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Assembly


class Format(Protocol):
    """What each module of the table below provides."""

    CONFIG_FILE: str  # the file that holds the configuration

    def weight_files(self, source: Source) -> list[str]:
        """The files that hold weights, in rank order; empty: not this format."""
        ...

    def read_config(self, source: Source) -> ModelConfig:
        """The model's configuration. Raises MissingFile or CorruptFile, and UnsupportedFile for
        what is not a Llama."""
        ...

    def read_tensors(self, source: Source, file: str) -> tuple[list[TensorInfo], list[Finding]]:
        """Every tensor of one file. Raises when the file cannot be listed at all."""
        ...

    def assemble(
        self,
        source: Source,
        shards: dict[str, dict[str, TensorInfo]],
        unreadable: set[str],
        config: ModelConfig | None,
    ) -> Assembly:
        """The whole weights, from the tensors of all files that could be read."""
        ...

    def embedding_rows(self, source: Source, files: list[str], config: ModelConfig) -> int | None:
        """Tokens that the weights have a vector for; None when the files do not tell."""
        ...

    def locate(self, source: Source, storage: Storage) -> int:
        """Offset of a storage's first byte in its file."""
        ...


FORMATS: dict[str, Format] = {"meta": meta, "hf": hf}  # the first with weight files wins


def reader_of(source: Source) -> Format:
    """The format whose weights lie there, or else whose configuration; Meta's if neither does."""
    for reader in FORMATS.values():
        if reader.weight_files(source):
            return reader
    present = source.files()
    return next((r for r in FORMATS.values() if r.CONFIG_FILE in present), FORMATS["meta"])
