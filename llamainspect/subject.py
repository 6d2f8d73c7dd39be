"""The model that a question is about: a checkpoint, a params.json alone, or an official release."""

import os
from typing import NamedTuple

from llamainspect.catalog import OFFICIAL_MODELS, Form, OfficialModel, find_by_name, identify
from llamainspect.census import Census, form_of, take_census
from llamainspect.checkpoint import Checkpoint, open_checkpoint
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest, MissingFile, NotACheckpoint
from llamainspect.formats import FORMATS, Format
from llamainspect.formats.vocabulary import TOKENIZER_FILE, find_tokenizer, read_vocabulary
from llamainspect.nearest import nearest
from llamainspect.reports import Finding
from llamainspect.sources import Folder, Source, open_source


class Subject(NamedTuple):
    """A model, with files or without."""

    name: str  # catalog id, or the path as the person would type it
    config: ModelConfig  # vocab_size known, each KV head once
    tied_output: bool
    official: OfficialModel | None  # the release that it is, or whose configuration it has
    source: Source | None  # where the configuration is
    checkpoint: Checkpoint | None
    census: Census | None
    findings: tuple[Finding, ...]

    @property
    def context_length(self) -> int | None:
        """Tokens: as config.json says, or as published of the release."""
        published = self.official.context_length if self.official else None
        return self.config.context_length or published

    @property
    def form(self) -> Form:
        """Whether it is quantised, as its files or its release say."""
        if self.checkpoint:
            return form_of(self.checkpoint)
        if self.config.quantization:
            return "int4"
        return self.official.form if self.official else "plain"

    @property
    def model(self) -> str:
        """What to call it where the files do not matter."""
        return self.official.id if self.official else self.name

    def check_parameters(self, expected: int) -> list[Finding]:
        """Whether the files hold the parameters that the configuration says.

        Not of quantised files, where values are packed, nor of Llama 3.2 Vision, whose position
        embeddings are stored in another size than published totals count.
        """
        if self.census is None or self.form != "plain" or self.config.cross_attention:
            return []
        there = self.census.parameters.total
        if there == expected:
            return []
        message = (
            f"the files hold {there:,} parameters, the configuration says {expected:,}, which is "
            "what this is about; `llamainspect summary` tells what differs"
        )
        return [Finding("error", self.name, message)]

    def check_context(self, tokens: int) -> list[Finding]:
        """Whether the model was made for so many."""
        limit = self.context_length
        if limit is None or tokens <= limit:
            return []
        message = f"{tokens:,} tokens are more than the {limit:,} of {self.model}"
        return [Finding("warning", "--context", message)]


def find_subject(text: str) -> Subject:
    """What `text` means: a path where there is one, else an official model's name.

    Raises InvalidRequest, with the nearest names, when it is neither; MissingFile when the path
    has no configuration; and what reading a checkpoint raises.
    """
    if os.path.lexists(text):
        return _from_path(text)
    release = find_by_name(text) or _begins_with(text)
    if release is not None:
        return _from_release(release)
    near = nearest(text, (row.id for row in OFFICIAL_MODELS))
    raise InvalidRequest(
        f"{text}: there is no such path, and no official model is called so; {near}"
        "`llamainspect models` lists all"
    )


def _begins_with(text: str) -> OfficialModel | None:
    """The release that "llama-3.3-70b" or "llama-4-scout" can only mean: all that begin so are the
    same network."""
    name = text.lower()
    rows = [row for row in OFFICIAL_MODELS if name and row.id.startswith((f"{name}-", f"{name}:"))]
    networks = {tuple(row.fields[key] for key in ("dim", "n_layers", "hidden_dim", "moe"))
                for row in rows}  # fmt: skip
    return rows[0] if len(networks) == 1 else None


def _from_release(release: OfficialModel) -> Subject:
    config = release.config._replace(n_kv_heads=release.unique_kv_heads)
    return Subject(release.id, config, release.tied_output, release, None, None, None, ())


def _from_path(path: str) -> Subject:
    for reader in FORMATS.values():
        if os.path.basename(path) == reader.CONFIG_FILE:
            return _from_config(Folder(os.path.dirname(path) or "."), reader)
    try:
        checkpoint = open_checkpoint(path)
    except NotACheckpoint as error:
        source = open_source(path)
        for reader in FORMATS.values():
            if source.only is None and reader.CONFIG_FILE in source.files():
                return _from_config(source, reader)
        raise NotACheckpoint(
            f"{error}, or params.json or config.json, or name an official model"
        ) from error
    return subject_of(checkpoint)


def subject_of(checkpoint: Checkpoint) -> Subject:
    """A checkpoint that was opened. Raises MissingFile without a configuration."""
    if checkpoint.config is None or checkpoint.config.vocab_size is None:
        raise MissingFile(_no_configuration(checkpoint))
    census = take_census(checkpoint)
    official = census.identified.model if census.identified else None
    return Subject(
        name=checkpoint.source.place,
        config=_with_unique_heads(checkpoint.config, official),
        tied_output=census.tied_output,
        official=official,
        source=checkpoint.source,
        checkpoint=checkpoint,
        census=census,
        findings=tuple(f for f in checkpoint.findings if f.severity != "note"),
    )


def _no_configuration(checkpoint: Checkpoint) -> str:
    place, file = checkpoint.source.place, checkpoint.config_file
    if file not in checkpoint.source.files():
        return (
            f"{place}: there is no {file}, and this needs the model's configuration; put it "
            "beside the weights, or name an official model"
        )
    reason = next(f.message for f in checkpoint.findings if f.where == file)
    return f"{place}: this needs the model's configuration, and of {file}: {reason}"


def _from_config(source: Folder, reader: Format) -> Subject:
    """A configuration without weights: the size of its vocabulary may be the tokenizer's."""
    config = reader.read_config(source)
    if config.vocab_size is None:
        config = config._replace(vocab_size=_tokens(source, config))
    identified = identify(config, shards=None, form="plain")
    official = identified.model if identified else None
    tied = config.tied_output
    message = "no weights were looked at: this is of the configuration alone"
    if reader is FORMATS["meta"]:  # whose weights would show it by their bytes
        tied = official is not None and official.tied_output
        output = "the embedding" if tied else "a matrix of its own"
        message += f", and the output is taken to be {output}"
    return Subject(
        name=source.place,
        config=_with_unique_heads(config, official),
        tied_output=tied,
        official=official,
        source=source,
        checkpoint=None,
        census=None,
        findings=(Finding("note", config.file, message),),
    )


def _tokens(source: Folder, config: ModelConfig) -> int:
    place = find_tokenizer(source, (TOKENIZER_FILE,))
    size = None if place is None else read_vocabulary(place.source, config=config).vocab_size
    if size is None:
        raise MissingFile(
            f"{source.place}: {config.file} leaves vocab_size to the tokenizer, and there is no "
            f"{TOKENIZER_FILE} that tells it; put it beside"
        )
    return size


def _with_unique_heads(config: ModelConfig, official: OfficialModel | None) -> ModelConfig:
    """405B in 16 shards may count each KV head twice."""
    if official is None or config.n_kv_heads != official.fields["n_kv_heads"]:
        return config
    return config._replace(n_kv_heads=official.unique_kv_heads)
