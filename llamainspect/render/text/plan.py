"""Views of the Plan panel: memory, compute, models."""

from collections.abc import Sequence
from itertools import cycle

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.numbers import count_text, exact_nbytes_text, nbytes_text
from llamainspect.render.text.common import (
    GAP,
    Column,
    Fitted,
    facts,
    findings_view,
    safe,
    section,
    view,
)
from llamainspect.render.words import stored_rows
from llamainspect.reports import (
    ComputeEstimate,
    GpuFit,
    MemoryEstimate,
    ModelCatalog,
    ModelRow,
    Term,
    TrainingMemory,
)

BOUNDS = {"about": "~", "more than": ">", "up to": "≤"}
BAR_WIDTH = 60
# The parts of a bar, told apart without colour too.
FILLS = (("█", "blue"), ("▓", "cyan"), ("▒", "magenta"), ("░", "yellow"), ("▚", "green"),
         ("▞", "red"), ("▤", "blue"), ("▥", "cyan"))  # fmt: skip


# --- memory ---------------------------------------------------------------------------------------


@view.register
def _(report: MemoryEstimate, terminal: bool) -> RenderableType:
    head = safe(report.model, "bold")
    head.append(" (by name)" * report.by_name, style="not bold dim")
    head.append(f"  {count_text(report.parameters)} parameters", style="not bold")
    parts: list[RenderableType] = [head, _circumstances(report)]
    if report.training:
        parts += [_training(report.training), _rule_of_thumb(report.training)]
    else:
        parts.append(section("Bytes to run it", _forms(report)))
    if report.explained:
        parts.append(section("How each comes about", _Terms(report.symbols, report.terms)))
    if report.gpu:
        parts.append(_gpu(report.gpu, report.dtype if not report.training else "", terminal))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _circumstances(report: MemoryEstimate) -> Table:
    rows: list[tuple[str, RenderableType]] = []
    if report.active_parameters is not None:
        rows.append(("active", Text(f"{count_text(report.active_parameters)} per token, text")))
    size = f"{counted(report.context, 'token')} x {counted(report.batch, 'sequence')}"
    rows.append(("context", Text(size)))
    if report.stored is not None:
        stored = f"{exact_nbytes_text(report.stored)}, {report.stored_from}"
        rows.append(("stored", safe(stored)))
    rows += [(form, Text(text)) for form, text in stored_rows(report.stored_as)]
    return facts(rows)


def _forms(report: MemoryEstimate) -> RenderableType:
    rows = report.table
    like = max(row.total for row in rows)
    columns = [Column("form", [Text(row.dtype) for row in rows], 0)]
    for title, numbers, rank, style in (
        ("weights", [row.weights for row in rows], 3, ""),
        ("naive", [row.naive for row in rows], 6, "dim"),
        ("KV cache", [row.kv_cache for row in rows], 4, ""),
        ("prefill", [row.activations for row in rows], 5, ""),
        ("total", [row.total for row in rows], 1, "bold"),
    ):
        columns.append(Column(title, [Text(nbytes_text(n, like), style) for n in numbers], rank))
    if any(row.fits is not None for row in rows):
        verdicts = [Text("yes", "green") if row.fits else Text("no", "red") for row in rows]
        columns.append(Column("fits", verdicts, 2))
    notes = [f"KV cache in {report.kv_dtype}" * (len(rows) == 1)]
    if any(row.naive != row.weights for row in rows):
        notes.append(
            "naive: every parameter at that width; weights: as stored, with scales, and what is "
            "not quantised in 16 bits"
        )
    inference = report.inference
    if inference.kv_cache_allocated != inference.kv_cache:
        allocated = nbytes_text(inference.kv_cache_allocated)
        notes.append(f"KV cache with chunked attention; Meta's code allocates {allocated}")
    return Group(Fitted(columns), *(Text(note, style="dim") for note in notes if note))


