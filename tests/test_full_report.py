"""`report`: several answers on one page, written whole or not at all, and over nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import write_native
from test_cli import run

from llamainspect import build_report, to_html, to_json
from llamainspect.full_report import reporting, write_page
from llamainspect.render.text import to_text

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"


def test_the_parts_are_those_of_their_commands():
    answer = json.loads(run("report", EXAMPLE, "--stats", "--json").stdout)
    assert (answer["report"], answer["ok"], answer["file"]) == ("report", True, None)
    for part in ("summary", "memory", "stats", "tensors"):
        alone = json.loads(run(part, EXAMPLE, "--json").stdout)
        del alone["report"], alone["schema"]
        alone.pop("seconds", None), answer[part].pop("seconds", None)
        assert answer[part] == alone, part


def test_a_page_is_written_and_said_to_be(tmp_path):
    done = run("report", EXAMPLE, "--stats", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert f"page   {tmp_path}/page.html  {len(page) / 2**20:.2f} MiB" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_without_a_name_it_is_report_html_here(tmp_path):
    assert run("report", EXAMPLE, cwd=tmp_path).returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert run("report", EXAMPLE, "--json", cwd=EXAMPLE).returncode == 0
    assert not (EXAMPLE / "report.html").exists()


def test_standard_output_takes_the_page(tmp_path):
    done = run("report", EXAMPLE, "-o", "-", cwd=tmp_path)
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == []
    done = run("report", EXAMPLE, "-o", "-", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_older_report_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.html"
    assert run("report", EXAMPLE, "-o", page).returncode == 0
    old = page.stat().st_ino
    assert run("report", EXAMPLE, "-o", page).returncode == 0
    assert page.stat().st_ino != old
    for content in (b"", b"<!doctype html>\nmine", os.urandom(5000)):
        page.write_bytes(content)
        done = run("report", EXAMPLE, "-o", page)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is no report of llamainspect's; name another file" in done.stderr
        assert page.read_bytes() == content
    for nothing in (tmp_path, ""):
        done = run("report", EXAMPLE, "-o", nothing, cwd=tmp_path)
        assert (done.returncode, "is no file; name one" in done.stderr) == (2, True)
    done = run("report", EXAMPLE, "-o", tmp_path / "nowhere" / "page.html")
    assert (done.returncode, "there is no directory" in done.stderr) == (2, True)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    report = build_report(str(EXAMPLE))
    write_page(report, str(tmp_path / "real" / "a.html"), to_html(report))
    (tmp_path / "b.html").symlink_to(tmp_path / "real" / "a.html")
    assert run("report", EXAMPLE, "-o", tmp_path / "b.html").returncode == 0
    assert (tmp_path / "b.html").is_symlink()


def test_the_target_is_looked_at_before_any_work(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = run("report", tmp_path / "no checkpoint", "-o", tmp_path / "notes.txt")
    assert done.returncode == 2


def test_without_a_checkpoint_no_page_is_made(tmp_path):
    done = run("report", tmp_path, "-o", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (3, "")
    assert list(tmp_path.iterdir()) == []


def test_an_error_ends_with_1_and_the_page_is_written(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "copy")
    weights = torch.load(tmp_path / "copy" / "consolidated.00.pth", weights_only=True)
    weights["norm.weight"][3] = torch.nan
    torch.save(weights, tmp_path / "copy" / "consolidated.00.pth")
    page = tmp_path / "page.html"
    done = run("report", tmp_path / "copy", "--stats", "-o", page)
    assert done.returncode == 1
    assert "norm.weight: 1 NaN" in done.stdout
    assert "norm.weight" in page.read_text()
    # Without the values nothing is known to be wrong.
    assert run("report", tmp_path / "copy", "-o", page).returncode == 0


def test_without_a_configuration_memory_is_left_out_and_says_why(tmp_path):
    write_native(tmp_path, None, [{"a.weight": torch.randn(3, 4)}])
    report = build_report(str(tmp_path), stats=True)
    assert report.memory is None
    assert report.findings[0].message.startswith("not estimated: ")
    assert to_html(report)
    assert to_text(report, terminal=False)
    json.loads(to_json(report))


def test_numpy_is_loaded_for_values_alone():
    import subprocess
    import sys

    script = (
        "import sys; from llamainspect import build_report\n"
        f"build_report({str(EXAMPLE)!r})\n"
        "print('numpy' in sys.modules)\n"
        f"build_report({str(EXAMPLE)!r}, stats=True)\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_progress_is_that_of_the_values(tmp_path):
    steps = list(reporting(str(EXAMPLE), stats=True))
    assert steps[0] == ()
    assert steps[-1][0].done == steps[-1][0].nbytes > 0


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_what_is_said_fits_a_terminal(columns):
    page = to_text(build_report(str(EXAMPLE)), terminal=True, plain=True, width=columns)
    assert max(map(len, page.splitlines())) <= columns
