"""The Run panel: tokenize, detokenize, vocab."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llamainspect.cli import (
    MODEL_VARIABLE,
    Json,
    Model,
    NoColor,
    app,
    default_path,
    show,
    write_answer,
)

if TYPE_CHECKING:
    from llamainspect.chat import Message

PANEL = "Run"
STDIN = "-"
BYTES_HINT = "--bytes takes any bytes, or convert it with iconv"
MAX_NBYTES = 256 * 2**20  # of a text; its tokens take some thirty times as much memory


@app.command(
    rich_help_panel=PANEL, epilog='Example: llamainspect tokenize "Hello world" -m Llama3.1-8B'
)
def tokenize(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="The text; - reads standard input.")
    ] = None,
    model: Model = ".",
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Take the text from a file.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="TEXT", help="Lay out a dialogue: what the user says."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="Its system prompt.")
    ] = None,
    chat: Annotated[
        str | None,
        typer.Option("--chat", metavar="FILE", help="Lay out the dialogue in a JSON file."),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Only the ids, on one line.")] = False,
    bos: Annotated[bool, typer.Option("--bos", help="Begin with the begin-of-text token.")] = False,
    eos: Annotated[bool, typer.Option("--eos", help="End with the end-of-text token.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Special tokens in the text are special.")
    ] = False,
    any_bytes: Annotated[
        bool, typer.Option("--bytes", help="Accept bytes that are no UTF-8, one token each.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with what tokenizer.json makes of it.")
    ] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """A text, or a dialogue, as the tokens that the model reads.

    Ends with 1 when the tokenizer does not fit the model,
    or when --check finds a difference.
    """
    from llamainspect.tokenization import decode_text, tokenize, tokenize_dialogue
    from llamainspect.tokenizer import load_tokenizer

    if ids and json:
        raise typer.BadParameter("--json has the ids already", param_hint="--ids")
    _check_sources({"TEXT": text, "--file": file, "--chat": chat, "--user": user}, system)
    if chat is None and user is None:
        data, where = (os.fsencode(text), "TEXT") if text not in (None, STDIN) else _read(file)
        report = tokenize(
            load_tokenizer(model),
            data if any_bytes else decode_text(data, where, BYTES_HINT),
            bos=bos,
            eos=eos,
            special=special,
            ids_only=ids,
            check=check,
        )
    else:
        if bos or eos or special or any_bytes:
            raise typer.BadParameter(
                "--bos, --eos, --special and --bytes are for a text; the format of a dialogue "
                "says which special tokens it has"
            )
        messages = _dialogue(chat, user, system)
        report = tokenize_dialogue(load_tokenizer(model), messages, ids_only=ids, check=check)
    if ids:
        notes = [report.check.message] if report.check else []
        write_answer(f"{' '.join(map(str, report.ids))}\n".encode(), report, *notes)
    else:
        show(report, json, no_color)


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect detokenize 9906 1917 -m Llama3.1-8B"
)
def detokenize(
    ids: Annotated[
        list[str],
        typer.Argument(metavar="IDS...", help="Token ids; - reads them from standard input."),
    ],
    model: Model = ".",
    raw: Annotated[
        bool, typer.Option("--bytes", help="Write the bytes as they are, UTF-8 or not.")
    ] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """The text that token ids stand for.

    In a pipe exactly that text, without a line end of its own.
    """
    from llamainspect.errors import CorruptFile
    from llamainspect.tokenization import decode_text, detokenize, parse_ids
    from llamainspect.tokenizer import load_tokenizer

    if json and raw:
        raise typer.BadParameter("--json has the bytes already, as hex", param_hint="--bytes")
    if raw and sys.stdout.isatty():
        raise typer.BadParameter(
            "a terminal may obey raw bytes; send them to a file or a pipe", param_hint="--bytes"
        )
    if ids == [STDIN]:
        numbers = parse_ids(decode_text(*_read(None)), "standard input")
    else:
        try:
            numbers = parse_ids(" ".join(ids), "IDS")
        except CorruptFile as error:
            raise typer.BadParameter(str(error)) from error
    report = detokenize(load_tokenizer(model), numbers)
    if raw:
        write_answer(bytes.fromhex(report.bytes), report)
    elif json or sys.stdout.isatty():
        show(report, json, no_color)
    else:
        write_answer(report.text.encode(), report)


@app.command(
    rich_help_panel=PANEL, epilog="Example: llamainspect vocab Llama3.1-8B --search ' Llama'"
)
def vocab(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]",
            help="Checkpoint directory, hub download, or a tokenizer file.",
            show_default=f"{MODEL_VARIABLE}, or the current directory",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="PATH", help="The same as PATH.")
    ] = None,
    id: Annotated[
        list[int] | None, typer.Option("--id", metavar="N", help="One token; may be repeated.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Tokens that hold this text.")
    ] = None,
    special: Annotated[bool, typer.Option("--special", help="The special tokens.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="What it is made of; so without other options.")
    ] = False,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """The tokenizer's vocabulary: single tokens, or what it is made of.

    Of several options all must hold: --special --search eot.
    """
    from llamainspect.tokenizer import load_tokenizer
    from llamainspect.vocab import describe_vocabulary

    if path is not None and model is not None:
        raise typer.BadParameter("PATH says it already", param_hint="--model")
    given = model if path is None else path
    report = describe_vocabulary(
        load_tokenizer(default_path() if given is None else given),
        ids=id or (),
        search=search,
        special=special,
        stats=stats or not (id or special or search is not None),
    )
    show(report, json, no_color)


def _check_sources(sources: dict[str, str | None], system: str | None) -> None:
    """Of the places that a text can come from, one must be given."""
    given = [name for name, value in sources.items() if value is not None]
    if system is not None and "--user" not in given:
        raise typer.BadParameter("it goes with --user", param_hint="--system")
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} each say what to tokenize; give one")
    if not given:
        raise typer.BadParameter(
            "what should be tokenized? Give a text, - for standard input, --file, --chat or --user"
        )


def _dialogue(chat: str | None, user: str | None, system: str | None) -> "list[Message]":
    """From a file, or from what --system and --user say."""
    from llamainspect.chat import Message
    from llamainspect.tokenization import decode_text, read_dialogue

    if chat is not None:
        return read_dialogue(*_read(chat))
    return [
        Message(role, decode_text(os.fsencode(said), f"--{role}"))
        for role, said in (("system", system), ("user", user))
        if said is not None
    ]


def _read(file: str | None) -> tuple[bytes, str]:
    """The content of a file, or of standard input, and what to call it."""
    from llamainspect.errors import MissingFile, UnsupportedFile

    if file is None or file == STDIN:
        where = "standard input"
        if sys.stdin is None:
            raise MissingFile(f"{where}: it is closed; give the text or --file")
        data = sys.stdin.buffer.read(MAX_NBYTES + 1)
    else:
        where = file
        with open(file, "rb") as source:
            data = source.read(MAX_NBYTES + 1)
    if len(data) > MAX_NBYTES:
        raise UnsupportedFile(
            f"{where}: it has more than {MAX_NBYTES // 2**20} MiB, which are not read at once; "
            "give it in parts"
        )
    return data, where
