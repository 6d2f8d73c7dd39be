"""Multiple-choice questions: a context, some endings, and which of them is right. JSON Lines.

HellaSwag (arXiv 1905.07830) is read as github.com/rowanz/hellaswag publishes it, and turned into
text as EleutherAI's lm-evaluation-harness does it (lm_eval/tasks/hellaswag/utils.py), in whose
terms results are published.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from llamainspect.errors import CorruptFile, InvalidRequest
from llamainspect.formats.strict_json import parse_json

Kind = Literal["choices", "hellaswag"]

WAY_OUT = "mend that line"
# Fields that tell which format a line is in, where it was read as the other one.
TELLING: dict[Kind, tuple[str, str]] = {
    "choices": ("ctx_a", "this is HellaSwag's format, which --hellaswag reads"),
    "hellaswag": ("context", "this is no HellaSwag; --choices reads it"),
}
MAX_ENDINGS = 1_000
MAX_DIGITS = 4  # of a label
_BRACKETS = re.compile(r"\[.*?\]")  # left over from WikiHow's pages


class Question(NamedTuple):
    """One of the endings follows the context, with nothing between them."""

    line: int  # of the file, from 1
    context: str
    endings: tuple[str, ...]
    label: int  # the right ending, from 0
    characters: tuple[int, ...]  # of each ending, as it stands in the file


def read_questions(data: bytes, file: str, kind: Kind = "choices") -> list[Question]:
    """The questions of a JSON Lines file in one of two formats.

    Raises CorruptFile naming the line that is wrong, InvalidRequest for another format.
    """
    if kind not in KINDS:
        raise InvalidRequest(f"{file}: there are questions of {' and '.join(KINDS)}, not {kind}")
    found: list[Question] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            where = f"{file}: line {number:,}"
            fields = parse_json(line, where, WAY_OUT)
            if not isinstance(fields, dict):
                raise CorruptFile(f"{where}: it is no JSON object; {WAY_OUT}")
            found.append(KINDS[kind](_Row(fields, where, kind), number))
    if not found:
        raise CorruptFile(f"{file}: there is no question in it; each line should be a JSON object")
    return found


class _Row(NamedTuple):
    """One line's object, whose fields are asked for by name."""

    fields: dict[str, Any]
    where: str
    kind: Kind

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        if not isinstance(value, str):
            field, other = TELLING[self.kind]
            raise self.wrong(key, "a text is needed", other if field in self.fields else WAY_OUT)
        return self._whole(key, value)

    def endings(self) -> tuple[str, ...]:
        values = self.fields.get("endings")
        if not isinstance(values, list) or not 2 <= len(values) <= MAX_ENDINGS:
            raise self.wrong("endings", f"a list of 2 to {MAX_ENDINGS:,} texts is needed")
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise self.wrong("endings", "each must be a text that is not empty")
        return tuple(self._whole("endings", value) for value in values)

    def label(self, endings: int) -> int:
        """A number, which some copies of HellaSwag write as text."""
        value = self.fields.get("label")
        if (
            isinstance(value, str)
            and value.isascii()
            and value.isdigit()
            and len(value) <= MAX_DIGITS
        ):
            value = int(value)
        if value in (None, ""):
            raise self.wrong(
                "label",
                "it says which ending is right, and is not there (the test split of HellaSwag has "
                "none; use the validation split)",
            )
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < endings:
            raise self.wrong("label", f"a number from 0 to {endings - 1} is needed")
        return value

    def wrong(self, key: str, what: str, way_out: str = WAY_OUT) -> CorruptFile:
        return CorruptFile(f"{self.where}: {key}: {what}; {way_out}")

    def _whole(self, key: str, value: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.wrong(key, "it holds half a character (a lone surrogate)") from error
        return value


def _choices(row: _Row, line: int) -> Question:
    """As it stands: an ending begins with a space where there should be one."""
    context, endings = row.text("context"), row.endings()
    label = row.label(len(endings))
    return Question(line, context, endings, label, tuple(map(len, endings)))


def _hellaswag(row: _Row, line: int) -> Question:
    """The activity, the beginning, and the first words of the last sentence; then an ending."""
    beginning = f"{row.text('ctx_a')} {row.text('ctx_b').capitalize()}"
    endings = tuple(map(_without_brackets, row.endings()))
    return Question(
        line,
        _without_brackets(f"{row.text('activity_label')}: {beginning}"),
        tuple(f" {ending}" for ending in endings),
        row.label(len(endings)),
        tuple(max(len(ending), 1) for ending in endings),
    )


def _without_brackets(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")


KINDS: dict[Kind, Callable[[_Row, int], Question]] = {
    "choices": _choices,
    "hellaswag": _hellaswag,
}
