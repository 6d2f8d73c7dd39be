"""How many bytes training takes: states, activations, and the moment of a step that needs most.

Symbols are those of `footprint`, and: B bytes of a weight, r rank of an adapter, N data-parallel
ranks. W weights, G gradients, S optimizer states and master copy, A saved activations.

Sources: ZeRO (arXiv 1910.02054) for the states and how ranks share them; 8-bit optimizers (arXiv
2110.02861) and bitsandbytes for blocks of 256 and the 32-bit states of small tensors; LoRA (arXiv
2106.09685) and PEFT, which keeps adapters in FP32; QLoRA (arXiv 2305.14314). The activations are
those that torch saves for transformers' Llama; tests/test_training_memory.py measures them.
"""

from collections import Counter
from typing import Any, Literal, NamedTuple

from llamainspect.architecture import is_moe_layer
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import MAX_NUMBER, Layout, layout_of, weight_form, weight_nbytes
from llamainspect.gpus import MAX_GPUS
from llamainspect.reports import Term, TrainingMemory

Method = Literal["full", "lora", "qlora"]
Precision = Literal["bf16", "autocast", "fp32"]
Optimizer = Literal["adamw", "adamw-8bit", "sgd"]
Step = Literal["fused", "foreach", "for-loop"]
Attention = Literal["flash", "eager"]

FLOAT_NBYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
# As transformers and PEFT call them.
ALIASES = {
    "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo",
    "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3",
}  # fmt: skip
GROUPS = {"all": TARGETS, "attention": TARGETS[:4], "ffn": TARGETS[4:]}
MAX_RANK = 65_536

BLOCK_8BIT = 256  # values that share a 32-bit scale in each of two states
SMALL_8BIT = 4096  # tensors with fewer elements keep 32-bit states (bitsandbytes, min_8bit_size)

RULE_OF_THUMB = 6  # times the FP32 weights
PRECISION_SAYS = {
    "bf16": "BF16 weights",
    "autocast": "FP32 weights; torch.autocast computes in BF16",
    "fp32": "FP32 throughout",
}


class TrainingPlan(NamedTuple):
    """How one trains. None and empty values mean the usual."""

    method: Method = "full"
    precision: Precision = "bf16"
    grad_dtype: str | None = None  # of FLOAT_NBYTES; None: that of the weights
    master_copy: bool = False  # FP32 weights and states beside BF16 weights
    optimizer: Optimizer = "adamw"
    step: Step = "fused"
    attention: Attention = "flash"
    checkpointing: bool = False
    accumulation: int = 1  # batches whose gradients are summed before a step
    rank: int = 16
    targets: tuple[str, ...] = TARGETS
    zero: int = 0
    gpus: int = 1

    @property
    def weight_nbytes(self) -> int:
        """Of one weight that is computed with."""
        return 2 if self.precision == "bf16" else 4


def make_plan(method: Method | None, options: dict[str, Any]) -> TrainingPlan | None:
    """The plan of those `options` (fields of TrainingPlan) that are not None; None for no training.

    Raises InvalidRequest for options that would do nothing.
    """
    given = {name: value for name, value in options.items() if value is not None}
    flags = [f"--{name.replace('_', '-')}" for name in given]
    if method is None:
        if given:
            raise InvalidRequest(
                f"{flags[0]} is of training; say which with --training full, lora or qlora"
            )
        return None
    if method == "full" and not given.keys().isdisjoint({"rank", "targets"}):
        raise InvalidRequest(
            "--rank and --targets are of adapters; use them with --training lora or qlora"
        )
    if "targets" in given:
        given["targets"] = parse_targets(given["targets"])
    return TrainingPlan(method, **given)


def check_plan(plan: TrainingPlan) -> None:
    """Raise InvalidRequest for combinations that cannot be, and say what can."""
    if plan.method == "qlora":
        if plan.zero == 3:
            raise InvalidRequest(
                "--training qlora with --zero 3: weights packed in 4 bits are not cut among ranks; "
                "use --zero 0, 1 or 2, or --training lora"
            )
        if plan.precision != "bf16":
            raise InvalidRequest(
                f"--training qlora with --precision {plan.precision}: NF4 weights are computed "
                "with as bf16; leave --precision out"
            )
    if plan.master_copy and (plan.method != "full" or plan.precision != "bf16"):
        raise InvalidRequest(
            "--master-copy is the FP32 copy beside BF16 weights that are all trained: use it with "
            "--training full --precision bf16 (adapters and FP32 weights need none)"
        )
    if plan.optimizer != "adamw" and plan.step != "fused":
        raise InvalidRequest(f"--step is of adamw; {plan.optimizer} has one way alone")
    for name, number, most in (
        ("rank", plan.rank, MAX_RANK),
        ("accumulation", plan.accumulation, MAX_NUMBER),
        ("gpus", plan.gpus, MAX_GPUS),
    ):
        if not 0 < number <= most:
            raise InvalidRequest(f"--{name} {number}: a number from 1 to {most:,} is needed")
    if plan.zero and plan.gpus == 1:
        raise InvalidRequest(
            f"--zero {plan.zero} shares among GPUs, and there is one; say how many with --gpus"
        )


