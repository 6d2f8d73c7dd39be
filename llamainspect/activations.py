"""What a training step keeps beside its states: activations, and the temporaries of each moment.

The numbers are those of torch running transformers' Llama with its own loss on one device, to the
byte where activations are saved and, for shapes of real models, within 1 % at the peak;
tests/test_training_memory.py measures them, and each row of coefficients is what a least-squares
fit of its allocations over many shapes came to. The classic 34*s*b*h (arXiv 2205.05198) knows
neither SwiGLU nor GQA nor the loss.

Symbols: T tokens (b sequences of s), h dim, q heads * head_dim, k KV heads * head_dim, a heads, hd
head_dim, f hidden size of the feed-forward, V vocabulary, L layers, B bytes of a weight.
"""

from typing import NamedTuple

from llamainspect.architecture import is_moe_layer
from llamainspect.config import ModelConfig
from llamainspect.plans import Attention, Precision, TrainingPlan
from llamainspect.reports import Term

LOG_SUM_EXP = 4  # bytes per token and head that flash attention saves instead of the scores
NORM_FACTOR = 4  # bytes per token and norm: one FP32 number


class Pass(NamedTuple):
    """A batch on its way through a model: how long and how wide things are."""

    tokens: int
    seq_len: int
    batch: int
    hidden: int
    query: int
    kv: int
    heads: int
    head_dim: int
    vocab_size: int
    layers: dict[int, int]  # hidden size of the feed-forward -> how many layers
    first: int  # hidden size of the first layer's

    @property
    def scores(self) -> int:
        """Entries of one layer's attention matrices."""
        return self.batch * self.heads * self.seq_len**2

    @property
    def n_layers(self) -> int:
        """All of them."""
        return sum(self.layers.values())

    @property
    def ffn(self) -> int:
        """Hidden size of the widest feed-forward."""
        return max(self.layers)

    @property
    def head(self) -> int:
        """Elements of the output matrix."""
        return self.vocab_size * self.hidden


def pass_of(config: ModelConfig, seq_len: int, batch: int) -> Pass:
    """`batch` sequences of `seq_len` tokens. In routed layers a token passes its own experts."""
    widths = [config.hidden_dim] * config.n_layers
    if config.moe:
        expert = (config.moe.top_k + 1) * config.moe.hidden_dim  # with the shared one
        widths = [expert if is_moe_layer(config.moe, i) else w for i, w in enumerate(widths)]
    if config.cross_attention:
        widths += [config.hidden_dim] * config.cross_attention.n_layers
    layers = {width: widths.count(width) for width in dict.fromkeys(widths)}
    return Pass(
        tokens=seq_len * batch,
        seq_len=seq_len,
        batch=batch,
        hidden=config.dim,
        query=config.n_heads * config.head_dim,
        kv=config.n_kv_heads * config.head_dim,
        heads=config.n_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size or 0,
        layers=layers,
        first=widths[0],
    )


# --- saved for the backward pass ------------------------------------------------------------------


class Saved(NamedTuple):
    """Bytes per token that are saved, by the width they go with."""

    hidden: int  # of h: the norms and the inputs of the linears
    query: int  # of q: queries, and what attention gives
    kv: int  # of k: keys and values
    ffn: int  # of f: gate, its SiLU, up, their product
    scores: int  # per score, with eager attention: softmax, and its copy in BF16
    residual: int  # of h, the stream between layers: a checkpointed layer keeps its input
    last: int  # of h, after the layers: the last norm and the input of the output
    rotation: int  # of s*hd: cosines and sines
    loss: int  # of V: logits, their FP32 copy, its softmax and gradient
    logits: int  # of V: logits that the caller holds


