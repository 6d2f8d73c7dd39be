"""Dialogues, laid out as the instruct models of each generation were trained to read them.

Sources: `chat_completion` and `dialog_prompt_tokens` in `llama/generation.py` of meta-llama/llama
and meta-llama/codellama, `ChatFormat` of meta-llama/llama3, and of meta-llama/llama-models for
Llama 3.1 and 4. Each piece of text is encoded by itself there, and so here.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.generations import STEP_TOKEN

TOOLS = ("tools", "functions")  # beside the messages
# What Meta's code knows beside role and content, and values that change nothing.
_NOT_LAID_OUT = ("tool_calls", "function_call", "context", "destination", "stop_reason")
_MEANT_ANYWAY = (("destination", "user"), ("stop_reason", "end_of_turn"))
ROLES = ("system", "user", "assistant", "tool", "ipython")
TOOL_ROLES = ("tool", "ipython")


class Message(NamedTuple):
    """One turn of a dialogue."""

    role: str  # one of ROLES
    content: str | tuple[str, ...]  # Llama 3.1 and 4 encode each item of a list by itself

    @property
    def parts(self) -> tuple[str, ...]:
        """The pieces of the content, one where it is plain text."""
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The content as one text."""
        return "".join(self.parts)


class Segment(NamedTuple):
    """A piece of a prompt: text to be encoded by itself, or the name of one special token."""

    text: str
    special: bool = False


class Layout(NamedTuple):
    """The prompt of one dialogue."""

    format: str  # for people: "Llama 3 headers"
    segments: tuple[Segment, ...]
    refused_tags: tuple[str, ...]  # Meta's code does not answer a dialogue that holds one


def parse_dialogue(value: Any, where: str) -> list[Message]:
    """Messages from JSON: a list of {"role": ..., "content": ...}, or {"messages": that list}.

    A content is text, or a list of {"type": "text", "text": ...}. Raises CorruptFile, and
    UnsupportedFile for images and tool calls, which are not text.
    """
    messages = value.get("messages") if isinstance(value, dict) else value
    if isinstance(value, dict) and (more := [key for key in TOOLS if value.get(key)]):
        raise UnsupportedFile(f"{where}: {more[0]} are not laid out; write them into a message")
    if not isinstance(messages, list) or not messages:
        raise CorruptFile(
            f'{where}: a dialogue is a list of {{"role": "user", "content": "..."}}, or '
            '{"messages": [...]} around one'
        )
    return [_message(entry, f"{where}: message {n}") for n, entry in enumerate(messages, 1)]


def _message(entry: Any, where: str) -> Message:
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise CorruptFile(f'{where} has no "role"; each is {{"role": "user", "content": "..."}}')
    role = entry["role"]
    if role not in ROLES:
        raise CorruptFile(f"{where}: the role {role[:40]!r} is none of {', '.join(ROLES)}")
    for key in _NOT_LAID_OUT:
        if entry.get(key) and (key, entry[key]) not in _MEANT_ANYWAY:
            raise UnsupportedFile(
                f"{where} has {key!r}, which is not laid out; write it into the content, or take "
                "it out"
            )
    return Message(role, _content(entry.get("content"), where))


def _content(content: Any, where: str) -> str | tuple[str, ...]:
    if isinstance(content, str):
        return _text(content, where)
    if not isinstance(content, list):
        raise CorruptFile(f'{where} has no "content" that is text')
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise UnsupportedFile(f"{where} holds something other than text (an image?)")
        parts.append(_text(part["text"], where))
    return tuple(parts)


