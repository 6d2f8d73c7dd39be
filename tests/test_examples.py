"""The example checkpoint is intact and what its script makes."""

import hashlib
import runpy
from pathlib import Path

import torch

from llamainspect import open_checkpoint, summarize

EXAMPLES = Path(__file__).parent.parent / "examples"
MINI = EXAMPLES / "mini-llama"


def test_the_committed_checkpoint_verifies_against_its_checklist():
    lines = (MINI / "checklist.chk").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        digest, name = line.split()
        assert hashlib.md5((MINI / name).read_bytes()).hexdigest() == digest


def test_the_committed_checkpoint_is_small():
    assert sum(file.stat().st_size for file in MINI.iterdir()) < 1_000_000


def test_the_script_makes_such_a_checkpoint(tmp_path):
    script = runpy.run_path(str(EXAMPLES / "make_mini_llama.py"))
    script["write_checkpoint"](tmp_path)
    made, kept = (summarize(open_checkpoint(str(path))) for path in (tmp_path, MINI))
    assert made.ok
    assert (made.parameters, made.config) == (kept.parameters, kept.config)
    weights = [torch.load(p / "consolidated.00.pth", weights_only=True) for p in (tmp_path, MINI)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