SAVED: dict[Precision, Saved] = {
    "bf16": Saved(16, 4, 4, 8, 6, 2, 8, 4, 14, 2),
    "fp32": Saved(24, 8, 8, 16, 4, 4, 12, 8, 16, 4),
    "autocast": Saved(26, 4, 4, 8, 6, 4, 10, 8, 14, 2),
}
# Under adapters the model is frozen: a frozen norm saves its FP32 input alone, a frozen linear
# nothing. What the adapters save comes on top, see `_adapters_nbytes`.
FROZEN: dict[Precision, Saved] = {
    "bf16": SAVED["bf16"]._replace(hidden=8, ffn=6, last=4),
    "fp32": SAVED["fp32"]._replace(hidden=8, ffn=12, last=4),
}


def saved_of(plan: TrainingPlan) -> Saved:
    """The row for what is trained."""
    return SAVED[plan.precision] if plan.method == "full" else FROZEN[plan.stream]


def saved_terms(run: Pass, plan: TrainingPlan, linears: int) -> dict[str, Term]:
    """What is there at the end of the forward pass. `linears` are parameters of the blocks'."""
    saved, tokens = saved_of(plan), run.tokens
    last = tokens * (saved.last * run.hidden + NORM_FACTOR)
    once = _once(run, plan)
    mask = f" + {saved.rotation // 2} * b*s*s" * (plan.checkpointing and plan.attention == "eager")
    terms = {
        "layers": _layers_term(run, plan),
        "last": Term(
            "after the layers", last + once, "bytes",
            f"{saved.last} * T*h + {NORM_FACTOR} * T + {saved.rotation} * s*hd{mask}",
            f"{tokens:,} * ({saved.last} * {run.hidden:,} + {NORM_FACTOR}) + {once:,}",
            "the last norm, the input of the output, cosines and sines",
        ),
    }  # fmt: skip
    if plan.precision == "autocast":
        copied = run.head if plan.checkpointing else linears + run.head
        terms["copies"] = Term(
            "BF16 copies", 2 * copied, "bytes",
            "2 * V*h" if plan.checkpointing else "2 * (linears + V*h)", f"2 * {copied:,}",
            "autocast keeps the weights that it has cast, for the backward pass",
        )  # fmt: skip
    return terms


def _once(run: Pass, plan: TrainingPlan) -> int:
    """Cosines and sines, and the mask where a checkpointed layer will need it again."""
    rotation = saved_of(plan).rotation
    nbytes = rotation * run.seq_len * run.head_dim
    if plan.checkpointing and plan.attention == "eager":
        nbytes += rotation // 2 * run.batch * run.seq_len**2
    return nbytes


def _layers_term(run: Pass, plan: TrainingPlan) -> Term:
    saved, name = saved_of(plan), "activations of layers"
    if plan.checkpointing:
        each = saved.residual * run.tokens * run.hidden
        return Term(
            name, run.n_layers * each, "bytes", f"L * {saved.residual} * T*h",
            f"{run.n_layers} * {each:,}", "full checkpointing: each layer keeps its input alone",
        )  # fmt: skip
    each_of = {ffn: layer_nbytes(run, plan, ffn) for ffn in run.layers}
    spared = _before_adapters(run, plan)
    worked = " + ".join(f"{n} * {each_of[ffn]:,}" for ffn, n in run.layers.items())
    if spared:
        worked += f" - {spared:,} before the first adapter"
    adapters, says = ("", "") if plan.method == "full" else ADAPTERS_SAVE[plan.stream]
    widths, scores = f"{saved.query}q + {saved.kv}k", f"{LOG_SUM_EXP} * T*a"
    if plan.attention == "eager":
        widths = f"{saved.query + saved.kv}q"
        scores = f"{saved.scores} * b*a*s*s"
    if len(run.layers) > 1:
        worked += f"; f {', '.join(f'{ffn:,}' for ffn in run.layers)}"
    return Term(
        name,
        sum(each_of[ffn] * n for ffn, n in run.layers.items()) - spared,
        "bytes",
        f"L * (T*({saved.hidden}h + {widths} + {saved.ffn}f{adapters}) + {scores} + "
        f"{2 * NORM_FACTOR} * T)",
        worked,
        f"what torch saves for transformers' Llama with {plan.attention} attention; q = a*hd, "
        f"k = kv*hd{says}",
    )