def _training(memory: TrainingMemory) -> RenderableType:
    plan = memory.plan
    how = [plan["method"], plan["precision"], plan["optimizer"], f"{plan['attention']} attention"]
    how += ["checkpointing"] * plan["checkpointing"]
    if plan["accumulation"] > 1:
        how.append(f"{plan['accumulation']} batches summed")
    if plan["gpus"] > 1:
        shared = f"ZeRO-{plan['zero']}" if plan["zero"] else "nothing shared"
        how.append(f"{plan['gpus']:,} GPUs, {shared}")
    grid = Table.grid(padding=(0, GAP))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for term in memory.terms:
        if term.value and term.name != "peak":
            highest = term.name.startswith(f"peak of the {memory.reached_in}")
            style = "bold" if highest else ""
            nbytes = Text(nbytes_text(int(term.value), memory.peak), style=style)
            grid.add_row(term.name, nbytes, Text("←" * highest, style=style))
    each = " on each GPU" * (plan["gpus"] > 1)
    trained = count_text(memory.trained_parameters)
    title = Text(f"\nBytes{each} to train {trained} parameters", style="bold")
    title.append(f"  {', '.join(how)}", style="not bold dim")
    return Group(title, grid)


def _rule_of_thumb(memory: TrainingMemory) -> Text:
    line = Text("\nThe rule of thumb, 6 times the FP32 weights, says ")
    line.append(nbytes_text(memory.rule_of_thumb), style="bold")
    return line.append(f": {memory.rule_of_thumb_differs}.")


def _gpu(fit: GpuFit, dtype: str, terminal: bool) -> RenderableType:
    dtype = f" in {dtype}" * bool(dtype)
    of_it = f"{nbytes_text(fit.nbytes)}{' each' * (fit.number > 1)}"
    title = Text(f"\n{fit.number} x {fit.name}", style="bold")
    title.append(f"  {of_it}, {fit.split}", style="not bold dim")
    if fit.left >= 0:
        verdict = Text(f"It fits{dtype}: {nbytes_text(fit.left)} left", style="bold green")
    else:
        missing = nbytes_text(-fit.left)
        verdict = Text(f"It does not fit{dtype}: {missing} too much", style="bold red")
    lines: list[RenderableType] = [title, verdict]
    if terminal:
        lines.append(_Bar(fit))
    rows: list[tuple[str, RenderableType]] = []
    for (name, nbytes), (fill, style) in zip(fit.parts.items(), cycle(FILLS), strict=False):
        label = Text(f"{fill} " if terminal else "", style=style)
        text = nbytes_text(nbytes, fit.nbytes)
        rows.append((name, label.append(text, style="not bold default")))
    context = "not one token" if fit.max_context is None else counted(fit.max_context, "token")
    if fit.max_context and fit.context_length and fit.max_context > fit.context_length:
        context += f", which is beyond the model's own {fit.context_length:,}"
    batch = "not one sequence" if fit.max_batch is None else counted(fit.max_batch, "sequence")
    rows.append(("largest context", Text(context)))
    rows.append(("largest batch", Text(batch)))
    if fit.min_number is None:
        rows.append(("more of them", Text(f"do not help; {fit.advice}")))
    else:
        rows.append(("enough would be", Text(f"{fit.min_number:,} of them")))
    return Group(*lines, facts(rows))


class _Bar:
    """The memory of one GPU, part by part; a mark below shows its end where that is not enough."""

    def __init__(self, fit: GpuFit) -> None:
        self.fit = fit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fit, width = self.fit, min(BAR_WIDTH, options.max_width)
        whole = max(fit.nbytes, fit.needed)
        bar, reached, drawn = Text(), 0, 0
        for (_, nbytes), (fill, style) in zip(fit.parts.items(), cycle(FILLS), strict=False):
            reached += nbytes
            cells = width * reached // whole - drawn
            bar.append(fill * cells, style=style)
            drawn += cells
        yield bar.append("·" * (width - drawn), style="dim")
        if fit.left < 0:
            end = width * fit.nbytes // whole
            note = "↑ here its memory ends"
            mark = f"{' ' * end}{note}"
            if len(mark) > width:
                mark = f"{'here its memory ends ↑':>{end + 1}}"
            yield Text(mark, style="red")


