"""The Plan panel: memory, compute, models."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamainspect.cli import Json, NoColor, PathOrName, app, show

if TYPE_CHECKING:
    from llamainspect.gpus import Gpus

PANEL = "Plan"
RUNNING, TRAINING = "To run it", "To train it"

WeightForm = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "nf4", "nf4-single"]
CacheForm = Literal["fp32", "bf16", "fp16", "fp8", "int8", "q8_0", "q4_0"]
Context = Annotated[
    int | None,
    typer.Option(
        help="Tokens of each sequence.",
        show_default="8192, 2048 to train; the model's own if that is less",
    ),
]


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect memory llama-3.1-8b --gpu rtx-4090"
)
def memory(
    model: PathOrName = ".",
    context: Context = None,
    batch: Annotated[int, typer.Option(help="Sequences at once; to train, on each GPU.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:COUNT]", help="Does it fit? As h100:8; auto for those of this machine."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each term with its formula.")] = False,
    dtype: Annotated[
        WeightForm | None,
        typer.Option(
            metavar="FORM",
            help="Of the weights: fp32, bf16, fp16, fp8, int8, int4, nf4, nf4-single.",
            show_default="compare",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Quantised values that share a scale.",
            show_default="int4 128, nf4 64, others a row",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    quantize_embeddings: Annotated[
        bool,
        typer.Option(
            "--quantize-embeddings",
            help="Embedding and output too, not the blocks' linears alone.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    kv_dtype: Annotated[
        CacheForm | None,
        typer.Option(
            metavar="FORM",
            help="Of the KV cache: fp32, bf16, fp16, fp8, int8, q8_0, q4_0.",
            show_default="bf16, or fp32 with fp32 weights",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    all_logits: Annotated[
        bool,
        typer.Option(
            "--all-logits",
            help="Logits of every token of the prompt are kept, not of the last alone.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    prefill_chunk: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the prompts that are read in one go.",
            show_default="all",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    training: Annotated[
        Literal["full", "lora", "qlora"] | None,
        typer.Option(help="Of all weights, or of adapters.", rich_help_panel=TRAINING),
    ] = None,
    precision: Annotated[
        Literal["bf16", "autocast", "fp32"] | None,
        typer.Option(
            help="BF16 weights; FP32 weights computed with in BF16; FP32.",
            show_default="bf16",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "adamw-8bit", "sgd"] | None,
        typer.Option(
            help="SGD is without momentum.", show_default="adamw", rich_help_panel=TRAINING
        ),
    ] = None,
    step: Annotated[
        Literal["fused", "foreach", "for-loop"] | None,
        typer.Option(
            help="How torch's AdamW goes through the weights.",
            show_default="fused",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    master_copy: Annotated[
        bool | None,
        typer.Option(
            "--master-copy",
            help="FP32 weights and states beside BF16 weights.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    grad_dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(
            help="Of the gradients.", show_default="as what is trained", rich_help_panel=TRAINING
        ),
    ] = None,
    attention: Annotated[
        Literal["flash", "eager"] | None,
        typer.Option(
            help="Eager attention keeps all scores.", show_default="flash", rich_help_panel=TRAINING
        ),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing", help="Layers keep their input alone.", rich_help_panel=TRAINING
        ),
    ] = None,
    accumulation: Annotated[
        int | None,
        typer.Option(
            help="Batches whose gradients are summed.", show_default="1", rich_help_panel=TRAINING
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Of the adapters.", show_default="16", rich_help_panel=TRAINING),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Linears with adapters: all, attention, ffn, or names as in wq,wv.",
            show_default="all",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    zero: Annotated[
        int | None,
        typer.Option(
            help="What ranks share: 1 optimizer, 2 gradients too, 3 weights too (FSDP).",
            min=0,
            max=3,
            show_default="0",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="Data-parallel ranks.",
            show_default="COUNT of --gpu, or 1",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Bytes to run or to train a model, term by term, and whether they fit a GPU.

    Weights as they are really stored, KV cache, and the most that
    reading a prompt takes. Ends with 1 when it does not fit.
    """
    from llamainspect.memory import Usage, estimate_memory
    from llamainspect.plans import make_plan
    from llamainspect.subject import find_subject

    machines = None if gpu is None else _machines(gpu).shared_by(gpus)
    options = {
        "precision": precision,
        "optimizer": optimizer,
        "step": step,
        "master_copy": master_copy,
        "grad_dtype": grad_dtype,
        "attention": attention,
        "checkpointing": checkpointing,
        "accumulation": accumulation,
        "rank": rank,
        "targets": targets,
        "zero": zero,
        "gpus": machines.number if training and machines else gpus,
    }
    usage = Usage(
        dtype, group_size, quantize_embeddings, context, batch, kv_dtype, all_logits, prefill_chunk
    )
    plan = make_plan(training, options)
    report = estimate_memory(find_subject(model), usage, plan, machines, explain)
    show(report, json, no_color)


@app.command(rich_help_panel=PANEL, epilog="Example: llamainspect compute llama-3.1-8b --gpu h100")
def compute(
    model: PathOrName = ".",
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens that attention looks back over.",
            show_default="8192; the model's own if that is less",
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="To train on, as 15T, 300B or 2e12.",
            show_default="as the model card says",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:COUNT]",
            help="As h100:8; auto for those of this machine.",
            show_default="h100",
        ),
    ] = None,
    mfu: Annotated[
        float, typer.Option(help="Share of the GPU's peak that training reaches.")
    ] = 0.4,
    dtype: Annotated[
        WeightForm | None,
        typer.Option(
            metavar="FORM",
            help="Of the weights, to generate: as for memory.",
            show_default="compare",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each figure's formula.")] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """FLOPs to run and to train a model, GPU-hours, and tokens per second at best.

    Training FLOPs are 6 per parameter and token; beside them, what
    the matrix products and attention come to.
    """
    from llamainspect.compute import Work, estimate_compute, parse_tokens
    from llamainspect.subject import find_subject

    work = Work(
        context=context,
        tokens=None if tokens is None else parse_tokens(tokens),
        gpus=None if gpu is None else _machines(gpu),
        mfu=mfu,
        dtype=dtype,
    )
    show(estimate_compute(find_subject(model), work, explain), json, no_color)


def _machines(text: str) -> "Gpus":
    """Those that are named, or those that are here."""
    from llamainspect.gpus import parse_gpus

    if text.lower() != "auto":
        return parse_gpus(text)
    from llamainspect.model.devices import find_gpus

    return find_gpus()


@app.command(rich_help_panel=PANEL, epilog="Example: llamainspect models llama-3.1-8b")
def models(
    filter: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILTER]", help="A model's name for its card; part of one, or *, for some."
        ),
    ] = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """The official releases of Llama, with who says what: sizes, shape, context, training."""
    from llamainspect.models import list_models

    show(list_models(filter), json, no_color)
