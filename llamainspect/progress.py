"""Long answers are generators: each step says how far they are, and their result is the report."""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def finish(progress: Generator[object, None, T]) -> T:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(progress)
        except StopIteration as stop:
            result: T = stop.value
            return result