def layer_nbytes(run: Pass, plan: TrainingPlan, ffn: int) -> int:
    """What one layer saves, without copies of weights."""
    saved = saved_of(plan)
    if plan.attention == "eager":  # keys and values are repeated for every query head first
        kv, scores = run.query, saved.scores * run.scores
    else:
        kv, scores = run.kv, LOG_SUM_EXP * run.tokens * run.heads
    width = saved.hidden * run.hidden + saved.query * run.query + saved.kv * kv + saved.ffn * ffn
    if plan.method != "full":
        width += _adapters_width(run, plan, ffn)
    return run.tokens * (width + 2 * NORM_FACTOR) + scores


ADAPTERS_SAVE = {
    "bf16": (
        " + 4 * sum(in + r)",
        "; each adapter saves an FP32 copy of its input, and its r numbers",
    ),
    "fp32": (" + 4 * (inputs + r each)", "; adapters save each input once, and their r numbers"),
}


def _adapters_width(run: Pass, plan: TrainingPlan, ffn: int) -> int:
    """Bytes per token that the adapters of a layer save: FP32, as PEFT keeps them.

    Beside BF16 weights every adapter casts its input for itself; FP32 inputs are shared, and the
    input of wo is saved by attention anyway.
    """
    targets = set(plan.targets)
    inputs = dict.fromkeys(("wq", "wk", "wv", "w1", "w3"), run.hidden)
    inputs |= {"wo": run.query, "w2": ffn}
    inner = 4 * plan.rank * len(targets)
    if plan.stream == "bf16":
        return inner + 4 * sum(inputs[target] for target in targets)
    shared = [{"wq", "wk", "wv"}, {"w1", "w3"}]
    widths = run.hidden * sum(not group.isdisjoint(targets) for group in shared)
    return inner + 4 * (widths + ffn * ("w2" in targets))


def _before_adapters(run: Pass, plan: TrainingPlan) -> int:
    """What the first layer need not save, as nothing before its first adapter has a gradient.

    With checkpointing PEFT asks for the gradient of the embeddings, and this is nothing.
    """
    if plan.method == "full" or plan.checkpointing:
        return 0
    saved, targets, tokens = saved_of(plan), set(plan.targets), run.tokens
    norm = tokens * (4 * run.hidden + NORM_FACTOR)
    spared = norm
    if not {"wq", "wk", "wv"}.isdisjoint(targets):
        return spared
    kv = run.query if plan.attention == "eager" else run.kv
    scores = saved.scores * run.scores
    spared += tokens * (saved.query * run.query + saved.kv * kv)
    spared += scores if plan.attention == "eager" else LOG_SUM_EXP * tokens * run.heads
    if "wo" in targets:
        return spared - (4 * tokens * run.query if plan.stream == "fp32" else 0)
    unsaved = 3 - 2 * ("w1" in targets) - ("w3" in targets)
    return spared + norm + tokens * saved.ffn // 3 * run.first * unsaved


# --- the moments of a step ------------------------------------------------------------------------


class Inside(NamedTuple):
    """A moment within the backward pass of a layer: bytes beside the other layers'."""

    saved: int = 0  # 1: all that the layer saved is still there
    hidden: int = 0  # per T*h
    query: int = 0  # per T*q
    kv: int = 0  # per T*k
    ffn: int = 0  # per T*f
    scores: int = 0  # per score
    copies: int = 0  # 1: the BF16 copies of its weights are still there
    own: int = 0  # 1: and the layer's input, which checkpointing keeps
    grads: tuple[int, int, int] | None = None  # per h*q, h*k, h*f of gradients; None: all
    attention: Attention | None = None  # with this one alone
    checkpointing: bool = False  # then alone
    accumulating: bool = False  # then alone: one matrix's gradient before it is added


