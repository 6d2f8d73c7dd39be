"""The Run panel: tokenize, detokenize, vocab, logits, generate, evaluate."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llamainspect.cli import (
    MODEL_VARIABLE,
    Json,
    Model,
    NoColor,
    Path,
    app,
    default_path,
    note_run,
    note_speed,
    show,
    track,
    write_answer,
    write_pieces,
)
from llamainspect.cli.inputs import (
    STDIN,
    Bos,
    Device,
    Dtype,
    GroupSize,
    Ids,
    Opened,
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
    read_input,
    read_text,
)

if TYPE_CHECKING:
    from llamainspect.chat import Message
    from llamainspect.questions import Kind
    from llamainspect.reports import ChoiceEvaluation, Evaluation

PANEL = "Run"
BYTES_HINT = "--bytes takes any bytes, or convert it with iconv"


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
        data, where = (os.fsencode(text), "TEXT") if text not in (None, STDIN) else read_input(file)
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
        numbers = parse_ids(decode_text(*read_input(None)), "standard input")
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


@app.command(
    rich_help_panel=PANEL,
    epilog='Example: llamainspect logits Llama3.2-1B --prompt "The capital of France is"',
)
def logits(
    path: Path = ".",
    prompt: Prompt = None,
    ids: Ids = None,
    file: PromptFile = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many tokens.")] = 10,
    every: Annotated[
        bool, typer.Option("--all-positions", help="Behind every token of the prompt.")
    ] = False,
    save: Annotated[
        str | None,
        typer.Option(
            "--save", metavar="FILE", help="Record all logits as .safetensors, for verify-logits."
        ),
    ] = None,
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
    """Which tokens may come next, from a forward pass through the weights.

    Every Llama of Meta's runs, quantised or not, one layer in memory at a time.
    """
    from llamainspect.runs import RunOptions

    check_one({"--prompt": prompt, "--ids": ids, "--file": file}, "what should the model read?")
    options = RunOptions(device, dtype, stream, rope_factor, simulate, group_size)
    opened = open_model(path, options, tokenizer)
    tokens, read_by = opened.prompt(prompt, ids, file, bos, special)
    model = opened.load(tokens=len(tokens), logits=2 * len(tokens) if every or save else 1)
    from llamainspect.model.logits import predicting

    progress = predicting(model, tokens, tokenizer=read_by, top=top, every=every, save=save)
    report = track(progress, json, no_color)
    note_run(report.run, report.seconds, json)
    show(report, json, no_color)


@app.command(
    rich_help_panel=PANEL,
    epilog='Example: llamainspect generate Llama3.2-1B-Instruct --chat --prompt "Why is it cold?"',
)
def generate(
    path: Path = ".",
    prompt: Prompt = None,
    ids: Ids = None,
    file: PromptFile = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is what a user says to an instruct model.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="With --chat: the system prompt.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="When to stop.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0 takes the most likely token.")
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="Choose among the K most likely tokens."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="P", help="Choose among the likeliest that together have P."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="For the same text again.", show_default="any"),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop", metavar="TOKEN", help="Stop here, too: a special token, an id, or a text."
        ),
    ] = None,
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
    """Continue a text, or answer a user. Prints the text as it comes.

    It ends with a token that ends texts or answers, or after --max-new-tokens.
    """
    from llamainspect.runs import RunOptions, Sampling

    check_one({"--prompt": prompt, "--ids": ids, "--file": file}, "what should the model read?")
    if chat and ids is not None:
        raise typer.BadParameter("--chat lays out a text, not ids", param_hint="--ids")
    if chat and (special or not bos):
        raise typer.BadParameter(
            "the format of a dialogue says which special tokens it has: --no-bos and --special are "
            "of a text",
            param_hint="--chat",
        )
    if system is not None and not chat:
        raise typer.BadParameter("it goes with --chat", param_hint="--system")
    sampling = Sampling(temperature, top_k, top_p, seed)
    sampling.check()
    options = RunOptions(device, dtype, stream, rope_factor, simulate, group_size)
    opened = open_model(path, options, tokenizer)
    if chat:
        tokens, read_by = opened.dialogue(read_text(prompt, file), system)
    else:
        tokens, read_by = opened.prompt(prompt, ids, file, bos, special)
    model = opened.load(tokens=len(tokens) + max_new_tokens, logits=1, passes=None)
    from llamainspect.model.generate import generating, stop_ids

    progress = generating(
        model,
        read_by,
        tokens,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop_ids(read_by, stop or ()),
    )
    report = write_pieces(progress, quiet=json)
    if json:
        show(report, json, no_color)
    else:
        note_speed(report)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: llamainspect evaluate Llama3.2-1B --hellaswag hellaswag_val.jsonl",
)
def evaluate(
    path: Path = ".",
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="FILE", help="A text; - reads standard input."),
    ] = None,
    hellaswag: Annotated[
        str | None,
        typer.Option(
            "--hellaswag", metavar="FILE", help="HellaSwag as published: hellaswag_val.jsonl."
        ),
    ] = None,
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="FILE",
            help='Questions, {"context": ..., "endings": [...], "label": 0} on each line.',
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            metavar="N",
            help="With --text: tokens that are read at once.",
            show_default="2048, or the model's context",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            metavar="N",
            help="With --text: tokens between two windows.",
            show_default="half a window",
        ),
    ] = None,
    tokenizer: TokenizerPath = None,
    bos: Bos = True,
    device: Device = "auto",
    dtype: Dtype = None,
    stream: Stream = None,
    rope_factor: RopeFactor = None,
    simulate: Simulate = None,
    group_size: GroupSize = None,
    json: Json = False,
    no_color: NoColor = False,
) -> None:
    """How well the model predicts a text, or finds the right ending.

    Of a text: cross-entropy, perplexity, bits per byte. A window slides over it,
    and each token is predicted once, from all that stands before it in the window.
    Of questions: how often the right ending is the likeliest, per character of it.
    """
    from llamainspect.runs import RunOptions

    check_one(
        {"--text": text, "--hellaswag": hellaswag, "--choices": choices}, "what should it read?"
    )
    if text is None and (window, stride) != (None, None):
        raise typer.BadParameter("they go with --text", param_hint="--window, --stride")
    options = RunOptions(device, dtype, stream, rope_factor, simulate, group_size)
    opened = open_model(path, options, tokenizer)
    report: Evaluation | ChoiceEvaluation
    if text is not None:
        report = _evaluate_text(opened, text, bos, window, stride, json, no_color)
    elif hellaswag is not None:
        report = _evaluate_choices(opened, "hellaswag", hellaswag, bos, json, no_color)
    else:
        assert choices is not None  # one was given
        report = _evaluate_choices(opened, "choices", choices, bos, json, no_color)
    note_run(report.run, report.seconds, json)
    show(report, json, no_color)


def _evaluate_text(
    opened: Opened,
    file: str,
    bos: bool,
    window: int | None,
    stride: int | None,
    json: bool,
    no_color: bool,
) -> "Evaluation":
    from llamainspect.tokenizer import load_tokenizer

    data = read_text(None, file)
    reader = load_tokenizer(opened.tokenizer_path)
    with interrupts_end_it():
        from llamainspect.model.evaluate import ROWS, default_window, evaluating, windows_at_once

    length = default_window(opened.subject.context_length) if window is None else window
    most = 1 + len(data.encode()) // max(stride or length // 2, 1)  # no more tokens than bytes
    sequences = min(most, windows_at_once(opened.subject.config.dim, length))
    model = opened.load(tokens=length, logits=ROWS, sequences=sequences, passes=None)
    where = _name_of(file)
    progress = evaluating(model, reader, data, where, bos=bos, window=length, stride=stride)
    return track(progress, json, no_color)


def _evaluate_choices(
    opened: Opened, kind: "Kind", file: str, bos: bool, json: bool, no_color: bool
) -> "ChoiceEvaluation":
    from llamainspect.questions import read_questions
    from llamainspect.tokenizer import load_tokenizer

    questions = read_questions(*read_input(file), kind)
    reader = load_tokenizer(opened.tokenizer_path)
    with interrupts_end_it():
        from llamainspect.model.choices import choosing, continuations, largest_group
        from llamainspect.model.evaluate import ROWS

    asked = continuations(questions, reader, _name_of(file), bos)
    tokens, sequences = largest_group(asked, opened.subject.config.dim)
    model = opened.load(tokens=tokens, logits=ROWS, sequences=sequences, passes=None)
    return track(choosing(model, questions, asked, _name_of(file), kind), json, no_color)


def _name_of(file: str) -> str:
    return "standard input" if file == STDIN else file


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
        return read_dialogue(*read_input(chat))
    return [
        Message(role, decode_text(os.fsencode(said), f"--{role}"))
        for role, said in (("system", system), ("user", user))
        if said is not None
    ]
