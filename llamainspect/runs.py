"""What can be run, and how it is to be run; torch is not needed to say so."""

from typing import NamedTuple

from llamainspect.architecture import expected_weights
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.errors import CorruptFile, InvalidRequest, MissingFile, UnsupportedFile
from llamainspect.names import NOT_PARAMETERS, component_of, counted, listing
from llamainspect.readahead import OUTPUT, layer_weight
from llamainspect.rope import LINEAR
from llamainspect.subject import Subject
from llamainspect.text_path import text_config, text_weights, with_shared_expert

DTYPES = ("fp32", "bf16", "fp16")  # that a forward pass computes in
DEVICES = ("auto", "cpu", "cuda", "mps")
SIMULATED = ("int8", "int4")  # forms of `footprint` that are tried out on the weights
STORED = {"F64": "fp32", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}  # what they are read as


class RunOptions(NamedTuple):
    """How a model is to be run; None: as fits the files and the machine."""

    device: str = "auto"
    dtype: str | None = None  # "fp32", "bf16", "fp16"
    stream: bool | None = None  # one layer in memory at a time
    rope_factor: float | None = None
    simulate: str | None = None  # "int8", "int4"
    group_size: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what means nothing."""
        if self.device not in DEVICES:
            raise InvalidRequest(f"--device: {self.device} is not one of {', '.join(DEVICES)}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidRequest(f"--dtype: {self.dtype} is not one of {', '.join(DTYPES)}")
        if self.rope_factor is not None and not 0 < self.rope_factor < float("inf"):
            raise InvalidRequest("--rope-factor: a number above 0 is needed")
        if self.simulate is None and self.group_size is not None:
            raise InvalidRequest("--group-size goes with --simulate int8 or int4")
        if self.simulate is not None and self.simulate not in SIMULATED:
            raise InvalidRequest(
                f"--simulate: {self.simulate} is not one of {', '.join(SIMULATED)}"
            )
        if self.group_size is not None and self.group_size < 1:
            raise InvalidRequest("--group-size: a whole number from 1 upwards is needed")


class Sampling(NamedTuple):
    """How the next token is chosen; a temperature of 0 takes the most likely one."""

    temperature: float = 0.0
    top_k: int | None = None  # only the so many most likely ones
    top_p: float | None = None  # only the most likely ones that together have this probability
    seed: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest for numbers that mean nothing."""
        if not 0 <= self.temperature < float("inf"):
            raise InvalidRequest("--temperature: a number from 0 (greedy) upwards is needed")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidRequest("--top-k: a whole number from 1 upwards is needed")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidRequest("--top-p: a number above 0 and up to 1 is needed")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InvalidRequest("--seed: a whole number from 0 to below 2^63 is needed")
        if self.temperature == 0 and (self.top_k, self.top_p, self.seed) != (None, None, None):
            raise InvalidRequest(
                "--top-k, --top-p and --seed are of sampling, which --temperature above 0 asks for"
            )

    @property
    def text(self) -> str:
        """For a report."""
        if self.temperature == 0:
            return "greedy"
        parts = [f"temperature {self.temperature:g}"]
        parts += [f"top-k {self.top_k}"] if self.top_k else []
        parts += [f"top-p {self.top_p:g}"] if self.top_p else []
        return ", ".join(parts)


def check_runnable(subject: Subject) -> tuple[Checkpoint, ModelConfig]:
    """The checkpoint, if a forward pass can be made of it, and the configuration that fits it: of
    the text model alone, its weights as `text_path` names them.

    Raises MissingFile, CorruptFile or UnsupportedFile with the first reason why not.
    """
    if subject.checkpoint is None:
        raise MissingFile(
            f"{subject.name}: there are no weights, and this runs them; give the directory of a "
            "checkpoint"
        )
    _check_kind(subject)
    checkpoint = subject.checkpoint._replace(weights=text_weights(subject.checkpoint))
    config = _with_stored_heads(checkpoint, text_config(subject.config))
    _check_weights(checkpoint, config)
    return checkpoint._replace(weights=with_shared_expert(checkpoint.weights)), config


def _with_stored_heads(checkpoint: Checkpoint, config: ModelConfig) -> ModelConfig:
    """405B in 16 shards stores each KV head twice, and only checksums tell; both can be run."""
    weight = checkpoint.weights.get(layer_weight(0, "wk"))
    if weight is None or checkpoint.config is None or len(weight.shape) != 2:
        return config
    stored = checkpoint.config.n_kv_heads
    fits = weight.shape[0] == stored * config.head_dim
    return config._replace(n_kv_heads=stored) if fits else config


def _check_kind(subject: Subject) -> None:
    """Raises UnsupportedFile for what is no text model in plain floats."""
    config = subject.config
    if subject.form != "plain" or config.quantization is not None or config.lora is not None:
        what = f"quantised ({subject.form})"
    elif config.attention_bias or config.mlp_bias:
        what = "no Llama of Meta's: its linears have biases"
    elif config.hidden_act != "silu":
        what = f"no Llama of Meta's: its feed-forward uses {config.hidden_act[:40]}"
    elif config.rope_type is not None and config.rope_type != LINEAR:
        raise UnsupportedFile(
            f"{subject.name}: its positions are scaled by {config.rope_type[:40]!r}, which is not "
            "computed here (llama3 and linear are)"
        )
    elif config.head_dim % 2:
        raise UnsupportedFile(
            f"{subject.name}: head_dim {config.head_dim} is odd, and RoPE turns pairs of numbers"
        )
    else:
        return
    raise UnsupportedFile(
        f"{subject.name}: it is {what}; the forward pass is of Llamas in floats, 1 to 4"
    )


def _check_weights(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Raises MissingFile, CorruptFile or UnsupportedFile unless every weight is there as needed."""
    missing: list[str] = []
    for name, spec in expected_weights(config, checkpoint.weights).items():
        if component_of(name) in NOT_PARAMETERS:
            continue
        weight = checkpoint.weights.get(name)
        if weight is None:
            if spec.required or name == OUTPUT:
                missing.append(name)
        elif not weight.complete or not weight.parts:
            raise MissingFile(
                f"{name}: {len(weight.parts)} of its {weight.ranks} parts can be read; download "
                "the missing shards"
            )
        elif weight.shape != spec.shape:
            raise CorruptFile(
                f"{name}: its shape is {list(weight.shape)}, and the configuration asks for "
                f"{list(spec.shape or ())}; `llamainspect summary` says what else differs"
            )
        elif unusual := {part.dtype.name for part in weight.parts} - STORED.keys():
            raise UnsupportedFile(
                f"{name}: it is stored as {listing(sorted(unusual))}; the forward pass takes "
                "floats of 16, 32 and 64 bits, as in the release before it was quantised"
            )
    if missing == [OUTPUT] and (config.tied_output or config.file == PARAMS_FILE):
        return  # tied, with one name for both
    if missing:
        raise MissingFile(
            f"{checkpoint.source.place}: {counted(len(missing), 'weight')} that the configuration "
            f"asks for are not there: {listing(missing)}; `llamainspect summary` says more"
        )