class _Terms:
    """Each term: its value, the formula, and the formula with numbers."""

    def __init__(self, symbols: dict[str, int], terms: Sequence[Term]) -> None:
        self.symbols, self.terms = symbols, terms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        values = [f"{letter} {value:,}" for letter, value in self.symbols.items()]
        yield Text(", ".join(values), style="dim")
        for term in self.terms:
            if not term.value:
                continue
            line = Text(term.name, style="bold")
            line.append(f"  {_value(term)}", style="not bold")
            yield line
            worked = f"= {term.worked}" if term.worked else ""
            for text in (term.formula, worked, term.source):
                if text:
                    style = "dim" if text == term.source else ""
                    yield Padding(Text(text, style=style), (0, 0, 0, 2))


def _value(term: Term) -> str:
    if term.unit == "bytes":
        return exact_nbytes_text(int(term.value))
    if isinstance(term.value, int) and term.value < 10**18:
        return f"{term.value:,} {term.unit}"
    return f"{_rounded(term.value)} {term.unit}"


def _rounded(number: float) -> str:
    """7.227e23 where nobody reads the digits, else one decimal and separators."""
    if number >= 10**15:
        mantissa, exponent = f"{number:.3e}".split("e+")
        return f"{mantissa}e{int(exponent)}"
    if number < 100:
        return f"{number:.3g}"
    return f"{number:,.1f}" if number < 10**6 else f"{number:,.0f}"


# --- compute --------------------------------------------------------------------------------------


@view.register
def _(report: ComputeEstimate, terminal: bool) -> RenderableType:
    head = safe(report.model, "bold")
    head.append(f"  {count_text(report.parameters)} parameters", style="not bold")
    if report.active_parameters is not None:
        head.append(f", {count_text(report.active_parameters)} per token", style="not bold")
    context = counted(report.context, "token")
    forward = facts(
        (
            ("matrix products", Text(f"{report.matmul_flops_per_token:,} FLOPs")),
            (
                "attention",
                Text(f"{report.attention_flops_per_token:,} FLOPs, looking back over {context}"),
            ),
            ("together", Text(f"{report.forward_flops_per_token:,} FLOPs")),
        )
    )
    bound = f"{report.tokens_bound} " if report.tokens_bound else ""
    tokens = f"{bound}{_short(report.tokens)}, {report.tokens_from}"
    optimal = report.optimal_tokens
    compared = ""
    if report.tokens != optimal:
        compared = (
            f"; here {_rounded(report.tokens_per_parameter)} per parameter, "
            f"{_rounded(report.tokens / optimal)} times as many"
        )
    gpus = f"{report.gpu}-hours at {100 * report.mfu:g} % of the peak"
    if report.gpus > 1:
        days = report.gpu_hours / report.gpus / 24
        gpus += f": {_rounded(days)} days on {report.gpus:,} of them"
    training = facts(
        (
            ("tokens", safe(tokens)),
            ("FLOPs", Text(f"{_rounded(report.training_flops)} (6 per parameter and token)")),
            (
                "by operation",
                Text(f"{_rounded(report.training_flops_by_operation)} (products and attention)"),
            ),
            ("petaFLOP/s-days", Text(_rounded(report.petaflop_s_days))),
            ("GPU time", Text(f"{_rounded(report.gpu_hours)} {gpus}")),
            (
                "compute-optimal",
                Text(
                    f"{_short(optimal)} tokens, 20 per parameter, {_rounded(report.optimal_flops)} "
                    f"FLOPs{compared}"
                ),
            ),
        )
    )
    parts: list[RenderableType] = [
        head,
        section("Forward pass, per token", forward),
        section("Training", training),
        section(
            f"Generating, at best on {report.decoding[0].gpus} x {report.gpu}", _speeds(report)
        ),
    ]
    if report.explained:
        parts.append(section("How each comes about", _Terms(report.symbols, report.terms)))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _speeds(report: ComputeEstimate) -> Fitted:
    rows = report.decoding
    like = max(row.weights for row in rows)
    return Fitted(
        [
            Column("form", [Text(row.dtype) for row in rows], 0),
            Column("weights read", [Text(nbytes_text(row.weights, like)) for row in rows], 2),
            Column("KV cache read", [Text(nbytes_text(row.kv_cache, like)) for row in rows], 3),
            Column("tokens/s", [Text(_rounded(row.tokens_per_second), "bold") for row in rows], 1),
        ]
    )


# --- models ---------------------------------------------------------------------------------------