# Found by decomposing what torch's allocator has at each event of a step.
INSIDE: dict[Precision, tuple[Inside, ...]] = {
    "bf16": (
        Inside(saved=1, hidden=2, ffn=4, own=1, grads=(0, 0, 2)),
        Inside(hidden=34, query=4, kv=4, own=1, grads=(0, 0, 6)),
        Inside(hidden=26, own=1),
        Inside(hidden=10, query=6, scores=12, own=1, grads=(2, 0, 6), attention="eager"),
        Inside(hidden=34, query=8, scores=6, own=1, grads=(0, 0, 6), attention="eager"),
        Inside(saved=1, hidden=2, ffn=2, own=1, grads=(0, 0, 2), accumulating=True),
    ),
    "fp32": (
        Inside(saved=1, hidden=4, ffn=8, grads=(0, 0, 4)),
        Inside(hidden=16, query=16, kv=16, grads=(4, 0, 12), attention="flash"),
        Inside(hidden=16, query=12, scores=12, grads=(4, 0, 12), attention="eager"),
        Inside(saved=1, hidden=4, ffn=4, grads=(0, 0, 4), accumulating=True),
    ),
    "autocast": (
        Inside(saved=1, hidden=4, ffn=4, copies=1, grads=(0, 0, 2)),
        Inside(saved=1, hidden=12, ffn=-8, grads=(4, 4, 12)),
        Inside(hidden=24),
        Inside(hidden=24, query=14, kv=4, grads=(2, 4, 0), checkpointing=True),
        Inside(hidden=18, query=6, scores=12, grads=(6, 4, 12), attention="eager"),
        Inside(saved=1, hidden=4, copies=1, grads=(0, 0, 4), accumulating=True),
        Inside(saved=1, hidden=6, ffn=2, copies=1, grads=(0, 0, 2), accumulating=True),
    ),
}


# Moments that have nearly all gradients in any case.
AFTER_GRADIENTS = ("first layer, back", "end of the backward pass")
# Moments of the forward pass.
FORWARD = (
    "logits and loss",
    "logits, with copies of all linears",
    "last layer, with copies of all linears",
)


class Gradients(NamedTuple):
    """Bytes of gradients, as far as moments differ in how many of them are there."""

    all: int
    head: int  # of the output matrix; 0 when it is frozen
    layer: int  # of one layer; 0 when it is frozen
    tied: bool  # the output's is the embedding's, and trained


class Moment(NamedTuple):
    """One moment of a step, beside weights and states of the optimizer: what there is, in bytes."""

    parts: dict[str, int]  # by formula

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def moments(run: Pass, plan: TrainingPlan, saved: int, grads: Gradients) -> dict[str, Moment]:
    """The moments that can be the fullest of the forward and backward pass.

    `saved` are all activations (A). Gradients of earlier batches are there throughout when batches
    are accumulated; otherwise they come about on the way back.
    """
    found = _forward(run, plan, saved)
    if plan.method == "full":
        found |= _output(run, plan, saved, grads)
        found |= _layers(run, plan, grads)
    else:
        found["a layer, back"] = _frozen_layer(run, plan, grads)
    found["end of the backward pass"] = _end(run, plan, grads)
    if plan.accumulation > 1:
        for name, moment in found.items():
            if name not in AFTER_GRADIENTS:
                moment.parts["G"] = grads.all
    return found


def _forward(run: Pass, plan: TrainingPlan, saved: int) -> dict[str, Moment]:
    """At the end of the forward pass, or a little before."""
    per_logit, tokens = saved_of(plan).loss, run.tokens
    logits = tokens * run.vocab_size
    found = {"logits and loss": Moment({"A": saved, f"{per_logit} * T*V": per_logit * logits})}
    if plan.precision == "autocast" and plan.checkpointing:
        # Until the forward pass ends, autocast holds what it has cast in every layer.
        copies = sum(_copies(run, ffn) * n for ffn, n in run.layers.items())
        parts = {"10 * T*V": 10 * logits, "4 * T*h": 4 * tokens * run.hidden}
        found["logits, with copies of all linears"] = Moment(
            {"A": saved, **parts, "2 * linears": copies}
        )
        scores = 4 * (run.scores + run.batch * run.seq_len**2) * (plan.attention == "eager")
        found["last layer, with copies of all linears"] = Moment(
            {
                "A of the layers": _saved_by_layers(run, plan) + _once(run, plan),
                "what a layer needs": tokens * (8 * run.hidden + 6 * run.ffn) + scores,
                "2 * linears": copies - 2 * run.hidden * run.ffn,
            }
        )
    return found


