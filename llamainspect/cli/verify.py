"""The Verify panel: verify-checksums."""

from typing import Annotated

import typer

from llamainspect.cli import Json, NoColor, Path, app, show, track

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
