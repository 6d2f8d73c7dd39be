"""How many bytes training takes: states, activations, and the moment of a step that needs most.

Symbols are those of `footprint` and `activations`, and: B bytes of a weight, r rank of an adapter,
N data-parallel ranks. W weights, G gradients, S optimizer states and master copy.

Sources: ZeRO (arXiv 1910.02054) for the states and how ranks share them; 8-bit optimizers (arXiv
2110.02861) and bitsandbytes for blocks of 256 and the 32-bit states of small tensors; LoRA (arXiv
2106.09685) and PEFT, which keeps adapters in FP32; QLoRA (arXiv 2305.14314).
"""

from collections import Counter
from typing import NamedTuple

from llamainspect.activations import (
    FORWARD,
    Gradients,
    Moment,
    Pass,
    moments,
    pass_of,
    saved_of,
    saved_terms,
)
from llamainspect.config import ModelConfig
from llamainspect.footprint import Layout, layout_of, weight_form, weight_nbytes
from llamainspect.plans import FLOAT_NBYTES, TrainingPlan, check_plan
from llamainspect.reports import Term, TrainingMemory

BLOCK_8BIT = 256  # values that share a 32-bit scale in each of two states
SMALL_8BIT = 4096  # tensors with fewer elements keep 32-bit states (bitsandbytes, min_8bit_size)

# Bytes per parameter in teaching material ("Generative AI with Large Language Models", and many
# after it): 24, 6 times the FP32 weights.
RULE_OF_THUMB = {"weights": 4, "gradients": 4, "AdamW states": 8, "activations and the rest": 8}
# Parts of a moment by formula; see `activations`.
PART_NAMES = {
    "W": "weights",
    "S": "optimizer",
    "gathered": "gathered weights",
    **dict.fromkeys(("G", "G so far", "its gradients so far", "V*h*B"), "gradients"),
    **dict.fromkeys(
        ("A", "A of the layers", "A of the other layers", "this layer's", "a layer's, again"),
        "activations",
    ),
    "2 * linears": "BF16 copies",
}
PEAK_NAMES = {"forward": "forward pass", "backward": "backward pass", "step": "step"}
REST = {
    "forward": "logits and loss",
    "backward": "logits and temporaries",
    "step": "optimizer step",
}
PRECISION_SAYS = {
    "bf16": "BF16 weights",
    "autocast": "FP32 weights; torch.autocast computes in BF16",
    "fp32": "FP32 throughout",
}


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
    run = pass_of(config, seq_len, batch)
    states = _states(config, plan, layout, trained)
    saved = saved_terms(run, plan, layout.linear_parameters)
    step = _step(plan, trained)
    value = {name: int(term.value) for name, term in (states | saved).items()}
    weights = value["weights"] + value["adapters"]
    activations = sum(value[name] for name in saved)
    within = moments(run, plan, activations, _gradients(config, plan, layout, value, tied_output))
    states_nbytes = value["optimizer"] + value["master"]
    before = {"W": weights, "S": states_nbytes, "gathered": value["gathered"]}
    peaks = {
        "forward": _fullest(within, before, FORWARD),
        "backward": _fullest(within, before, tuple(within.keys() - set(FORWARD))),
        "step": Peak(
            f"when {plan.optimizer} steps",
            Moment({"W": weights, "S": states_nbytes, "G": value["gradients"],
                    step.name: int(step.value)}),
        ),
    }  # fmt: skip
    reached = max(peaks, key=lambda name: peaks[name].moment.nbytes)
    peak = peaks[reached].moment.nbytes
    loss = saved_of(plan).loss * run.tokens * run.vocab_size
    resident = weights + states_nbytes + value["gradients"]
    terms = (
        *states.values(),
        *saved.values(),
        _loss_term(run, plan, loss),
        step,
        *_peak_terms(peaks, reached),
    )
    return TrainingMemory(
        plan=plan._asdict(),
        trained_parameters=trained.parameters,
        adapter_parameters=None if plan.method == "full" else trained.parameters,
        weights=weights,
        gradients=value["gradients"],
        optimizer=value["optimizer"],
        master=value["master"],
        states=resident,
        gathered=value["gathered"],
        activations=activations,
        loss=loss,
        step=int(step.value),
        forward_peak=peaks["forward"].moment.nbytes,
        backward_peak=peaks["backward"].moment.nbytes,
        step_peak=peaks["step"].moment.nbytes,
        peak=peak,
        reached_in=reached,
        parts=_parts(peaks[reached].moment, REST[reached]),
        rule_of_thumb=sum(RULE_OF_THUMB.values()) * layout.parameters,
        rule_of_thumb_differs=_compare(plan, layout.parameters, resident, peak, run.tokens),
        terms=tuple(term for term in terms if term.value),
        symbols={
            "W": weights,
            "S": states_nbytes,
            "G": value["gradients"],
            "A": activations,
            "B": plan.weight_nbytes,
            "q": run.query,
            "k": run.kv,
            "f": run.ffn,
            **({"N": plan.gpus} if plan.zero else {}),
            **({"r": plan.rank} if plan.method != "full" else {}),
        },
    )


