"""The Plan panel: models."""

from typing import Annotated

import typer

from llamainspect.cli import Json, NoColor, app, show

PANEL = "Plan"


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
    """The official releases of Llama: sizes, shape, context, training, and who says so."""
    from llamainspect.errors import MissingFile
    from llamainspect.models import list_models

    try:
        report = list_models(filter)
    except MissingFile as error:
        raise typer.BadParameter(str(error), param_hint="FILTER") from error
    show(report, json, no_color)
