"""Runs commands in the process of the tests, which has torch already."""

import gc
import io
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from llamainspect.cli import main


def run(*arguments, input=""):
    """The command in this process, which has torch already: a new one needs seconds for it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    argv = ["llamainspect", *map(str, arguments)]
    stdin = io.TextIOWrapper(io.BytesIO(input.encode()))
    threshold = gc.get_threshold()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch("sys.argv", argv),
        patch("sys.stdin", stdin),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    gc.set_threshold(*threshold)
    gc.unfreeze()
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))
    return SimpleNamespace(returncode=ended.value.code, stdout=stdout, stderr=stderr)