class Peak(NamedTuple):
    """The fullest moment of a part of the step."""

    name: str
    moment: Moment


def _fullest(within: dict[str, Moment], before: dict[str, int], names: tuple[str, ...]) -> Peak:
    name = max((n for n in within if n in names), key=lambda n: within[n].nbytes)
    return Peak(name, Moment(before | within[name].parts))


def _parts(moment: Moment, rest: str) -> dict[str, int]:
    """What there is at a moment under the names that a person knows; what has none is `rest`."""
    parts: dict[str, int] = {}
    for formula, nbytes in moment.parts.items():
        name = PART_NAMES.get(formula, rest)
        parts[name] = parts.get(name, 0) + nbytes
    return {name: nbytes for name, nbytes in parts.items() if nbytes}


def _gradients(
    config: ModelConfig, plan: TrainingPlan, layout: Layout, value: dict[str, int], tied: bool
) -> Gradients:
    """On this rank; of frozen weights there are none."""
    if plan.method != "full":
        return Gradients(value["gradients"], 0, 0, tied=False)
    width = plan.weight_nbytes
    head = (config.vocab_size or 0) * config.dim * width
    return Gradients(value["gradients"], head, max(layout.layers) * width, tied)


# --- states ---------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What gets gradients: how many tensors there are of each number of elements."""

    tensors: dict[int, int]
    ends: frozenset[int]  # of these, embedding and output: the tensors beside them are small
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
        ends = frozenset(matrix.elements for matrix in layout.ends)
        return Trained(layout.tensors, ends, plan.weight_nbytes)
    tensors: Counter[int] = Counter()
    for matrix, n in layout.linears.items():
        if matrix.name in plan.targets:
            tensors[plan.rank * matrix.columns] += n
            tensors[plan.rank * matrix.rows] += n
    return Trained(tensors, frozenset(), 4)


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
            "double-quantised (arXiv 2305.14314); PEFT's preparation for training makes embedding, "
            "output and norms FP32, and so what is passed from layer to layer",
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
    if " + " in worked:
        formula, worked = f"({formula})", f"({worked})"
    return Term(
        name, share, "bytes", f"{formula} / N", f"{worked} / {plan.gpus}",
        f"{source}; ZeRO-{plan.zero} shares it",
    )  # fmt: skip


def _largest_unit(config: ModelConfig, layout: Layout) -> tuple[int, str]:
    """Parameters of what is gathered at once at most: a layer, or an end of the model."""
    ends = (config.vocab_size or 0) * config.dim
    return max((max(layout.layers), "a layer"), (ends, "the output"))


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
    neighbours = max((size for size in trained.tensors if size not in trained.ends), default=0)
    elements = max(3 * neighbours, 2 * max(trained.ends, default=0))
    return Term(
        name, nbytes * elements, "bytes", "B * max(3 * largest of a layer, 2 * V*h)",
        f"{nbytes} * {elements:,}",
        "torch's for-loop goes tensor by tensor, and still holds the one before",
    )  # fmt: skip


def _loss_term(run: Pass, plan: TrainingPlan, nbytes: int) -> Term:
    per_logit = saved_of(plan).loss
    return Term(
        "logits and loss", nbytes, "bytes", f"{per_logit} * T*V",
        f"{per_logit} * {run.tokens:,} * {run.vocab_size:,}",
        "logits, their FP32 copy, its softmax and gradient; fused or chunked cross-entropy (Liger, "
        "torchtune) avoids most of it",
    )  # fmt: skip


def _peak_terms(peaks: dict[str, Peak], reached: str) -> list[Term]:
    """The three parts of a step, and the fullest of them."""
    terms = [
        _moment_term(f"peak of the {PEAK_NAMES[part]}", f"fullest at: {peak.name}", peak.moment)
        for part, peak in peaks.items()
    ]
    worked = ", ".join(f"{term.value:,}" for term in terms)
    source = f"reached in the {PEAK_NAMES[reached]}"
    nbytes = peaks[reached].moment.nbytes
    return [*terms, Term("peak", nbytes, "bytes", "the largest of them", worked, source)]


def _moment_term(name: str, source: str, moment: Moment) -> Term:
    there = {formula: nbytes for formula, nbytes in moment.parts.items() if nbytes}
    worked = " + ".join(f"{nbytes:,}" for nbytes in there.values())
    formula = " + ".join(there)
    return Term(
        name, moment.nbytes, "bytes", formula.replace("+ -", "- "), worked.replace("+ -", "- "),
        source,
    )  # fmt: skip


def _compare(plan: TrainingPlan, parameters: int, states: int, peak: int, tokens: int) -> str:
    """Why the rule of thumb says another number."""
    rule = ", ".join(f"{nbytes} {name}" for name, nbytes in RULE_OF_THUMB.items())
    where = f", on each of {plan.gpus:,} GPUs," if plan.zero else ""
    return (
        f"it gives every parameter {sum(RULE_OF_THUMB.values())} bytes ({rule}), however it is "
        f"trained and on however many tokens; here{where} weights, gradients and states take "
        f"{states / parameters:.2f} bytes per parameter, and the peak with {tokens:,} tokens comes "
        f"to {peak / parameters:.2f}"
    )
