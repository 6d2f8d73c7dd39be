"""What a model costs: FLOPs to run and to train it, GPU-hours, and tokens per second at best.

Symbols are those of `footprint`, and: N parameters that a token passes, D training tokens.
Sources: Kaplan et al. 2020 (arXiv 2001.08361) for 6*N*D; Hoffmann et al. 2022 (Chinchilla, arXiv
2203.15556) for about 20 tokens per parameter.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from llamainspect.architecture import inactive_parameters, routed_layers
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import (
    MAX_NUMBER,
    TABLE_FORMS,
    USUAL_CONTEXT,
    Layout,
    Matrix,
    chunked_layers,
    kv_cache,
    largest_split,
    layout_of,
    symbols_of,
    weight_form,
    weight_nbytes,
)
from llamainspect.gpus import Gpus, find_gpu
from llamainspect.model_cards import card_of
from llamainspect.reports import ComputeEstimate, Decoding, Finding, Term, worst_first
from llamainspect.subject import Subject

TOKENS_PER_PARAMETER = 20  # Chinchilla
PETAFLOP_S_DAY = 1e15 * 86_400  # FLOPs
HOUR = 3_600  # seconds
USUAL_GPU = "h100"
USUAL_MFU = 0.4  # share of the peak that training reaches
MAX_TOKENS = 10**18
MIN_MFU = 0.001
NUMBER = re.compile(r"(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e\+?\d{1,2})? ?[kmbt]?")
SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Work(NamedTuple):
    """What is asked."""

    context: int | None = None  # tokens that attention looks back on
    tokens: int | None = None  # to train on; None: as the model card says
    gpus: Gpus | None = None
    mfu: float = USUAL_MFU  # model FLOPs utilisation: share of the peak
    dtype: str | None = None  # of the weights that are read to generate; None: compare some


def estimate_compute(
    subject: Subject,
    work: Work = Work(),  # noqa: B008  immutable
    explained: bool = False,
) -> ComputeEstimate:
    """FLOPs, GPU-hours and the speed that bandwidth allows.

    Raises InvalidRequest for numbers that cannot be.
    """
    _check(work)
    config, tied = subject.config, subject.tied_output
    text = config._replace(vision=None, cross_attention=None)  # what a token of text passes
    context = work.context or min(USUAL_CONTEXT, subject.context_length or USUAL_CONTEXT)
    gpus = work.gpus or Gpus(find_gpu(USUAL_GPU))
    visited = _visited(text, tied)
    parameters = layout_of(config, tied).parameters
    n = layout_of(text, tied).parameters - inactive_parameters(text)
    tokens, tokens_from, bound = _tokens(subject, work, n)
    terms = {
        **_forward_terms(text, visited, context),
        **_training_terms(n, tokens, gpus, work.mfu),
    }
    terms["by_operation"] = _by_operation(terms, tokens, tied)
    return ComputeEstimate(
        model=subject.name,
        parameters=parameters,
        active_parameters=n if text.moe else None,
        context=context,
        matmul_flops_per_token=int(terms["matmul"].value),
        attention_flops_per_token=int(terms["attention"].value),
        forward_flops_per_token=int(terms["forward"].value),
        tokens=tokens,
        tokens_from=tokens_from,
        tokens_bound=bound,
        tokens_per_parameter=tokens / n,
        training_flops=int(terms["training"].value),
        training_flops_by_operation=int(terms["by_operation"].value),
        petaflop_s_days=terms["days"].value,
        gpu=gpus.gpu.name,
        gpus=gpus.number,
        mfu=work.mfu,
        gpu_hours=terms["hours"].value,
        optimal_tokens=int(terms["optimal"].value),
        optimal_flops=int(terms["optimal_flops"].value),
        decoding=tuple(
            _decoding(text, visited, dtype, context, gpus)
            for dtype in ((work.dtype,) if work.dtype else TABLE_FORMS)
        ),
        symbols=symbols_of(config, tied) | {"N": n, "D": tokens, "ctx": context},
        terms=(*terms.values(), *_decoding_terms(text, visited, work.dtype, context, gpus)),
        explained=explained,
        findings=tuple(worst_first(_findings(subject, parameters, n, context))),
    )


def parse_tokens(text: str) -> int:
    """15e12, 15T, 300B or 2,000,000 as a number. Raises InvalidRequest."""
    digits = text.strip().lower().replace("_", "")
    number = Fraction(0)
    if NUMBER.fullmatch(digits) and digits.isascii():
        scale = SCALES.get(digits[-1], 1)
        number = Fraction(digits.rstrip("kmbt ").replace(",", "")) * scale
    if not 1 <= number <= MAX_TOKENS:
        raise InvalidRequest(
            f"--tokens {text}: a number from 1 to 1e18 is needed, as in 15T, 1.5T, 300B or 2e12"
        )
    return round(number)


def _check(work: Work) -> None:
    if work.context is not None and not 0 < work.context <= MAX_NUMBER:
        raise InvalidRequest(
            f"--context {work.context}: a number from 1 to {MAX_NUMBER:,} is needed"
        )
    if not MIN_MFU <= work.mfu <= 1:
        raise InvalidRequest(
            f"--mfu {work.mfu!r}: the share of the peak that is reached, from {MIN_MFU} to 1"
        )


def _tokens(subject: Subject, work: Work, n: int) -> tuple[int, str, str | None]:
    """To train on, who says so, and what that source says beyond the number."""
    if work.tokens is not None:
        return work.tokens, "--tokens", None
    card = card_of(subject.official.id) if subject.official else None
    if card and card.training_tokens:
        tokens = card.training_tokens
        return tokens.value, tokens.source, tokens.bound or None
    return TOKENS_PER_PARAMETER * n, "compute-optimal, as no model card says how many", None


# --- one token ------------------------------------------------------------------------------------


def _visited(text: ModelConfig, tied_output: bool) -> Layout:
    """The weights that one token is multiplied with: of experts, those it is routed to."""
    layout, moe = layout_of(text, tied_output), text.moe
    linears = {
        matrix: n * moe.top_k // moe.num_experts if moe and matrix.name is None else n
        for matrix, n in layout.linears.items()
    }
    output = Matrix(text.vocab_size or 0, text.dim)
    others = layout.parameters - layout.linear_parameters  # norms and routers
    others -= sum(matrix.elements * n for matrix, n in layout.ends.items())
    visited = layout._replace(linears=linears, ends={output: 1})
    return visited._replace(parameters=visited.linear_parameters + output.elements + others)


def _forward_terms(text: ModelConfig, visited: Layout, context: int) -> dict[str, Term]:
    chunked = chunked_layers(text)
    full, kept = text.n_layers - chunked, min(context, text.attention_chunk_size or context)
    router = text.dim * text.moe.num_experts * routed_layers(text) if text.moe else 0
    linears = visited.linear_parameters + router
    output = (text.vocab_size or 0) * text.dim
    width = text.n_heads * text.head_dim
    matmul = 2 * (linears + output)
    attention = 4 * width * (full * context + chunked * kept)
    looks = f"{full} * {context:,}" + f" + {chunked} * {kept:,}" * (chunked > 0)
    return {
        "matmul": Term(
            "matrix products per token", matmul, "FLOPs", "2 * (linears + V*h)",
            f"2 * ({linears:,} + {output:,})",
            "a multiplication and an addition per weight; looking an embedding up costs none",
        ),
        "attention": Term(
            "attention per token", attention, "FLOPs", "4 * a*hd * ctx, summed over layers",
            f"4 * {width:,} * ({looks})",
            "scores and their sum of values for one more token after ctx; over a whole text, half",
        ),
        "forward": Term(
            "forward pass per token", matmul + attention, "FLOPs", "matrix products + attention",
            f"{matmul:,} + {attention:,}", "",
        ),
    }  # fmt: skip


# --- training -------------------------------------------------------------------------------------


def _training_terms(n: int, tokens: int, gpus: Gpus, mfu: float) -> dict[str, Term]:
    flops, optimal = 6 * n * tokens, TOKENS_PER_PARAMETER * n
    peak = gpus.gpu.flops
    if peak is None:
        raise InvalidRequest(f"--gpu {gpus.gpu.name}: its peak FLOP/s are not known; name another")
    return {
        "training": Term(
            "training", flops, "FLOPs", "6 * N * D", f"6 * {n:,} * {tokens:,}",
            "forward 2, backward 4 per parameter and token (arXiv 2001.08361)",
        ),
        "days": Term(
            "training", flops / PETAFLOP_S_DAY, "petaFLOP/s-days", "FLOPs / 8.64e19",
            f"{flops:.10g} / 8.64e19", "1e15 FLOPs a second for 86,400 seconds",
        ),
        "hours": Term(
            "training", flops / (mfu * peak) / HOUR, f"{gpus.gpu.name}-hours",
            "FLOPs / (mfu * peak) / 3600", f"{flops:.10g} / ({mfu:g} * {peak:.10g}) / 3600",
            f"dense {'BF16' if gpus.gpu.bf16 else 'FP16'} peak of the datasheet; mfu is assumed, "
            f"{USUAL_MFU:g} is usual",
        ),
        "optimal": Term(
            "compute-optimal tokens", optimal, "tokens", "20 * N", f"20 * {n:,}",
            "Chinchilla (arXiv 2203.15556): the best loss for the FLOPs, whatever inference costs",
        ),
        "optimal_flops": Term(
            "training on these", 6 * n * optimal, "FLOPs", "6 * N * 20 * N",
            f"6 * {n:,} * {optimal:,}", "",
        ),
    }  # fmt: skip


def _by_operation(terms: dict[str, Term], tokens: int, tied: bool) -> Term:
    """What 6*N*D leaves out and what it counts too much."""
    matmul, attention = int(terms["matmul"].value), int(terms["attention"].value)
    flops = 3 * tokens * (matmul + attention // 2)
    more = 100 * (terms["training"].value / (3 * tokens * matmul) - 1)
    return Term(
        "training, by operation", flops, "FLOPs", "3 * D * (matrix products + attention / 2)",
        f"3 * {tokens:,} * ({matmul:,} + {attention // 2:,})",
        f"on texts of ctx tokens; 6*N*D is {more:+.1f} % against the matrix products alone"
        f"{', as it counts the embedding' * (not tied)}",
    )  # fmt: skip


# --- generating -----------------------------------------------------------------------------------


def _decoding(text: ModelConfig, visited: Layout, dtype: str, context: int, gpus: Gpus) -> Decoding:
    form = weight_form(dtype)
    cache = kv_cache(text, context, 1, "fp32" if form.compute_nbytes == 4 else "bf16").nbytes
    weights = weight_nbytes(visited, form).nbytes
    bandwidth = gpus.gpu.bandwidth
    if bandwidth is None:
        raise InvalidRequest(f"--gpu {gpus.gpu.name}: its bandwidth is not known; name another")
    # Those that share a sequence read at the same time; KV heads are repeated where they run out.
    number = largest_split(text, gpus.number)
    heads = -(-text.n_kv_heads // number)
    seconds = (weights / number + cache * heads / text.n_kv_heads) / bandwidth
    return Decoding(dtype, weights, cache, weights + cache, 1 / seconds, number)


def _decoding_terms(
    text: ModelConfig, visited: Layout, dtype: str | None, context: int, gpus: Gpus
) -> tuple[Term, ...]:
    row = _decoding(text, visited, dtype or "bf16", context, gpus)
    bandwidth, heads = gpus.gpu.bandwidth, -(-text.n_kv_heads // row.gpus)
    return (
        Term(
            f"read per generated token, {row.dtype}", row.nbytes_per_token, "bytes",
            "weights that a token passes + KV cache", f"{row.weights:,} + {row.kv_cache:,}",
            "every weight once, without the embedding; one sequence of ctx tokens",
        ),
        Term(
            f"generating, {row.dtype}", row.tokens_per_second, "tokens/s",
            "bandwidth / (weights / g + KV cache * KV heads of one GPU / KV heads)",
            f"{bandwidth:.10g} / ({row.weights:,} / {row.gpus} + {row.kv_cache:,} * {heads} / "
            f"{text.n_kv_heads})",
            "what the memory's bandwidth allows at best, of one sequence; tensor parallelism "
            "shares it among as many as divide heads and hidden size",
        ),
    )  # fmt: skip


def _findings(subject: Subject, parameters: int, n: int, context: int) -> list[Finding]:
    found = [*subject.findings, *subject.check_parameters(parameters)]
    found += subject.check_context(context)
    if subject.config.vision or subject.config.cross_attention:
        cross = ", nor cross-attention" * (subject.config.cross_attention is not None)
        message = (
            f"FLOPs, tokens and bytes are of text, which passes {n:,} parameters: not the image "
            f"encoder{cross}"
        )
        found.append(Finding("note", "images", message))
    return found
