"""Changes to valid files, drawn by hypothesis.

LLAMAINSPECT_EXAMPLES=100 tries a hundred times as many in every test that says `examples(...)`.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from fuzz.mutations import several
from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("LLAMAINSPECT_EXAMPLES") or 1)
# A directory of one test serves all of its examples: each writes the same file anew.
UNHEALTHY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def examples(count: int) -> settings:
    """How many examples a test tries."""
    return settings(
        max_examples=count * TIMES, deadline=None, database=None, suppress_health_check=UNHEALTHY
    )


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """A valid file of a fuzz target with up to four changes, of bytes or of what they mean."""
    data = draw(st.sampled_from(_seeds(target)))
    # A seed rather than st.randoms(), which mostly draws zeros: the same few changes every time.
    random = Random(draw(st.integers(0, 2**64)))
    return several(data, random, TARGETS[target].mutate)


@cache
def _seeds(target: str) -> list[bytes]:
    return SEEDS[target]()


def any_change(target: str, count: int = 60) -> Callable[..., None]:
    """A test: every change to a valid file is read or refused, as the fuzz target asks."""

    @examples(count)
    @given(data=changed(target))
    def test(data: bytes, tmp_path: Path) -> None:
        TARGETS[target].check(data, tmp_path)

    return test
