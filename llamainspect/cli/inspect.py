"""The Inspect panel: summary, tensors, show, stats, explain, report."""

import os
from typing import Annotated, Literal

import typer

from llamainspect.cli import (
    Json,
    NoColor,
    Path,
    PathOrName,
    Top,
    app,
    default_path,
    listed_weights,
    show,
    track,
    write_answer,
)

PANEL = "Inspect"
STDOUT = "-"

# As in llamainspect.stats, which is imported when it is needed.
StatsSort = Literal[
    "file", "name", "elements", "mean", "std", "abs-max", "zeros", "subnormal", "entropy", "error"
]
NamesOption = Annotated[
    Literal["meta", "hf"],
    typer.Option("--names", help="Names as Meta or as Hugging Face has them."),
]


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect summary ~/.llama/checkpoints/Llama3.1-8B"
)
def summary(path: Path = ".", json: Json = False, no_color: NoColor = False) -> None:
    """Which model it is, its configuration and parameters, and everything wrong with it.

    Ends with 1 when a finding is an error.
    """
    from llamainspect.checkpoint import open_checkpoint
    from llamainspect.summary import summarize

    show(summarize(open_checkpoint(path)), json, no_color)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: llamainspect tensors Llama3.1-8B '*.attention.w?.weight'",
)
def tensors(
    path: Path = ".",
    glob: Annotated[
        str | None,
        typer.Argument(metavar="GLOB", help="Only names that match, as in 'layers.0.*'."),
    ] = None,
    sort: Annotated[
        Literal["file", "name", "size", "dtype"], typer.Option(help="Order of the rows.")
    ] = "file",
    per_shard: Annotated[
        bool, typer.Option("--per-shard", help="Where each file keeps its part.")
    ] = False,
    names: NamesOption = "meta",
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List the weights: name, shape, dtype, bytes, and how shards cut them.

    With one argument that is no path but a pattern, the current directory is meant.
    """
    from llamainspect.checkpoint import open_checkpoint
    from llamainspect.inventory import list_tensors

    path, glob = _path_and_glob(path, glob)
    show(list_tensors(open_checkpoint(path), glob, sort, per_shard, names), json, no_color)


@app.command(
    "show", rich_help_panel=PANEL, epilog="Example: llamainspect show Llama3.1-8B output.weight"
)
def show_weight(
    path: Annotated[
        str | None, typer.Argument(metavar="[PATH]", help="As for summary; may be left out.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The weight, by its full name.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="Index of the first value to show.")
    ] = None,
    names: NamesOption = "meta",
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """One weight: its facts and a corner of its values, read from only the bytes they need."""
    from llamainspect.checkpoint import open_checkpoint
    from llamainspect.show import show_tensor

    start = () if at is None else _index(at)
    if path is None or (name is None and os.path.lexists(path)):
        raise typer.BadParameter("which weight? Give its name", param_hint="NAME")
    if name is None:
        path, name = default_path(), path
    show(show_tensor(open_checkpoint(path), name, start, names), json, no_color)


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect stats Llama3.1-8B '*.attention.wq.weight'"
)
def stats(
    path: Path = ".",
    glob: Annotated[
        str | None,
        typer.Argument(metavar="GLOB", help="Only names that match, Meta's or Hugging Face's."),
    ] = None,
    sort: Annotated[
        StatsSort | None,
        typer.Option(
            metavar="FIGURE",
            help="Order of the weights: file, name, or the largest elements, mean, std, abs-max, "
            "entropy, error, or share of zeros or subnormal first.",
            show_default="file; with --quantize error",
        ),
    ] = None,
    top: Top = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="NAME", help="One weight alone, with its full histogram."),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="With --plot: counts on a logarithmic scale.")
    ] = False,
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option("--quantize", help="What a round trip through it would change."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="N",
            help="With --quantize: weights that share a scale.",
            show_default="int8: a row, int4: 128",
        ),
    ] = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """The values of all weights: spread, extremes, what is wrong, and which layers stand out.

    Every value is read once. With one argument that is no path but a
    pattern, the current directory is meant.

    Ends with 1 when a value is NaN or infinite, which is located, or
    when another finding is an error.
    """
    from llamainspect.stats import StatsOptions, scanning

    path, glob = _path_and_glob(path, glob)
    options = StatsOptions(
        pattern=glob,
        sort=sort or ("error" if quantize else "file"),
        top=listed_weights(top, json),
        plot=plot,
        logarithmic=log,
        quantize=quantize,
        group_size=group_size,
    )
    show(track(scanning(path, options), json, no_color), json, no_color)


@app.command(rich_help_panel=PANEL, epilog="Example: llamainspect explain llama-3.2-3b hidden_dim")
def explain(
    model: PathOrName = ".",
    field: Annotated[
        str | None,
        typer.Argument(metavar="[FIELD]", help="One of them alone, as rope_theta or hidden_dim."),
    ] = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """A model explained: its files, its fields, and every derived number worked out.

    With one argument that is a field's name and no path, the model
    is LLAMAINSPECT_MODEL or the current directory.
    """
    from llamainspect.explain import explain_model, is_topic
    from llamainspect.subject import find_subject

    if field is None and is_topic(model) and not os.path.lexists(model):
        model, field = default_path(), model
    show(explain_model(find_subject(model), field), json, no_color)


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect report Llama3.1-8B --stats -o 8b.html"
)
def report(
    path: Path = ".",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page; - is standard output.",
            show_default="report.html; none with --json",
        ),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="With figures of the values, which are all read.")
    ] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """A page in HTML: summary, memory, every weight, and with --stats the values.

    It needs no network, can be filtered, sorted and printed. An
    older report is replaced, and nothing else.

    Ends with 1 when a finding is an error; the page is written all the same.
    """
    from llamainspect.full_report import PAGE, reporting, write_page

    if json and output == STDOUT:
        raise typer.BadParameter("--json prints there, too", param_hint="--output")
    file = PAGE if output is None and not json else output
    found = track(reporting(path, stats, None if file == STDOUT else file), json, no_color)
    if file is not None:
        from llamainspect.render.html import to_html

        page = to_html(found)
        if file == STDOUT:
            write_answer(page.encode(), found)
            return
        found = write_page(found, file, page)
    show(found, json, no_color)


def _path_and_glob(path: str, glob: str | None) -> tuple[str, str | None]:
    """One argument that is no path but a pattern is the latter."""
    if glob is None and any(mark in path for mark in "*?[") and not os.path.lexists(path):
        return default_path(), path
    return path, glob


def _index(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise typer.BadParameter(f"{text!r} is no index; write it as 128000,0", param_hint="--at")
    return tuple(int(number) for number in numbers)