def parse_targets(text: str) -> tuple[str, ...]:
    """Which linears get adapters: "all", "attention", "ffn", or names with commas between."""
    names: list[str] = []
    for word in text.split(","):
        name = ALIASES.get(word.strip(), word.strip())
        if name not in GROUPS and name not in TARGETS:
            raise InvalidRequest(
                f"--targets: {word.strip()!r} is no linear layer of a block; there are "
                f"{', '.join(TARGETS)} (or {', '.join(ALIASES)}), and {', '.join(GROUPS)} for some"
            )
        names += GROUPS.get(name, (name,))
    return tuple(name for name in TARGETS if name in names)


def estimate_training(
    config: ModelConfig,
    plan: TrainingPlan,
    seq_len: int,
    batch: int,
    tied_output: bool = False,
    layout: Layout | None = None,
) -> TrainingMemory:
    """Bytes on each GPU for batches of `batch` sequences of `seq_len` tokens each.

    `layout` is that of `config`, when it is there already. Raises InvalidRequest where the plan
    contradicts itself.
    """
    check_plan(plan)
    layout = layout or layout_of(config, tied_output)
    trained = _trained(plan, layout)
    states = _states(config, plan, layout, trained)
    saved = _activations(config, plan, layout, seq_len, batch)
    extra = _extra(config, plan, trained, seq_len, batch, tied_output)
    value = {name: int(term.value) for name, term in (states | saved | extra).items()}
    weights = value["weights"] + value["adapters"]
    activations = sum(value[name] for name in saved)
    resident = weights + value["optimizer"] + value["master"]
    held = value["gradients"] if plan.accumulation > 1 else 0
    peaks = {
        "forward": resident + value["gathered"] + held + activations + value["loss"],
        "backward": resident + value["gathered"] + value["gradients"] + value["backward"],
        "step": resident + value["gradients"] + value["step"],
    }
    when, peak = max(peaks.items(), key=lambda item: item[1])
    return TrainingMemory(
        plan=plan._asdict(),
        trained_parameters=trained.parameters,
        adapter_parameters=None if plan.method == "full" else trained.parameters,
        weights=weights,
        gradients=value["gradients"],
        optimizer=value["optimizer"],
        master=value["master"],
        states=resident + value["gradients"],
        gathered=value["gathered"],
        activations=activations,
        loss=value["loss"],
        step=value["step"],
        forward_peak=peaks["forward"],
        backward_peak=peaks["backward"],
        step_peak=peaks["step"],
        peak=peak,
        rule_of_thumb=RULE_OF_THUMB * 4 * layout.parameters,
        terms=(*states.values(), *saved.values(), *extra.values(), _peak(peaks, when, plan)),
    )


# --- states ---------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What gets gradients: how many tensors there are of each number of elements."""

    tensors: dict[int, int]
    nbytes_each: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(elements * n for elements, n in self.tensors.items())


def _trained(plan: TrainingPlan, layout: Layout) -> Trained:
    """All weights, or the two adapters of each linear that `plan.targets` names.

    Routed experts are no linear layers, so PEFT leaves them alone.
    """
    if plan.method == "full":
        return Trained(layout.tensors, plan.weight_nbytes)
    tensors: Counter[int] = Counter()
    for matrix, n in layout.linears.items():
        if matrix.name in plan.targets:
            tensors[plan.rank * matrix.columns] += n
            tensors[plan.rank * matrix.rows] += n
    return Trained(tensors, 4)