def _output(run: Pass, plan: TrainingPlan, saved: int, grads: Gradients) -> dict[str, Moment]:
    """Back through the output matrix, and through the norm before it."""
    kept, cast = saved_of(plan), plan.precision == "autocast"
    logits, hidden = run.tokens * run.vocab_size, run.tokens * run.hidden
    product = {f"{2 * kept.logits} * T*V": 2 * kept.logits * logits, "V*h*B": grads.head}
    if cast:  # the gradient in BF16, and then in FP32
        early = {"4 * T*V": 4 * logits, "2 * V*h": 2 * run.head}
        late = {"2 * T*V": 2 * logits, "4 * V*h": 4 * run.head}
        product = max(early, late, key=lambda parts: sum(parts.values()))
    norm = {"bf16": 16, "fp32": 12, "autocast": 14}[plan.precision]
    back = {f"{kept.logits} * T*V": kept.logits * logits, f"{norm} * T*h": norm * hidden}
    if plan.accumulation == 1:
        back["V*h*B"] = grads.head
    if cast:
        back["-2 * V*h"] = -2 * run.head
    return {
        "output, back": Moment(
            {"A": saved, **product, f"{kept.logits} * T*h": kept.logits * hidden}
        ),
        "last norm, back": Moment({"A": saved, **back}),
    }


def _layers(run: Pass, plan: TrainingPlan, grads: Gradients) -> dict[str, Moment]:
    """Back through the last layer, with what all the others saved; and through the first, with the
    gradients of all the others."""
    kept, many = saved_of(plan), plan.accumulation > 1
    rest = {f"{kept.logits} * T*V": kept.logits * run.tokens * run.vocab_size}
    rest["cosines and sines"] = _once(run, plan)
    inside = [
        (ffn, *_inside(run, plan, moment, ffn, grads))
        for moment in INSIDE[plan.precision]
        if moment.attention in (None, plan.attention)
        and (plan.checkpointing or not moment.checkpointing)
        and (many or not moment.accumulating)
        for ffn in run.layers
    ]
    saved = _saved_by_layers(run, plan)
    ffn, there, come = max(inside, key=lambda at: at[1] + at[2] - _saved_by(run, plan, at[0]))
    last = {
        "A of the other layers": saved - _saved_by(run, plan, ffn),
        "this layer's": there,
        "its gradients so far": come,
        "V*h*B": 0 if many else grads.head,
    }
    _, there, come = max(inside, key=lambda at: at[1] + at[2])
    others = grads.all - grads.layer - (0 if grads.tied else grads.head)
    first = {
        "G so far": grads.all if many else max(0, others),
        "this layer's": there,
        "its gradients so far": come,
    }
    return {
        "last layer, back": Moment(last | rest),
        "first layer, back": Moment(first | rest),
    }


def _frozen_layer(run: Pass, plan: TrainingPlan, grads: Gradients) -> Moment:
    """In a layer of a frozen model with adapters, on the way back or just before."""
    kept, tokens, ffn = saved_of(plan), run.tokens, run.ffn
    layers, again = _saved_by_layers(run, plan), 0
    if plan.checkpointing:
        # Inputs of layers go as gradients of their adapters come.
        one, come = kept.residual * tokens * run.hidden, grads.all // run.n_layers
        layers = max(layers, one + (run.n_layers - 1) * come)
        again = layer_nbytes(run, plan, ffn)
    most = {
        f"{kept.logits} * T*V": kept.logits * tokens * run.vocab_size,
        "what a layer needs": tokens * _widest(run, _frozen_backward(plan)),
    }
    forward = tokens * _widest(run, _frozen_forward(plan))
    if not plan.checkpointing and forward > sum(most.values()):
        most = {"what a layer needs": forward}
    return Moment(
        {
            "A of the layers": layers,
            "a layer's, again": again,
            "cosines and sines": _once(run, plan),
            **most,
        }
    )


