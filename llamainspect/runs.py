"""What can be run, and how it is to be run; torch is not needed to say so."""

from typing import NamedTuple

from llamainspect.architecture import expected_weights
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.errors import CorruptFile, InvalidRequest, MissingFile, UnsupportedFile
from llamainspect.formats.model_parallel import SCALES_FILE, WEIGHT_FILE
from llamainspect.names import NOT_PARAMETERS, component_of, counted, layer_of, listing
from llamainspect.readahead import OUTPUT, layer_weight
from llamainspect.reuse import read_too_often
from llamainspect.rope import LINEAR
from llamainspect.subject import Subject
from llamainspect.text_path import text_config, text_weights, with_scales, with_shared_expert
from llamainspect.weights import Beside, Weight, parts_needed, with_beside

DTYPES = ("fp32", "bf16", "fp16")  # that a forward pass computes in
DEVICES = ("auto", "cpu", "cuda", "mps")
SIMULATED = ("int8", "int4")  # forms of `footprint` that are tried out on the weights
STORED = {"F64": "fp32", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}  # what they are read as
QUANTISED = frozenset({"I8", "F8_E4M3"})  # values that have scales beside them
FP8_SCHEMES = frozenset({"fp8_mixed", "fp8"})
SCHEMES = frozenset({"int4_weight_int8_dynamic_activation", "int8_dynamic_activation_int4_weight"})


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
    config = text_config(subject.config)
    weights = with_scales(text_weights(subject.checkpoint), config)
    checkpoint = subject.checkpoint._replace(weights=weights)
    config = _with_stored_heads(checkpoint, config)
    _check_weights(checkpoint, config)
    _check_reuse(checkpoint, config)
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
    """Raises UnsupportedFile for what is no text model of Meta's."""
    config = subject.config
    if not _quantised_natively(subject):
        how = config.quantization.scheme if config.quantization else None
        what = f"quantised ({how or subject.form}) in another way than Meta's files are"
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
        f"{subject.name}: it is {what}; the forward pass is of Llamas 1 to 4, in floats or as Meta "
        "quantised them"
    )


def _quantised_natively(subject: Subject) -> bool:
    """Whether it is in floats, or in Meta's own int4 or FP8."""
    assert subject.checkpoint is not None
    quantization = subject.config.quantization
    if quantization is None:
        return subject.form == "plain" or (
            subject.form == "fp8" and subject.checkpoint.format == "meta"
        )
    known = FP8_SCHEMES if subject.form == "fp8" else SCHEMES
    return quantization.native and quantization.scheme in (None, *known)


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
            raise MissingFile(_incomplete(weight))
        elif weight.shape != spec.shape:
            raise CorruptFile(
                f"{name}: its shape is {list(weight.shape)}, and the configuration asks for "
                f"{list(spec.shape or ())}; `llamainspect summary` says what else differs"
            )
        elif weight.beside is not None:
            _check_quantised(weight, config)
        elif unusual := _dtypes(weight) - STORED.keys():
            kinds = listing(sorted(unusual))
            if unusual <= QUANTISED:
                file = "fp8_scales_N.pt" if unusual == {"F8_E4M3"} else "the file"
                raise MissingFile(
                    f"{name}: it is stored as {kinds}, and there are no scales for it; download "
                    f"{file} again, or the release before it was quantised"
                )
            raise UnsupportedFile(
                f"{name}: it is stored as {kinds}; the forward pass takes floats of 16, 32 and 64 "
                "bits, and what Meta quantised"
            )
    if missing == [OUTPUT] and (config.tied_output or config.file == PARAMS_FILE):
        return  # tied, with one name for both
    if missing:
        raise MissingFile(
            f"{checkpoint.source.place}: {counted(len(missing), 'weight')} that the configuration "
            f"asks for are not there: {listing(missing)}; `llamainspect summary` says more"
        )