def _states(
    config: ModelConfig, plan: TrainingPlan, layout: Layout, trained: Trained
) -> dict[str, Term]:
    full, n = plan.method == "full", trained.parameters
    grad_nbytes = FLOAT_NBYTES[plan.grad_dtype] if plan.grad_dtype else trained.nbytes_each
    state_nbytes = 4 if plan.master_copy else trained.nbytes_each
    gathered, gathered_name = _largest_unit(config, layout)
    who = "trained parameters" if full else "adapter parameters"
    return {
        "weights": _base_weights(plan, layout),
        "adapters": _shared(
            plan, 3, "adapters", 0 if full else 4 * n, "4 * sum(r * (in + out))",
            f"4 * {n:,}",
            f"rank {plan.rank} on {', '.join(plan.targets)}; FP32, as PEFT keeps them",
        ),
        "gradients": _shared(
            plan, 2, "gradients", grad_nbytes * n, f"{grad_nbytes} * {who}",
            f"{grad_nbytes} * {n:,}",
            f"{'--grad-dtype' if plan.grad_dtype else 'the dtype of what is trained'}",
        ),
        "optimizer": _optimizer(plan, trained, state_nbytes, who),
        "master": _shared(
            plan, 1, "master copy", 4 * n if plan.master_copy else 0, f"4 * {who}", f"4 * {n:,}",
            "FP32 weights that the steps add up in (ZeRO, arXiv 1910.02054)",
        ),
        "gathered": Term(
            "gathered weights",
            plan.weight_nbytes * gathered if plan.zero == 3 else 0,
            "bytes",
            "B * largest unit",
            f"{plan.weight_nbytes} * {gathered:,} ({gathered_name})",
            "ZeRO-3 and FSDP put each unit together when it is needed",
        ),
    }  # fmt: skip


def _base_weights(plan: TrainingPlan, layout: Layout) -> Term:
    if plan.method == "qlora":
        packed = weight_nbytes(layout, weight_form("nf4"), kept_nbytes=4)
        return Term(
            "weights, NF4",
            packed.nbytes,
            "bytes",
            "linears * (1/2 + 1/64 + 4/(64*256)) + 4 * rest",
            f"{packed.values_nbytes:,} + {packed.scales_nbytes:,} + 4 * {packed.kept:,}",
            "double-quantised; the usual preparation makes embedding, output and norms FP32 "
            "(arXiv 2305.14314, PEFT)",
        )
    nbytes = plan.weight_nbytes
    return _shared(
        plan, 3, "weights", nbytes * layout.parameters, "B * P",
        f"{nbytes} * {layout.parameters:,}", PRECISION_SAYS[plan.precision],
    )  # fmt: skip