def _widest(run: Pass, widths: list[tuple[int, int]]) -> int:
    """The most of them: which it is depends on the shape."""
    return max(hidden * run.hidden + wide * run.ffn for hidden, wide in widths)


def _frozen_forward(plan: TrainingPlan) -> list[tuple[int, int]]:
    """Bytes per token of h and of f in the forward pass of a layer, beside what is saved."""
    gate, down, up = ("w1" in plan.targets, "w2" in plan.targets, "w3" in plan.targets)
    if plan.stream == "fp32":
        return [(12, 4)]
    if down:
        return [(18, 2), (8, 4)]
    return [(8, 8 if up else 4)] if gate or up else [(10, 2)]


def _frozen_backward(plan: TrainingPlan) -> list[tuple[int, int]]:
    """The same on the way back."""
    gate, down, up = ("w1" in plan.targets, "w2" in plan.targets, "w3" in plan.targets)
    both = gate + up
    if plan.stream == "fp32":
        if not plan.checkpointing:
            return [(24, 0), (4, 8 if down else 12)]
        last = (16, -16) if down else (12, -12) if both else (16, -12)
        return [(0, 8 if down else 12), (4, 4), last]
    if not plan.checkpointing:
        return [(24, 0), (4, 4) if down else (2, 8 if up else 6)]
    if down:
        return [(14, 2), (12 if up else 4, 4), (22 - 4 * both, -10)]
    return [(2, 6), (6, 8 if up else 4 if gate else 2), (22 - 4 * both, -6)]


def _inside(
    run: Pass, plan: TrainingPlan, moment: Inside, ffn: int, grads: Gradients
) -> tuple[int, int]:
    """What a layer has at one moment of its way back, and gradients that have come about."""
    kept, hidden = saved_of(plan), run.hidden
    there = moment.saved * layer_nbytes(run, plan, ffn)
    there += moment.copies * _copies(run, ffn) * (plan.precision == "autocast")
    there += run.tokens * (
        moment.hidden * hidden + moment.query * run.query + moment.kv * run.kv + moment.ffn * ffn
    )
    there += moment.scores * run.scores
    if moment.own and plan.checkpointing:
        there += kept.residual * run.tokens * hidden
    if not grads.layer:
        return there, 0
    if plan.accumulation > 1 and not moment.accumulating:
        return there, 0  # it is added to what there is at once
    if moment.grads is None:
        return there, grads.layer
    query, kv, wide = moment.grads
    return there, hidden * (query * run.query + kv * run.kv + wide * ffn)


def _saved_by_layers(run: Pass, plan: TrainingPlan) -> int:
    layers = sum(_saved_by(run, plan, ffn) * n for ffn, n in run.layers.items())
    return layers - _before_adapters(run, plan)


def _saved_by(run: Pass, plan: TrainingPlan, ffn: int) -> int:
    if plan.checkpointing:
        return saved_of(plan).residual * run.tokens * run.hidden
    copies = _copies(run, ffn) if plan.precision == "autocast" else 0
    return layer_nbytes(run, plan, ffn) + copies


def _copies(run: Pass, ffn: int) -> int:
    """Weights of one layer in BF16."""
    return 2 * run.hidden * (2 * run.query + 2 * run.kv + 3 * ffn)


def _end(run: Pass, plan: TrainingPlan, grads: Gradients) -> Moment:
    """When the embedding gets its gradient, with those of everything else."""
    kept = saved_of(plan)
    hidden = {f"{kept.residual} * T*h": kept.residual * run.tokens * run.hidden}
    heads = int(plan.accumulation > 1)
    if grads.tied:
        heads += 1
        if plan.precision != "autocast":
            heads, hidden = heads + 1, {}
    return Moment(
        {
            "G": grads.all,
            f"{kept.logits} * T*V": kept.logits * run.tokens * run.vocab_size,
            **hidden,
            f"{heads} * V*h*B": heads * grads.head,
        }
    )