def _check_reuse(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Raises UnsupportedFile where views of few bytes pose as the weights of a model."""
    names = expected_weights(config, checkpoint.weights).keys() & checkpoint.weights.keys()
    weights = [weight for name, weight in checkpoint.weights.items() if name in names]
    for name, reason in read_too_often(e for w in weights for e in with_beside(w)).items():
        raise UnsupportedFile(f"{name}: {reason}")


def _dtypes(weight: Weight) -> set[str]:
    return {part.dtype.name for part in weight.parts}


def _check_quantised(weight: Weight, config: ModelConfig) -> None:
    """Raises CorruptFile, MissingFile or UnsupportedFile unless values and what stands beside them
    go together."""
    beside = weight.beside
    assert beside is not None
    for each in with_beside(weight):
        allowed = QUANTISED if each is weight else frozenset(STORED)
        if each is beside.zeros:
            allowed |= {"I8"}
        if not each.complete:
            raise MissingFile(_incomplete(each))
        dtypes = _dtypes(each)
        if unusual := dtypes - allowed:
            raise UnsupportedFile(
                f"{each.name}: it is stored as {listing(sorted(unusual))}, where Meta's quantised "
                f"files have {' or '.join(sorted(allowed))}; get them as they were published"
            )
        if len(dtypes) > 1:
            raise CorruptFile(
                f"{each.name}: its parts are stored as {listing(sorted(dtypes))}; these are shards "
                "of two models"
            )
    experts = len(weight.shape) == 3
    if len(weight.shape) < 2 or (experts and (beside.zeros or beside.adaptor)):
        raise UnsupportedFile(
            f"{weight.name}: scales, zeros or adaptors stand beside it that Meta's code has "
            "for no such weight; get the files as they were published"
        )
    if wrong := _misfit(weight, beside):
        raise CorruptFile(
            f"{wrong.name}: its shape {list(wrong.shape)} does not go with {weight.name} of "
            f"{list(weight.shape)}; the files are damaged, or of two models"
        )
    _check_adaptor(weight, beside, config)
    if beside.hadamard and weight.shape[1].bit_count() != 1:
        raise UnsupportedFile(
            f"{weight.name}: SpinQuant turns rows of {weight.shape[1]:,} numbers, and that is no "
            "power of 2, which Meta's code needs"
        )


def _incomplete(weight: Weight) -> str:
    """Which files do not give their part."""
    aside = any(SCALES_FILE.fullmatch(part.file) for part in weight.parts)
    name, pattern = (
        ("fp8_scales_{}.pt", SCALES_FILE) if aside else ("consolidated.{:02d}.pth", WEIGHT_FILE)
    )
    found = [pattern.fullmatch(part.file) for part in weight.parts]
    there = {int(match[1] or 0) for match in found if match}
    absent = [name.format(rank) for rank in range(weight.ranks) if rank not in there]
    return (
        f"{weight.name}: {len(weight.parts)} of its {weight.ranks} parts can be read, and not that "
        f"of {listing(absent)}; `llamainspect summary` says whether it is damaged or missing; "
        "download it again"
    )


def _check_adaptor(weight: Weight, beside: Beside, config: ModelConfig) -> None:
    """Raises CorruptFile or MissingFile unless adaptor and lora_args go together."""
    lora, adaptor = config.lora, beside.adaptor
    if adaptor is not None and (lora is None or lora.scale is None):
        raise CorruptFile(
            f"{weight.name}: an adaptor stands beside it, and lora_args in {config.file} does not "
            "say its scale; get the file as it was published"
        )
    if lora is not None and adaptor is not None and adaptor[0].shape[0] != lora.rank:
        raise CorruptFile(
            f"{adaptor[0].name}: its rank is {adaptor[0].shape[0]}, and lora_args in {config.file} "
            f"says {lora.rank}; one of the two is of another model"
        )
    if lora is not None and layer_of(weight.name) is not None and adaptor is None:
        raise MissingFile(
            f"{weight.name}: there is no adaptor beside it, and lora_args in {config.file} asks "
            "for one; the file is damaged, download it again"
        )


def _misfit(weight: Weight, beside: Beside) -> Weight | None:
    """The first that has another shape than the values ask for, rank by rank."""
    values = parts_needed(weight)
    for each in (beside.scales, beside.zeros):
        if each is None:
            continue
        parts = parts_needed(each)
        # Where ranks are joined: experts' along their outputs, groups like what they are groups of.
        axis = 1 if len(weight.shape) == 3 else weight.axis if len(each.shape) == 2 else 0
        if len(parts) != len(values) or (len(parts) > 1 and each.axis != axis):
            return each
        for part, value in zip(parts, values, strict=True):
            if len(value.shape) == 3:
                fits = part.shape == (value.shape[0], value.shape[2])
            else:
                rows, columns = value.shape
                groups = part.elements // max(rows, 1)
                fits = part.shape in ((rows,), (rows, groups))
                fits = fits and groups > 0 and columns % groups == 0
            if not fits:
                return each
    if beside.zeros is not None and beside.zeros.elements != beside.scales.elements:
        return beside.zeros
    if beside.adaptor is not None:
        a, b = beside.adaptor
        rows, columns = weight.shape
        if a.shape[1:] != (columns,):
            return a
        return None if b.shape == (rows, a.shape[0]) else b
    return None
