"""What commands read besides a model: texts, dialogues, prompts; and how a model is to be run."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from llamainspect.cli import one_of_several

if TYPE_CHECKING:
    from llamainspect.model.runner import Model
    from llamainspect.processes import Share
    from llamainspect.readahead import ReadAhead
    from llamainspect.runs import RunOptions
    from llamainspect.subject import Subject
    from llamainspect.tokenizer import Tokenizer

STDIN = "-"
MAX_NBYTES = 256 * 2**20  # of a text; its tokens take some thirty times as much memory
# Importing torch holds the interpreter's lock, which the thread that reads needs between two reads;
# Python's own 5 ms let it wait for each.
SWITCH_SECONDS = 5e-4
RUN_PANEL = "How it is run"

# --- options ------------------------------------------------------------------------------------

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        help="auto: a GPU if any.",
        rich_help_panel=RUN_PANEL,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="fp32|bf16|fp16",
        help="Type of the arithmetic.",
        show_default="fp32 on a CPU, else as stored",
        rich_help_panel=RUN_PANEL,
    ),
]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="One layer in memory, or all.",
        show_default="all, if they fit and are needed again",
        rich_help_panel=RUN_PANEL,
    ),
]
RopeFactor = Annotated[
    float | None,
    typer.Option(
        "--rope-factor",
        metavar="N",
        help="How many times RoPE is slowed.",
        show_default="as of the release",
        rich_help_panel=RUN_PANEL,
    ),
]
Simulate = Annotated[
    str | None,
    typer.Option(
        "--simulate",
        metavar="int8|int4",
        help="Round the weights as quantisation would.",
        rich_help_panel=RUN_PANEL,
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        metavar="N",
        min=1,
        help="With --simulate: weights that share a scale.",
        show_default="int8: a row, int4: 128",
        rich_help_panel=RUN_PANEL,
    ),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", help="The text; - reads standard input.")
]
Ids = Annotated[
    str | None,
    typer.Option("--ids", metavar="IDS", help="Token ids, or - for standard input."),
]
PromptFile = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="Take the text from a file.")
]
TokenizerPath = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="The tokenizer's directory or file.",
        show_default="beside the weights",
    ),
]
Bos = Annotated[bool, typer.Option("--bos/--no-bos", help="Begin with the begin-of-text token.")]
Special = Annotated[bool, typer.Option("--special", help="Special tokens in the text are special.")]


# --- a model that runs --------------------------------------------------------------------------


class Opened(NamedTuple):
    """A checkpoint whose weights are being read while torch is imported and a prompt encoded."""

    path: str
    subject: "Subject"
    options: "RunOptions"
    ahead: "ReadAhead"
    tokenizer_path: str  # `path`, unless another was given
    processes: "Share"  # what this process has of it, under torchrun

    def load(
        self,
        *,
        tokens: int,
        logits: int,
        sequences: int = 1,
        passes: int | None = 1,
        share: float = 1.0,
    ) -> "Model":
        """The model, for so many tokens of each sequence, and logits of so many of them."""
        with interrupts_end_it():
            from llamainspect.model.runner import load_model

            if self.processes.ranks > 1:
                from llamainspect.model.parallel import end_with_others

                end_with_others()
        return load_model(
            self.subject, self.options, tokens=tokens, logits=logits, sequences=sequences,
            passes=passes, share=share, ahead=self.ahead, processes=self.processes,
        )  # fmt: skip

    def prompt(
        self, text: str | None, ids: str | None, file: str | None, bos: bool, special: bool
    ) -> "tuple[list[int], Tokenizer | None]":
        """Token ids of what was given, and the tokenizer; with ids it need not be there."""
        from llamainspect.errors import CorruptFile, MissingFile
        from llamainspect.tokenization import decode_text, parse_ids
        from llamainspect.tokenizer import load_tokenizer

        if ids is not None:
            if not bos or special:
                raise typer.BadParameter(
                    "ids are taken as they are: --no-bos and --special are of a text",
                    param_hint="--ids",
                )
            try:
                given = decode_text(*read_input(None)) if ids == STDIN else ids
                numbers = parse_ids(given, "--ids")
            except CorruptFile as error:
                raise typer.BadParameter(str(error)) from error
            try:
                return numbers, load_tokenizer(self.tokenizer_path)
            except MissingFile:
                if self.tokenizer_path != self.path:
                    raise
                return numbers, None
        tokenizer = load_tokenizer(self.tokenizer_path)
        return tokenizer.encode(read_text(text, file), bos=bos, special=special), tokenizer

    def dialogue(self, said: str, system: str | None) -> "tuple[list[int], Tokenizer | None]":
        """A user's message, and perhaps a system prompt, up to where the model answers."""
        from llamainspect.chat import Message
        from llamainspect.tokenization import decode_text, tokenize_dialogue
        from llamainspect.tokenizer import load_tokenizer

        messages = [Message("user", said)]
        if system is not None:
            messages.insert(0, Message("system", decode_text(os.fsencode(system), "--system")))
        tokenizer = load_tokenizer(self.tokenizer_path)
        report = tokenize_dialogue(tokenizer, messages, ids_only=True)
        return list(report.ids), tokenizer


def open_model(path: str, options: "RunOptions", tokenizer: str | None = None) -> Opened:
    """Look at the headers, refuse what cannot be run, and begin to read; torch comes later."""
    from llamainspect.errors import InvalidRequest, NotACheckpoint
    from llamainspect.processes import share_here
    from llamainspect.readahead import start_reading
    from llamainspect.runs import check_runnable
    from llamainspect.shares import check_share, own_weights
    from llamainspect.subject import find_subject

    options.check()
    try:
        subject = find_subject(path)
    except InvalidRequest as error:
        raise NotACheckpoint(
            f"{path}: there is no such path; give the directory of a checkpoint with its weights"
        ) from error
    checkpoint, config = check_runnable(subject)
    share = share_here()
    check_share(config, share)
    rounding = options.simulate is not None
    own = own_weights(checkpoint.weights, config, share, whole_rows=rounding)
    sys.setswitchinterval(SWITCH_SECONDS)
    ahead = start_reading(checkpoint._replace(weights=own), share)
    read_by = path if tokenizer is None else tokenizer
    return Opened(path, subject, options, ahead, read_by, share)


@contextmanager
def interrupts_end_it() -> Iterator[None]:
    """While torch is imported Ctrl-C ends the process at once: a library that meets it as an
    exception may take it for something else, and go on."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and nobody asked for them to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_one(given: dict[str, str | None], question: str | None) -> None:
    """Of some options at most one may be given, and one must if there is a `question`."""
    names = [name for name, value in given.items() if value is not None]
    *others, last = given
    if len(names) > 1:
        raise typer.BadParameter(f"{' and '.join(names)} exclude each other; give one")
    if question and not names:
        raise typer.BadParameter(f"{question} Give {', '.join(others)} or {last}")


# --- texts --------------------------------------------------------------------------------------


def read_text(text: str | None, file: str | None) -> str:
    """What --prompt says, what stands in a file, or standard input."""
    from llamainspect.tokenization import decode_text

    if text is not None and text != STDIN:
        return decode_text(os.fsencode(text), "--prompt")
    return decode_text(*read_input(file))


def read_input(file: str | None) -> tuple[bytes, str]:
    """The content of a file, or of standard input, and what to call it."""
    from llamainspect.errors import InvalidRequest, MissingFile, UnsupportedFile

    if file is None or file == STDIN:
        where = "standard input"
        if one_of_several():
            raise InvalidRequest(
                f"{where}: only one of several processes could read it; give a file"
            )
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