@view.register
def _(report: ModelCatalog, terminal: bool) -> RenderableType:
    if report.card:
        return _card(report.models[0])
    columns = [
        Column(title, [Text(cell(row)) for row in report.models], rank)
        for title, cell, rank in _COLUMNS
    ]
    return Group(Fitted(columns), Text(f"\n{counted(report.count, 'model')}", style="bold"))


def _short(number: int | None) -> str:
    """8.03 B, 15 T, 131,072."""
    if number is None:
        return ""
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.2f}".rstrip("0").rstrip(".") + f" {letter}"
    return f"{number:,}"


def _tokens(row: ModelRow) -> str:
    return BOUNDS.get(row.training_tokens_bound or "", "") + _short(row.training_tokens)


# Title, cell, and how soon a narrow terminal goes without it: the highest number first.
_COLUMNS = (
    ("model", lambda row: row.id, 0),
    ("parameters", lambda row: f"{row.parameters / 10**9:.2f} B", 1),
    ("active", lambda row: _short(row.active_parameters), 9),
    ("layers", lambda row: str(row.n_layers), 5),
    ("dim", lambda row: f"{row.dim:,}", 7),
    ("heads", lambda row: str(row.n_heads), 8),
    ("KV", lambda row: str(row.n_kv_heads), 8),
    ("context", lambda row: "" if row.context_length is None else f"{row.context_length:,}", 2),
    ("vocabulary", lambda row: f"{row.vocab_size:,}", 10),
    ("shards", lambda row: "" if row.shards is None else str(row.shards), 6),
    ("size", lambda row: "" if row.nbytes is None else nbytes_text(row.nbytes), 7),
    ("released", lambda row: row.released or "", 3),
    ("tokens", _tokens, 4),
    ("cutoff", lambda row: row.knowledge_cutoff or "", 11),
    ("languages", lambda row: str(len(row.languages) or ""), 12),
)


def _card(row: ModelRow) -> RenderableType:
    """Everything that is known of one release, and who says so."""
    context = None if row.context_length is None else f"{row.context_length:,} tokens"
    active = None if row.active_parameters is None else count_text(row.active_parameters)
    tokens = None if row.training_tokens is None else f"{row.training_tokens:,}"
    if tokens and row.training_tokens_bound:
        tokens = f"{row.training_tokens_bound} {tokens}"
    values = {
        "parameters": ("parameters", count_text(row.parameters)),
        "active_parameters": ("active per token", active),
        "dim": ("dim", f"{row.dim:,}"),
        "n_layers": ("layers", str(row.n_layers)),
        "n_heads": ("heads", f"{row.n_heads}, of {row.head_dim}"),
        "n_kv_heads": ("KV heads", str(row.n_kv_heads)),
        "hidden_dim": ("FFN hidden size", f"{row.hidden_dim:,}"),
        "vocab_size": ("vocabulary", f"{row.vocab_size:,}"),
        "context_length": ("context", context),
        "shards": ("native shards", None if row.shards is None else str(row.shards)),
        "nbytes": ("native size", None if row.nbytes is None else exact_nbytes_text(row.nbytes)),
        "released": ("released", row.released),
        "training_tokens": ("training tokens", tokens),
        "knowledge_cutoff": ("knowledge cutoff", row.knowledge_cutoff),
        "languages": ("languages", ", ".join(row.languages) or None),
    }
    head = Text(row.id, style="bold")
    head.append(f"  {row.repository}" if row.repository else "", style="not bold")
    stored = {"plain": "16-bit floats"}.get(row.form, row.form)
    head.append(f"\nstored as {stored}{', output tied to the embedding' * row.tied_output}",
                style="not bold dim")  # fmt: skip
    cited = list(dict.fromkeys(row.sources[field] for field in values if field in row.sources))
    rows: list[tuple[str, RenderableType]] = []
    for field, (label, value) in values.items():
        if value is not None:
            text = Text(value)
            text.append(f"  [{cited.index(row.sources[field]) + 1}]", style="dim")
            rows.append((label, text))
    sources = [f"[{number}] {source}" for number, source in enumerate(cited, 1)]
    return Group(head, Text(), facts(rows), section("Sources", Text("\n".join(sources))))
