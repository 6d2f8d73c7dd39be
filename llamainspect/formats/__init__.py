"""One module per format. Headers only: a file becomes TensorInfos, weights stay on disk."""

from typing import Protocol

from llamainspect.config import ModelConfig
from llamainspect.formats import meta
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo


class Format(Protocol):
    """What each module in this folder provides."""

    def weight_files(self, source: Source) -> list[str]:
        """The files that hold weights, in rank order; empty: not this format."""
        ...

    def read_config(self, source: Source) -> ModelConfig:
        """The model's configuration. Raises MissingFile or CorruptFile."""
        ...

    def read_tensors(self, source: Source, file: str) -> tuple[list[TensorInfo], list[Finding]]:
        """Every tensor of one file. Raises when the file cannot be listed at all."""
        ...

    def locate(self, source: Source, storage: Storage) -> int:
        """Offset of a storage's first byte in its file."""
        ...


FORMATS: dict[str, Format] = {"meta": meta}  # the first with weight files wins
