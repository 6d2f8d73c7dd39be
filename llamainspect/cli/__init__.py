"""The command line: parse, call, show, exit. Nothing is computed here, and little is imported."""

import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import chain
from threading import Thread
from typing import Annotated, NoReturn, TypeVar

import typer

from llamainspect import __version__
from llamainspect.errors import InvalidRequest, LlamaInspectError
from llamainspect.processes import share_here
from llamainspect.reports import FileProgress, Generation, ModelRun, Report

R = TypeVar("R", bound=Report)

# A command is short and makes few cycles: looking for them took a tenth of a summary's time.
GC_THRESHOLD = 200_000
NO_MEMORY = "there is not enough memory for that; give it less at a time"
EXIT_NO = 1
EXIT_WRONG_COMMAND_LINE = 2
EXIT_NO_ANSWER = 3
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TOGETHER = frozenset({"logits", "generate", "evaluate", "verify-logits"})  # under torchrun
MODEL_VARIABLE = "LLAMAINSPECT_MODEL"
LISTED_WEIGHTS = 20  # on a page, unless --top says otherwise

Path = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        envvar=MODEL_VARIABLE,
        help="Checkpoint directory, hub download, or one weight file.",
        show_default="current directory",
        show_envvar=True,
    ),
]
PathOrName = Annotated[
    str,
    typer.Argument(
        metavar="PATH|MODEL",
        envvar=MODEL_VARIABLE,
        help="Checkpoint directory, params.json, or an official model such as llama-3.1-8b.",
        show_default="current directory",
        show_envvar=True,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH",
        envvar=MODEL_VARIABLE,
        help="Checkpoint directory, hub download, or a tokenizer file.",
        show_default="current directory",
        show_envvar=True,
    ),
]
Top = Annotated[
    int | None,
    typer.Option("--top", metavar="N", help="Weights to list.", show_default="20, with --json all"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Plain text, as with NO_COLOR=1.")]

app = typer.Typer(
    name="llamainspect",
    help="What is in a Llama checkpoint, and is it what it claims to be?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    gc.set_threshold(GC_THRESHOLD)
    for stream in ("stdout", "stderr"):  # started with it closed: the rest is still an answer
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  open until the end
    if one_of_several():
        _hear_torchrun()
    try:
        with _one_voice():
            app()
    except InvalidRequest as error:
        _fail(str(error), EXIT_WRONG_COMMAND_LINE)
    except LlamaInspectError as error:
        _fail(str(error))
    except MemoryError:
        _fail(NO_MEMORY)
    except RuntimeError as error:  # as torch reports that memory is used up
        if type(error).__name__ != "OutOfMemoryError" and "allocate" not in str(error):
            raise
        _fail(NO_MEMORY)
    except SystemExit as end:
        broken = end.__context__  # of which Typer and rich make a 1, where they print help
        if not isinstance(broken, BrokenPipeError):
            raise
        sys.exit(getattr(broken.__context__, "exit_code", 0))  # of a wrong command line
    except OSError as error:
        if error.errno in NO_ROOM and not error.filename:  # help again; files have their names
            with _writing():
                raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path and its permissions")
    finally:
        gc.freeze()  # what is left ends with the process; no last sweep
    sys.exit(0)


def leave_others(code: int, finished: bool = True) -> NoReturn:
    """End one of several processes at once; one that has an answer waits until all have it.

    Threads of torch.distributed outlive its groups, and may abort a Python that is ending
    (pytorch/pytorch#190489).
    """
    parallel = sys.modules.get("llamainspect.model.parallel")
    if parallel is not None and finished and code in (0, EXIT_NO):
        parallel.part()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def show(report: Report, json: bool, no_color: bool) -> None:
    """Print a report on stdout, and end with 1 when its answer is no."""
    if json:
        from llamainspect.render.json import json_pieces

        _write(chain(json_pieces(report), "\n"))
    else:
        from llamainspect.render.text import to_text

        plain = no_color or bool(os.environ.get("NO_COLOR"))
        _write([to_text(report, terminal=sys.stdout.isatty(), plain=plain)])
    if not report.ok:
        raise typer.Exit(EXIT_NO)


def write_answer(data: bytes, report: Report, *notes: str) -> None:
    """Print an answer as it is, for another program; notes and findings go to stderr."""
    from llamainspect.render.printable import printable

    findings = getattr(report, "findings", ())
    for note in [*notes, *(f"{f.severity}: {f.where}: {f.message}" for f in findings)]:
        say(f"llamainspect: {printable(note, limit=2_000)}")
    with _writing():
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    if not report.ok:
        raise typer.Exit(EXIT_NO)


def write_pieces(pieces: Generator[str, None, R], quiet: bool) -> R:
    """Print a text as it comes; on a terminal without what that would obey. Returns the report."""
    from llamainspect.render.printable import printable_lines

    terminal = sys.stdout.isatty()
    while True:
        try:
            piece = next(pieces)
        except StopIteration as stop:
            report: R = stop.value
            break
        if not quiet:
            _write([printable_lines(piece) if terminal else piece], needed=True)
    if not quiet:
        _write(["\n"])
    return report


def note_run(run: ModelRun, seconds: float, json: bool) -> None:
    """Time and memory of a run, for a person at a terminal: they are no part of the answer."""
    if not json and sys.stderr.isatty():
        from llamainspect.render.text.run import time_text

        say(time_text(run, seconds))


def note_speed(report: Generation) -> None:
    """How fast a text was made and in how much memory, on stderr: the text alone is the answer."""
    from llamainspect.render.text.run import speed_text

    say(speed_text(report))


def say(text: str) -> None:
    """A line on stderr; when nobody can read it, that changes no answer and no exit code."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def default_path() -> str:
    """Where a command looks that was given no path."""
    return os.environ.get(MODEL_VARIABLE) or "."


def listed_weights(top: int | None, json: bool) -> int | None:
    """How many a report lists; None: all, as programs want them."""
    return LISTED_WEIGHTS if top is None and not json else top


def track(progress: Generator[tuple[FileProgress, ...], None, R], json: bool, no_color: bool) -> R:
    """Drive a long answer to its end; on a terminal with progress bars on stderr.

    rich is loaded behind the first step, when threads are at work and it costs no time.
    """
    next(progress)
    if sys.stderr is not None and sys.stderr.isatty():
        from llamainspect.render.progress import with_bars

        return with_bars(progress, plain=no_color)
    if not json:
        import llamainspect.render.text  # noqa: F401
    from llamainspect.progress import finish

    return finish(progress)


def _write(texts: Iterable[str], needed: bool = False) -> None:
    """On stdout; ends the program quietly when nobody reads on what takes `needed` work to make."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with _writing(needed):
        sys.stdout.writelines(texts)
        sys.stdout.flush()


@contextmanager
def _writing(needed: bool = False) -> Iterator[None]:
    """What can happen to standard output: after that nothing is written, not even at exit."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader (head, less) has seen enough
            _fail(f"standard output: {error.strerror or error}; make room, or write elsewhere")
        if needed and one_of_several():  # the others wait for what this one would go on with
            from llamainspect.model.parallel import first_to_fail, has_said

            first_to_fail()
            has_said()
            leave_others(0, finished=False)
        if needed:
            raise typer.Exit from None


def one_of_several() -> bool:
    """Whether torchrun has started this process beside others; they run one model together."""
    return share_here().ranks > 1


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes the first speaks; another only to say why it gives up."""
    if share_here().rank == 0:
        yield
        return
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nobody:
        sys.stdout = sys.stderr = nobody
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams


def _hear_torchrun() -> None:
    """torchrun ends the others of a process that is killed, maybe before they have noticed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of the threads to come, too
    Thread(target=_end_with_torchrun, daemon=True).start()


def _end_with_torchrun() -> None:
    signal.sigwait({signal.SIGTERM})
    if "llamainspect.model.parallel" in sys.modules:  # otherwise it has met no others yet
        from llamainspect.model.parallel import first_to_fail, has_said, wait_until_said

        if first_to_fail():
            share = share_here()
            sentence = (
                f"llamainspect: process {share.rank} of {share.ranks} was ended by torchrun, which "
                "has lost another (killed, or out of memory) or was ended itself; start them again"
            )
            with suppress(OSError):
                os.write(2, f"{sentence}\n".encode())  # sys.stderr may be nobody's
            has_said()
        else:
            wait_until_said()
    os._exit(EXIT_NO_ANSWER)


def _fail(sentence: str, code: int = EXIT_NO_ANSWER) -> NoReturn:
    from llamainspect.render.printable import printable

    if not one_of_several():
        say(f"llamainspect: {printable(sentence, limit=2_000)}")
        sys.exit(code)
    from llamainspect.model.parallel import first_to_fail, has_said

    if first_to_fail():
        say(f"llamainspect: {printable(sentence, limit=2_000)}")
        has_said()
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llamainspect {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What is in a Llama checkpoint, and is it what it claims to be?

    Runs nothing that a file contains.
    """
    if share_here().rank > 0 and context.invoked_subcommand not in TOGETHER:
        raise typer.Exit  # the first process answers


for _panel in ("inspect", "verify", "plan", "run"):  # in the order of --help; they need `app`
    import_module(f"llamainspect.cli.{_panel}")
