"""The HTML page as text: complete in itself, escaped, bounded, and with the right numbers."""

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import html_pages
import pytest
import torch
from checkpoints import (
    LLAMA_3_1_405B,
    TINY_MOE,
    moe_shapes,
    random_weights,
    write_native,
    write_sparse,
)
from html_pages import BROKEN, DEPARTED, PAYLOADS

from llamainspect.full_report import MARK, build_report
from llamainspect.render.html import to_html
from llamainspect.render.printable import printable
from llamainspect.reports import Finding

MAX_NBYTES = 2_000_000
VENDOR = Path(__file__).parent.parent / "llamainspect" / "render" / "html" / "vendor"


class Page(HTMLParser):
    """What a browser would make of a page, near enough."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # by the element that they stand in
        self.rows: list[list[str]] = []
        self.within = ""
        self.in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.within = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.within = ""
        if tag in ("tr", "tbody"):
            self.in_cell = False

    def handle_data(self, data):
        self.texts.setdefault(self.within, []).append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)

    def columns(self):
        """The numbers that charts are drawn from."""
        return json.loads(next(text for text in self.texts["script"] if text.startswith("{")))


@pytest.fixture(scope="module")
def departing(tmp_path_factory):
    return html_pages.departing(tmp_path_factory.mktemp("departing"))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    return to_html(html_pages.hostile(tmp_path_factory.mktemp("hostile")))


# --- whole, and closed ----------------------------------------------------------------------------


def test_page_begins_with_the_mark_that_allows_replacing_it():
    head = to_html(html_pages.example()).encode()[:1_000]
    assert head.startswith(b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
    assert MARK in head


@pytest.mark.parametrize("stats", [False, True])
def test_page_refers_to_nothing_outside_itself(stats):
    page = to_html(html_pages.example(stats))
    ours = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            link = attributes.get(name)
            assert link is None or link.startswith(("#", "data:,")), f"<{tag} {name}={link}>"
    assert not re.search(r"url\s*\(|@import", ours)
    assert "sourceMappingURL" not in page


def test_policy_allows_the_scripts_of_the_page_and_nothing_else():
    page = to_html(html_pages.example())
    policy = next(a["content"] for _, a in Page(page).tags if "http-equiv" in a)
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = [b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert policy.startswith("default-src 'none'; script-src ")
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert len(digests) == 3
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_vendored_files_are_those_of_their_digests():
    rows = re.findall(r"\| `([^`]+)` \| ([\d.]+) \| `([^`]+)` \| `(\w{64})` \|",
                      (VENDOR / "README.md").read_text(encoding="utf-8"))  # fmt: skip
    assert {file for _, _, file, _ in rows} == {path.name for path in VENDOR.glob("*.js")}
    licences = (VENDOR / "LICENSES.txt").read_text(encoding="utf-8")
    for package, version, file, digest in rows:
        content = (VENDOR / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, file
        assert f"v{version} " in content[:60].decode()
        assert f"--- {package} {version} " in licences


def test_page_holds_the_licences_of_its_libraries():
    text = "".join(Page(to_html(html_pages.example())).texts["pre"])
    assert text.strip() == (VENDOR / "LICENSES.txt").read_text(encoding="utf-8").strip()


def test_making_a_page_loads_neither_rich_nor_numpy():
    script = "import sys, llamainspect.render.html; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"rich", "numpy", "torch", "typer"} & set(run.stdout.split())


# --- names from files -----------------------------------------------------------------------------


def test_hostile_names_add_no_element(hostile_page):
    page = Page(hostile_page)
    assert page.count("script") == 4
    assert page.count("style") == 1
    assert page.count("img") == 0
    ours = {tag for tag, _ in Page(to_html(html_pages.example(True))).tags}
    assert {tag for tag, _ in page.tags} - ours <= {"strong", "b"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_stand_there_as_text(hostile_page, payload):
    shown = printable(payload)
    page = Page(hostile_page)
    names = [row[0] for row in page.rows if row]
    assert names.count(shown) >= 2  # as a file and as a tensor
    assert f"layers.1.{shown}" in names
    assert shown in [profile["kind"] for profile in page.columns()["profile"]]
    assert shown in [row["name"] for row in page.columns()["weights"]]


def test_nothing_in_the_page_hides_or_reorders(hostile_page):
    text = re.sub(r"<script>.*?</script>", "", hostile_page, flags=re.DOTALL)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f]", text
    )


def test_json_in_the_page_cannot_end_its_element(hostile_page):
    column = re.search(r'id="columns">(.*?)</script>', hostile_page, flags=re.DOTALL)[1]
    assert not re.search(r"[<>&\u2028\u2029]|NaN|Infinity", column)
    assert json.loads(column)["profile"]


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_of_the_example_are_in_the_page():
    page = Page(to_html(html_pages.example()))
    assert ["feed forward", "540,672", "62.2 %"] in page.rows
    assert ["consolidated.00.pth", "1,751,441", "1.67 MiB", "39"] in page.rows
    assert ["bf16", "1.66 MiB", "8.00 MiB", "24.50 MiB", "34.16 MiB"] in page.rows
    name = "layers.3.feed_forward.w2.weight"
    row = [name, "[128, 352]", "BF16", "45,056", "90,112", "feed forward", "3"]
    assert [*row, "consolidated.00.pth"] in page.rows
    components = {row["name"]: row["parameters"] for row in page.columns()["components"]}
    assert components["token embedding"] == 1024 * 128
    assert sum(components.values()) == 869_504
    assert page.columns()["memory"]["unit"] == "MiB"


def test_without_statistics_the_page_says_how_to_get_them():
    page = to_html(html_pages.example())
    assert "<code>llamainspect report PATH --stats</code>" in page
    assert not {"profile", "weights"} & set(Page(page).columns())


def test_statistics_stand_beside_their_weights(departing):
    page = Page(to_html(departing))
    row = next(row for row in page.rows if row and row[0] == DEPARTED)
    stats = next(stats for stats in departing.stats.weights if stats.name == DEPARTED)
    median = stats.quantiles["0.5"]
    figures = [stats.mean, stats.std, stats.min, median, stats.max, stats.abs_max, stats.l2]
    assert row[8:15] == [f"{number:.4g}" for number in figures]
    assert row[15:] == [f"{stats.zeros:,}", f"{stats.subnormal:,}", "0", f"{stats.entropy:.4g}"]
    layers = [row for row in page.rows if row and row[0].startswith("layer ")]
    assert [row[0] for row in layers] == [f"layer {n}" for n in range(html_pages.LAYERS)]
    assert layers[7][4] == f"{departing.stats.by_layer[7].std:.4g}"
    kinds = [profile["kind"] for profile in page.columns()["profile"]]
    assert page.columns()["departures"] == [[kinds.index("attention.wq"), 7]]
    std = next(p for p in page.columns()["profile"] if p["kind"] == "attention.wq")["std"]
    assert len(std) == html_pages.LAYERS
    assert max(std) == std[7] > 3 * sorted(std)[-2]


def test_an_entropy_says_what_it_is_of(tmp_path):
    weights = random_weights({"a.weight": (300, 300), "b.weight": (9,)}, dtype=torch.float32)
    weights["b.weight"] = weights["b.weight"].bfloat16()
    write_native(tmp_path, None, [weights])
    page = to_html(build_report(str(tmp_path), stats=True))
    assert "bits per weight, of the 9 values of up to 16 bits" in page
    rows = {row[0]: row for row in Page(page).rows if len(row) == 19}
    assert (rows["a.weight"][-1], rows["b.weight"][-1]) == ("-", "3.17")
    (both,) = [row for row in Page(page).rows if row and row[0] == "other" and len(row) > 9]
    assert both[-1] == "-", "nothing is said of a part alone"


def test_figures_stand_beside_weights_that_files_hold_fused(tmp_path):
    write_native(tmp_path, TINY_MOE, [random_weights(moe_shapes(TINY_MOE))])
    report = build_report(str(tmp_path), stats=True)
    page = Page(to_html(report))
    rows = {row[0]: row for row in page.rows if len(row) == 19 and row[0] != "name"}
    assert set(rows) == {row.name for row in report.stats.weights}
    assert "layers.0.attention.wk.weight" in rows
    assert not any("-" in row[8:] for row in rows.values())


def test_what_is_not_finite_is_located(departing):
    page = Page(to_html(departing))
    assert [BROKEN, "[5, 11]", "nan", departing.stats.not_finite[0].place] in page.rows
    assert next(row for row in page.rows if row[0] == BROKEN and len(row) > 8)[17] == "1"


def test_findings_of_all_parts_come_worst_first(departing):
    text = to_html(departing)
    severities = re.findall(r'<strong class="severity">(\w+)<', text)
    assert severities[0] == "error"
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert "✗ 1 error" in text


def test_findings_of_the_report_itself_take_their_place(departing):
    text = to_html(replace(departing, findings=(Finding("note", "here", "a note"),)))
    assert re.findall(r'<strong class="severity">(\w+)<', text) == ["error", "note"]


def test_a_number_that_is_none_is_a_mistake_of_ours(departing):
    (first, *rest) = departing.stats.profile
    broken = (first._replace(l2=(float("nan"),) * len(first.layers)), *rest)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_html(replace(departing, stats=replace(departing.stats, profile=broken)))


def test_a_checkpoint_without_configuration_has_a_page(tiny):
    (tiny / "params.json").unlink()
    report = build_report(str(tiny))
    assert report.memory is None
    assert "Memory cannot be estimated without a configuration." in to_html(report)


# --- bounds ---------------------------------------------------------------------------------------


def test_page_of_anything_is_under_2_mb_and_says_what_it_leaves_out(tmp_path):
    text = to_html(html_pages.huge(tmp_path))
    assert len(text.encode()) < MAX_NBYTES
    page = Page(text)
    listed = sum(1 for row in page.rows if row and re.match(r"\d+\\x00", row[0]) and len(row) > 8)
    assert f"The first {listed:,} of 100,000 weights are listed; " in text
    assert len(page.columns()["profile"]) == 16
    for what in ("findings", "located elements", "such weights", "files"):
        assert re.search(rf"The first [\d,]+ of 100,00\d {what};", text), what
    assert "Charts show 16 of 1,000 kinds of weights, and layers 0 to 255;" in text
    drawn = len(page.columns()["weights"])
    assert f"Histograms of the first {drawn:,} of 50,000 weights are in this page;" in text


def test_without_statistics_more_weights_are_listed_in_the_same_2_mb(tmp_path):
    text = to_html(replace(html_pages.huge(tmp_path), stats=None))
    assert 1_700_000 < len(text.encode()) < MAX_NBYTES


def test_page_of_llama_3_1_405b_lists_every_weight(tmp_path):
    path = write_sparse(tmp_path, LLAMA_3_1_405B, 53248, 16)
    text = to_html(build_report(str(path)))
    assert len(text.encode()) < MAX_NBYTES // 2
    rows = [row for row in Page(text).rows if row and row[0].endswith(".weight")]
    assert len(rows) == 3 + 126 * 9
    output = ["output.weight", "[128256, 16384]", "BF16", "2,101,346,304", "4,202,692,608"]
    assert [*output, "output", "-", "16 parts, axis 0"] in rows
    assert "405,853,388,800 (405.85 B)" in text
