"""Every target of the fuzzer on its seeds and on changes to them, the same ones each time."""

from random import Random

import pytest
from fuzz.mutations import several
from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS

CHANGES = 200


def test_every_target_has_seeds() -> None:
    assert TARGETS.keys() == SEEDS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_changed_seeds_are_read_or_refused(name: str, tmp_path) -> None:
    target, seeds, random = TARGETS[name], SEEDS[name](), Random(name)
    for seed in seeds:
        assert len(seed) <= target.max_nbytes, len(seed)
        target.check(seed, tmp_path)
    for number in range(CHANGES):
        data = several(seeds[number % len(seeds)], random, target.mutate)
        target.check(data, tmp_path)