def _text(text: str, where: str) -> str:
    """JSON can write half a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorruptFile(
            f"{where} holds half a character (a lone surrogate); take it out"
        ) from error
    return text


def lay_out(
    messages: Sequence[Message], special_tokens: Collection[str], bos: str, eos: str
) -> Layout:
    """The prompt for the next answer, in the format whose special tokens the tokenizer has.

    Raises UnsupportedFile when that format has no place for what the dialogue holds.
    """
    if not messages:
        raise UnsupportedFile("the dialogue: there is no message in it; the user speaks first")
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            known = ", ".join(ROLES)
            raise UnsupportedFile(f"message {number}: the role {message.role!r} is none of {known}")
    row = next(row for row in _FORMATS if row.marker is None or row.marker in special_tokens)
    return Layout(row.name, tuple(row.render(messages, bos, eos)), row.refused_tags)


# --- Llama 3 and 4: headers -----------------------------------------------------------------------


def _llama_3(messages: Sequence[Message], bos: str, eos: str) -> list[Segment]:
    """The code of 3.0 strips each message and knows no tools."""
    for number, message in enumerate(messages, 1):
        if message.role in TOOL_ROLES:
            raise UnsupportedFile(f"message {number}: Llama 3.0 knows no {message.role}")
    stripped = [Message(message.role, message.text.strip()) for message in messages]
    return _llama_3_1(stripped, bos, eos)


def _llama_3_1(messages: Sequence[Message], bos: str, eos: str) -> list[Segment]:
    segments = [Segment(bos, special=True)]
    for message in messages:
        segments += _header(message.role, "<|start_header_id|>", "<|end_header_id|>")
        segments += [*map(Segment, message.parts), Segment("<|eot_id|>", special=True)]
    return segments + _header("assistant", "<|start_header_id|>", "<|end_header_id|>")


def _llama_4(messages: Sequence[Message], bos: str, eos: str) -> list[Segment]:
    segments = [Segment(bos, special=True)]
    for message in messages:
        # The model goes on after the answer of a tool: its message ends, the turn does not.
        end = "<|eom|>" if message.role in TOOL_ROLES else "<|eot|>"
        segments += _header(message.role, "<|header_start|>", "<|header_end|>")
        segments += [*map(Segment, message.parts), Segment(end, special=True)]
    return segments + _header("assistant", "<|header_start|>", "<|header_end|>")


def _header(role: str, start: str, end: str) -> list[Segment]:
    name = "ipython" if role in TOOL_ROLES else role
    return [
        Segment(start, special=True),
        Segment(name),
        Segment(end, special=True),
        Segment("\n\n"),
    ]


# --- Llama 2 and Code Llama -----------------------------------------------------------------------


def _llama_2(messages: Sequence[Message], bos: str, eos: str) -> list[Segment]:
    turns = list(messages)
    if turns[0].role == "system":
        if len(turns) == 1:
            raise UnsupportedFile(
                "the dialogue: Llama 2 puts the system prompt into the first message of the user, "
                "and there is none; add one"
            )
        system = f"<<SYS>>\n{turns[0].text}\n<</SYS>>\n\n"
        turns = [Message(turns[1].role, system + turns[1].text), *turns[2:]]
    _check_turns(turns, len(messages) - len(turns) + 1, "Llama 2")
    segments = []
    for question, answer in zip(turns[::2], turns[1::2], strict=False):
        text = f"[INST] {question.text.strip()} [/INST] {answer.text.strip()} "
        segments += [Segment(bos, special=True), Segment(text), Segment(eos, special=True)]
    last = f"[INST] {turns[-1].text.strip()} [/INST]"
    return [*segments, Segment(bos, special=True), Segment(last)]


def _code_llama_70b(messages: Sequence[Message], bos: str, eos: str) -> list[Segment]:
    turns = list(messages)
    if turns[0].role != "system":
        turns.insert(0, Message("system", ""))
    _check_turns(turns[1:], len(messages) - len(turns) + 2, "Code Llama 70B")
    segments = [Segment(bos, special=True)]
    for message in turns:
        to = "\nDestination: user" if message.role == "assistant" else ""
        segments.append(Segment(f" Source: {message.role}{to}"))
        if message.text:
            segments.append(Segment(f"\n\n {message.text.strip()}"))
        segments.append(Segment(STEP_TOKEN, special=True))
    return [*segments, Segment(" Source: assistant\nDestination: user"), Segment("\n\n ")]


def _check_turns(turns: Sequence[Message], first: int, model: str) -> None:
    """User and assistant by turns, the user first and last, as the reference code demands.

    `first` is the number of the first turn for a person who counts the messages.
    """
    for index, turn in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise UnsupportedFile(
                f"message {first + index}: the {turn.role} speaks where the {expected} should; "
                f"{model} knows a system prompt, if any, then user and assistant by turns"
            )
    if len(turns) % 2 == 0:
        raise UnsupportedFile(
            f"message {first + len(turns) - 1}: a dialogue of {model} ends with the user, whom "
            "the model answers; this one does not"
        )


# --- which format ---------------------------------------------------------------------------------


class _Format(NamedTuple):
    marker: str | None  # a special token that only tokenizers of this format have
    name: str
    render: Callable[[Sequence[Message], str, str], list[Segment]]
    refused_tags: tuple[str, ...] = ()


_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
# The first whose marker the tokenizer has; Llama 2's format needs none.
_FORMATS = (
    _Format("<|header_start|>", "Llama 4 headers", _llama_4),
    _Format("<|eom_id|>", "Llama 3 headers", _llama_3_1),
    _Format("<|start_header_id|>", "Llama 3.0 headers", _llama_3),
    _Format(STEP_TOKEN, "Code Llama 70B turns", _code_llama_70b, (*_TAGS, STEP_TOKEN)),
    _Format(None, "Llama 2 [INST]", _llama_2, _TAGS),
)
