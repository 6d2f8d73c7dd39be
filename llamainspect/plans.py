"""How one trains: what is asked, and which combinations cannot be."""

from typing import Any, Literal, NamedTuple

from llamainspect.errors import InvalidRequest
from llamainspect.footprint import MAX_NUMBER
from llamainspect.gpus import MAX_GPUS

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
    def stream(self) -> Precision:
        """What is passed from layer to layer: FP32 where embedding and norms were made FP32."""
        return "fp32" if self.method == "qlora" else self.precision

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
            adapters = next(iter(given)) in ("rank", "targets")
            which = "lora or qlora" if adapters else "full, lora or qlora"
            raise InvalidRequest(f"{flags[0]} is of training; say which with --training {which}")
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
                "--training qlora with --zero 3: cutting weights that are packed in 4 bits is not "
                "supported; use --zero 0, 1 or 2, or --training lora"
            )
        if plan.precision != "bf16":
            raise InvalidRequest(
                f"--training qlora with --precision {plan.precision}: NF4 weights are computed "
                "with as bf16; leave --precision out"
            )
    if plan.method == "lora" and plan.precision == "autocast":
        raise InvalidRequest(
            "--training lora with --precision autocast: frozen weights are BF16 or FP32 beside "
            "FP32 adapters; use --precision bf16 or fp32"
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