def _optimizer(plan: TrainingPlan, trained: Trained, state_nbytes: int, who: str) -> Term:
    n = trained.parameters
    if plan.optimizer == "sgd":
        return Term("optimizer states", 0, "bytes", "0", "0", "SGD without momentum keeps none")
    if plan.optimizer == "adamw":
        return _shared(
            plan, 1, "optimizer states", 2 * state_nbytes * n, f"2 * {state_nbytes} * {who}",
            f"2 * {state_nbytes} * {n:,}", "AdamW's two moments, in FP32 beside a master copy, "
            "else in the dtype of what is trained, as torch makes them",
        )  # fmt: skip
    large = {size: k for size, k in trained.tensors.items() if size >= SMALL_8BIT}
    elements = sum(size * k for size, k in large.items())
    blocks = sum(-(-size // BLOCK_8BIT) * k for size, k in large.items())
    return _shared(
        plan, 1, "optimizer states", 2 * elements + 8 * blocks + 8 * (n - elements),
        "2 * (1 + 4/256) * large tensors + 8 * small ones",
        f"2 * {elements:,} + 2 * 4 * {blocks:,} blocks + 8 * {n - elements:,}",
        "bitsandbytes: 8-bit moments, an FP32 scale per block of 256; tensors under 4,096 elements "
        "stay 32-bit (arXiv 2110.02861)",
    )  # fmt: skip


def _shared(
    plan: TrainingPlan, stage: int, name: str, nbytes: int, formula: str, worked: str, source: str
) -> Term:
    """A term that ZeRO cuts among ranks from `stage` on."""
    if plan.zero < stage or not nbytes:
        return Term(name, nbytes, "bytes", formula, worked, source)
    share = -(-nbytes // plan.gpus)
    return Term(
        name, share, "bytes", f"{formula} / N", f"{worked} / {plan.gpus}",
        f"{source}; ZeRO-{plan.zero} shares it",
    )  # fmt: skip


def _largest_unit(config: ModelConfig, layout: Layout) -> tuple[int, str]:
    """Parameters of what is gathered at once at most: a layer, or an end of the model."""
    ends = (config.vocab_size or 0) * config.dim
    return max((layout.largest_layer, "a layer"), (ends, "the output"))


# --- activations ----------------------------------------------------------------------------------


class Saved(NamedTuple):
    """Bytes that torch saves for the backward pass, per token and unit of width."""

    hidden: int  # of dim: the norms and the inputs of the linears
    query: int  # of heads * head_dim: queries, and what attention gives
    kv: int  # of KV heads * head_dim: keys and values
    ffn: int  # of the feed-forward's hidden size: gate, its SiLU, up, their product
    last: int  # of dim, after the layers: the last norm and the input of the output
    scores: int  # of heads * context, with eager attention: softmax, and its copy in BF16
    residual: int  # of dim, when a layer is checkpointed: its input
    loss: int  # of the vocabulary: logits, their FP32 copy, softmax and gradient
    logits: int  # of the vocabulary, while the gradients of the weights come about


SAVED: dict[Precision, Saved] = {
    "bf16": Saved(16, 4, 4, 8, 8, 6, 2, 14, 2),
    "fp32": Saved(24, 8, 8, 16, 12, 4, 4, 16, 4),
    "autocast": Saved(26, 4, 4, 8, 10, 6, 4, 14, 2),
}
LOG_SUM_EXP = 4  # bytes per token and head that flash attention saves instead of the scores
NORM_FACTORS = 8  # bytes per token: one FP32 number in each of two norms


def _activations(
    config: ModelConfig, plan: TrainingPlan, layout: Layout, seq_len: int, batch: int
) -> dict[str, Term]:
    saved, tokens = SAVED[plan.precision], seq_len * batch
    last = saved.last * tokens * config.dim
    copies = 2 * _linear_parameters(config, layout) if plan.precision == "autocast" else 0
    return {
        "layers": _layers(config, plan, seq_len, batch),
        "last": Term(
            "after the layers", last, "bytes", f"{saved.last} * T*h",
            f"{saved.last} * {tokens:,} * {config.dim:,}", "the last norm, and the input of output",
        ),
        "copies": Term(
            "BF16 copies of linears", copies, "bytes", "2 * linears", f"{copies // 2:,} * 2",
            "autocast keeps what it has cast until the end of the forward pass",
        ),
    }  # fmt: skip


def _layers(config: ModelConfig, plan: TrainingPlan, seq_len: int, batch: int) -> Term:
    saved, tokens = SAVED[plan.precision], seq_len * batch
    kinds = _layer_kinds(config)
    if plan.checkpointing:
        n = sum(kinds.values())
        each = saved.residual * tokens * config.dim
        return Term(
            "activations of layers", n * each, "bytes", f"L * {saved.residual} * T*h",
            f"{n} * {each:,}", "full checkpointing: each layer keeps its input alone",
        )  # fmt: skip
    nbytes = {width: _layer_nbytes(config, plan, seq_len, batch, width) for width in kinds}
    scores = "6 * b*a*s*s" if plan.attention == "eager" else f"{LOG_SUM_EXP} * T*a"
    return Term(
        "activations of layers",
        sum(nbytes[width] * n for width, n in kinds.items()),
        "bytes",
        f"L * (T*({saved.hidden}h + {saved.query}*a*hd + {saved.kv}*kv*hd + {saved.ffn}f) "
        f"+ {scores} + {NORM_FACTORS} * T)",
        " + ".join(f"{n} * {nbytes[width]:,}" for width, n in kinds.items()),
        f"what torch saves for transformers' Llama with {plan.attention} attention, T = {tokens:,}",
    )


def _layer_nbytes(
    config: ModelConfig, plan: TrainingPlan, seq_len: int, batch: int, ffn: int
) -> int:
    saved, tokens = SAVED[plan.precision], seq_len * batch
    heads, head_dim = config.n_heads, config.head_dim
    if plan.attention == "eager":
        attention = saved.scores * batch * heads * seq_len**2
    else:
        attention = LOG_SUM_EXP * tokens * heads
    width = (
        saved.hidden * config.dim
        + saved.query * heads * head_dim
        + saved.kv * config.n_kv_heads * head_dim
        + saved.ffn * ffn
    )
    return tokens * width + attention + NORM_FACTORS * tokens


def _layer_kinds(config: ModelConfig) -> dict[int, int]:
    """Layers by the hidden size that a token passes in them: of routed ones, its own experts'."""
    kinds: Counter[int] = Counter()
    for layer in range(config.n_layers):
        if config.moe and is_moe_layer(config.moe, layer):
            kinds[(config.moe.top_k + 1) * config.moe.hidden_dim] += 1  # and the shared one
        else:
            kinds[config.hidden_dim] += 1
    if config.cross_attention:
        kinds[config.hidden_dim] += config.cross_attention.n_layers
    return dict(kinds)


def _linear_parameters(config: ModelConfig, layout: Layout) -> int:
    """Parameters that a matrix product goes through: the blocks' linears and the output."""
    return layout.linear_parameters + (config.vocab_size or 0) * config.dim


# --- the moments that need most -------------------------------------------------------------------


def _extra(
    config: ModelConfig,
    plan: TrainingPlan,
    trained: Trained,
    seq_len: int,
    batch: int,
    tied_output: bool,
) -> dict[str, Term]:
    """What comes on top of states and activations at the end of each part of a step."""
    saved, tokens = SAVED[plan.precision], seq_len * batch
    vocab_size = config.vocab_size or 0
    loss = saved.loss * tokens * vocab_size
    return {
        "loss": Term(
            "logits and loss", loss, "bytes", f"{saved.loss} * T*V",
            f"{saved.loss} * {tokens:,} * {vocab_size:,}",
            "logits, their FP32 copy and its softmax; fused or chunked cross-entropy avoids it",
        ),
        "backward": _backward(config, plan, seq_len, batch, tied_output),
        "step": _step(plan, trained),
    }  # fmt: skip


def _backward(
    config: ModelConfig, plan: TrainingPlan, seq_len: int, batch: int, tied_output: bool
) -> Term:
    """Beside the gradients of all weights, when the last of them come about."""
    saved, tokens = SAVED[plan.precision], seq_len * batch
    ends = (config.vocab_size or 0) * config.dim
    logits = saved.logits * tokens * (config.vocab_size or 0)
    nbytes = plan.weight_nbytes
    full = plan.method == "full"
    tail = (
        logits + nbytes * tokens * config.dim + (2 * ends * nbytes if tied_output and full else 0)
    )
    formula = f"{saved.logits} * T*V + {nbytes} * T*h" + " + 2 * V*h*B" * (tied_output and full)
    if plan.checkpointing:
        layer = max(_layer_nbytes(config, plan, seq_len, batch, f) for f in _layer_kinds(config))
        again = logits + layer + tokens * max(_layer_kinds(config)) * nbytes
        if full and not tied_output:
            again -= nbytes * ends
        if again > tail:
            tail, formula = again, "2 * T*V + a layer computed again + T*f*B - V*h*B"
    return Term(
        "end of the backward pass", tail, "bytes", formula, f"{tail:,}",
        "beside all gradients: logits that are still held, and what the first layer needs",
    )  # fmt: skip


def _step(plan: TrainingPlan, trained: Trained) -> Term:
    """What the optimizer's step makes beside weights, gradients and states."""
    nbytes, n = trained.nbytes_each, trained.parameters
    name = "optimizer step"
    if plan.optimizer != "adamw" or plan.step == "fused":
        return Term(name, 0, "bytes", "0", "0", f"{plan.optimizer} steps in place")
    if plan.step == "foreach":
        return _shared(
            plan, 1, name, nbytes * n, "B * trained parameters", f"{nbytes} * {n:,}",
            "torch's foreach makes one more copy of all (its default on a GPU; fused makes none)",
        )  # fmt: skip
    largest = max(trained.tensors)
    return Term(
        name, 2 * nbytes * largest, "bytes", "2 * B * largest tensor",
        f"2 * {nbytes} * {largest:,}", "torch's for-loop goes tensor by tensor",
    )  # fmt: skip


def _peak(peaks: dict[str, int], when: str, plan: TrainingPlan) -> Term:
    gathered = " + gathered" * (plan.zero == 3)
    formulas = {
        "forward": f"W + S{gathered}{' + G' * (plan.accumulation > 1)} + A + loss",
        "backward": f"W + S{gathered} + G + end of the backward pass",
        "step": "W + S + G + optimizer step",
    }
    moments = ", ".join(f"{name} {nbytes:,}" for name, nbytes in peaks.items())
    return Term("peak", peaks[when], "bytes", formulas[when], moments, f"reached in: {when}")
