"""The Verify panel: verify-checksums, scan, diff, verify-logits."""

from typing import Annotated

import typer

from llamainspect.cli import (
    Json,
    NoColor,
    Path,
    Top,
    app,
    listed_weights,
    note_run,
    one_of_several,
    show,
    track,
)
from llamainspect.cli.inputs import (
    Bos,
    Device,
    Dtype,
    GroupSize,
    Ids,
    Prompt,
    PromptFile,
    RopeFactor,
    Simulate,
    Special,
    Stream,
    TokenizerPath,
    check_one,
    interrupts_end_it,
    open_model,
)

PANEL = "Verify"


@app.command(
    "verify-checksums",
    rich_help_panel=PANEL,
    epilog="Example: llamainspect verify-checksums ~/.llama/checkpoints/Llama3.1-8B",
)
def verify(
    path: Path = ".",
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Compare the CRC-32 of every tensor, even where a list agrees."
        ),
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Make a checklist.chk for the directory.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --write: replace the checklist.chk that is there.")
    ] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Is every byte what was published, and if not, which tensor is damaged?

    Digests come from checklist.chk, SHA256SUMS and their like,
    and from what a hub download leaves behind.

    Weights that differ, or that no list names, are held against
    the CRC-32 of every tensor inside.

    Ends with 0 when all that is listed and all weights are verified,
    with 1 when something differs, is missing or unfinished,
    and with 3 when there is nothing to check against.
    """
    from llamainspect.checksums import verifying

    if force and not write:
        raise typer.BadParameter("it goes with --write", param_hint="--force")
    show(track(verifying(path, deep, write, force), json, no_color), json, no_color)


@app.command(rich_help_panel=PANEL, epilog="Example: llamainspect scan downloads/adapter_model.bin")
def scan(path: Path = ".", json: Json = False, no_color: NoColor = False) -> None:
    """What would a .pth, .pt or .bin do if it were unpickled in the ordinary way?

    Lists each global that its pickles name, which unpickling would
    import and may call, with its place in the stream. Looks into
    every file below a directory, archives in any form and pickles
    within pickles. Nothing is unpickled.

    Ends with 0 when only known constructs of tensors are named, and
    with 1 when a global is unknown or dangerous, or a file cannot be
    followed to its end.
    """
    from llamainspect.scan import scan_files

    show(scan_files(path), json, no_color)


@app.command(rich_help_panel=PANEL, epilog="Example: llamainspect diff Llama-3.1-8B my-merge")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, in any layout.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    config_only: Annotated[
        bool,
        typer.Option(
            "--config-only", help="Configurations alone; official models' names work, too."
        ),
    ] = False,
    names: Annotated[
        str | None,
        typer.Option("--names", metavar="GLOB", help="Only weights whose name matches."),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option("--rtol", metavar="X", help="Values this close count as the same, times B's."),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option("--atol", metavar="X", help="Values this close count as the same."),
    ] = None,
    top: Top = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """What is not the same in two checkpoints, by how much, and what it looks like.

    Layouts may differ: Meta's and Hugging Face's compare as equal
    when they are, whatever the names, shards and order of rows.

    Ends with 0 when nothing differs, else with 1. With --rtol or --atol
    values count as the same within |a - b| <= atol + rtol * |b|.
    """
    from llamainspect.diff import DiffOptions, comparing

    options = DiffOptions(config_only, names, rtol, atol, listed_weights(top, json))
    show(track(comparing(a, b, options), json, no_color), json, no_color)


@app.command(
    "verify-logits",
    rich_help_panel=PANEL,
    epilog="Example: llamainspect verify-logits merged --against Llama3.1-8B --prompt 'To be, or'",
)
def verify_logits(
    path: Path = ".",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="FILE", help="A recording: .safetensors or .npz with logits."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="PATH", help="Another checkpoint.")
    ] = None,
    implementation: Annotated[
        str | None,
        typer.Option(
            "--implementation",
            metavar="transformers",
            help="The same weights in others' code.",
        ),
    ] = None,
    prompt: Prompt = None,
    ids: Ids = None,
    file: PromptFile = None,
    tokenizer: TokenizerPath = None,
    bos: Bos = True,
    special: Special = False,
    device: Device = "auto",
    dtype: Dtype = None,
    stream: Stream = None,
    rope_factor: RopeFactor = None,
    simulate: Simulate = None,
    group_size: GroupSize = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Does the model compute what it should?

    Its logits are held against a recording,
    another checkpoint, or another implementation.

    Without a prompt: the tokens of the recording,
    else 64 tokens from all over the vocabulary.

    Two checkpoints are walked side by side, and the first layer
    from which on they differ is named.

    --simulate rounds the weights of PATH alone.

    Ends with 0 when the logits are as close as rounding allows, else with 1.
    """
    from llamainspect.runs import RunOptions

    given = {"--reference": reference, "--against": against, "--implementation": implementation}
    check_one(given, "with what should it be compared?")
    if implementation not in (None, "transformers"):
        raise typer.BadParameter("only transformers is known", param_hint="--implementation")
    if implementation is not None and one_of_several():
        raise typer.BadParameter(
            "transformers takes all weights into one process; start it without torchrun",
            param_hint="--implementation",
        )
    prompts = {"--prompt": prompt, "--ids": ids, "--file": file}
    check_one(prompts, None)
    options = RunOptions(device, dtype, stream, rope_factor, simulate, group_size)
    opened = open_model(path, options, tokenizer)
    tokens = None
    if all(value is None for value in prompts.values()) and (tokenizer or special or not bos):
        raise typer.BadParameter("--tokenizer, --no-bos and --special go with a prompt")
    if any(value is not None for value in prompts.values()):
        tokens, _ = opened.prompt(prompt, ids, file, bos, special)
    with interrupts_end_it():
        from llamainspect.model import recordings, verify

        if implementation is not None:
            import llamainspect.model.referee  # noqa: F401

    if reference is not None:
        recording = recordings.load(reference)
        model = opened.load(tokens=len(recording.tokens), logits=2 * len(recording.positions))
        progress = verify.verifying_reference(model, recording, reference, tokens)
    else:
        if tokens is None:
            subject = opened.subject
            tokens = verify.default_tokens(subject.config.vocab_size or 0, subject.context_length)
        count = len(tokens)
        model = opened.load(tokens=count, logits=2 * count, share=1.0 if against is None else 0.5)
        if against is not None:
            plain = options._replace(simulate=None, group_size=None)
            other = open_model(against, plain)
            second = other.load(tokens=count, logits=2 * count, share=0.5)
            progress = verify.verifying_against(model, second, tokens)
        else:
            progress = verify.verifying_implementation(model, tokens)
    report = track(progress, json, no_color)
    note_run(report.run, report.seconds, json)
    show(report, json, no_color)
