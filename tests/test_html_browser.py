"""The HTML page in Chromium: charts draw, the table works, nothing is asked for, nothing runs."""

import base64
import re
import shutil
from itertools import pairwise
from pathlib import Path

import html_pages
import pytest
from html_pages import BROKEN, DEPARTED, LAYERS, PAYLOADS
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from llamainspect.render.html import to_html
from llamainspect.render.printable import printable

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
KINDS = 9  # of weights in a layer
WEIGHTS = 3 + LAYERS * KINDS

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"
    ),
    pytest.mark.xdist_group("browser"),  # which is started once
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for option in (*OPTIONS, f"--user-data-dir={profile}", "--window-size=1200,900"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "example": html_pages.example(),
        "departing": html_pages.departing(folder),
        "hostile": html_pages.hostile(folder),
        "huge": html_pages.huge(folder / "huge", 2_000),
    }
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(to_html(report), encoding="utf-8")
    return folder


@pytest.fixture
def departing(browser, pages):
    return opened(browser, pages / "departing.html")


@pytest.fixture(autouse=True)
def _nothing_is_wrong(request):
    """After each test: an empty console, and no request but for the page."""
    yield
    browser = request.getfixturevalue("browser")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def opened(browser, page: Path):
    browser.get(page.as_uri())
    return browser


def count(browser, selector):
    return browser.execute_script(f"return document.querySelectorAll({selector!r}).length")


def column(browser, number):
    """Texts of one column of the table, of the rows that are shown."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#table tbody tr:not([hidden])')]"
        ".map((row) => row.cells[arguments[0]].textContent.trim())",
        number,
    )


def type_filter(browser, text):
    box = browser.find_element("id", "filter")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE, text)
    return browser.find_element("id", "shown").text


def color(browser, selector="body", which="backgroundColor"):
    return browser.execute_script(
        f"return getComputedStyle(document.querySelector({selector!r})).{which}"
    )


# --- charts ---------------------------------------------------------------------------------------


MARKS = {
    "components] g[aria-label=bar] rect": 5,
    "memory] g[aria-label=bar] rect": 5 * 3,
    "std] g[aria-label=line] path": KINDS,
    "std] g[aria-label=dot] circle": 1,  # the layer that departs
    "std] g[aria-label=text] text": KINDS,  # each line has its name
    "l2] g[aria-label=line] path": KINDS,
    "heat-std] g[aria-label=cell] rect": KINDS * LAYERS,
    "heat-std] g[aria-label=dot] circle": 1,
    "heat-max] g[aria-label=cell] rect": KINDS * LAYERS,
    "component-histogram] g[aria-label=rect] rect": 32 * 5,
    "weight-histogram] g[aria-label=rect] rect": 32,
}


def test_charts_draw_every_mark(departing):
    assert {marks: count(departing, f"[data-chart={marks}") for marks in MARKS} == MARKS


def test_every_chart_is_drawn_and_has_a_label(departing):
    charts = departing.execute_script(
        "return [...document.querySelectorAll('.chart')].map((chart) => [chart.dataset.chart, "
        "chart.getAttribute('role'), chart.getAttribute('aria-label'), "
        "chart.querySelector('svg').getBoundingClientRect().height])"
    )
    assert len(charts) == 6 + 5 + 1
    for name, role, label, height in charts:
        assert role == "img", name
        assert len(label) > 20, name
        assert height > 80, name


def test_bars_are_as_long_as_their_numbers(departing):
    widths = departing.execute_script(
        "return [...document.querySelectorAll('[data-chart=components] g[aria-label=bar] rect')]"
        ".map((bar) => Number(bar.getAttribute('width')))"
    )
    numbers = departing.execute_script("return columns.components.map((row) => row.parameters)")
    for width, number in zip(widths, numbers, strict=True):
        assert width / max(widths) == pytest.approx(number / max(numbers), abs=0.01)


def test_the_layer_that_departs_has_another_color(departing):
    fills = departing.execute_script(
        "const kinds = columns.profile.map((profile) => profile.kind);"
        "const first = 12 * kinds.indexOf('attention.wq');"
        "return [...document.querySelectorAll('[data-chart=heat-std] g[aria-label=cell] rect')]"
        ".slice(first, first + 12).map((cell) => cell.getAttribute('fill'))"
    )
    assert fills[7] == "var(--h8)"
    assert "var(--h8)" not in fills[:7] + fills[8:]


def test_legends_name_the_colors(departing):
    """A word beside each color of the bars; a strip with the edges between those of heat maps."""
    entries = departing.execute_script(
        "return [...document.querySelectorAll('[data-chart=memory] .legend span')].map((entry) => "
        "[entry.textContent, getComputedStyle(entry.querySelector('i')).backgroundColor])"
    )
    fills = departing.execute_script(
        "return [...document.querySelectorAll('[data-chart=memory] g[aria-label=bar] rect')]"
        ".map((bar) => getComputedStyle(bar).fill)"
    )
    assert [word for word, _ in entries] == ["weights", "KV cache", "activations"]
    assert {fill for _, fill in entries} == set(fills)
    assert len(set(fills)) == 3
    edges = departing.find_elements("css selector", "[data-chart=heat-std] .steps small")
    assert " ".join(edge.text for edge in edges) == " 0.5 0.71 0.87 0.95 1.05 1.15 1.41 2"


def test_histogram_spans_the_values_of_its_weight(departing):
    chart = "document.querySelector('[data-chart=weight-histogram] svg')"
    drawn = departing.execute_script(f"return {chart}.scale('x').domain")
    start, end = departing.execute_script(
        "const row = columns.weights[document.getElementById('weight').value];"
        "return [row.start, row.end]"
    )
    assert drawn == pytest.approx([start, end])


def test_histogram_of_a_weight_is_the_one_that_is_chosen(departing):
    chart = "[data-chart=weight-histogram]"
    before = departing.find_element("css selector", f"{chart} svg").get_attribute("outerHTML")
    departing.execute_script(
        "const select = document.getElementById('weight');"
        "select.selectedIndex = [...select.options].findIndex((o) => o.text === arguments[0]);"
        "select.dispatchEvent(new Event('change'))",
        DEPARTED,
    )
    after = departing.find_element("css selector", f"{chart} svg").get_attribute("outerHTML")
    label = departing.find_element("css selector", chart).get_attribute("aria-label")
    assert before != after
    assert label == f"Histogram of {DEPARTED}"
    assert count(departing, "#weight option") == WEIGHTS


def test_logarithmic_counts_redraw_histograms(departing):
    bars = "[data-chart=weight-histogram] g[aria-label=rect] rect"
    heights = (
        f"return [...document.querySelectorAll({bars!r})].map((r) => +r.getAttribute('height'))"
    )
    linear = departing.execute_script(heights)
    departing.find_element("id", "logarithmic").click()
    logarithmic = departing.execute_script(heights)
    assert sum(logarithmic) > 1.3 * sum(linear)


def test_equal_values_are_one_bar(browser, pages):
    """Norms that are all 1."""
    page = to_html(html_pages.untrained(pages))
    (pages / "equal.html").write_text(page, encoding="utf-8")
    opened(browser, pages / "equal.html")
    chart = "return [...document.querySelectorAll('[data-chart=component-histogram]')].at(-1)"
    bars = f"{chart}.querySelectorAll('g[aria-label=rect] rect').length"
    domain = f"{chart}.querySelector('svg').scale('x').domain"
    assert browser.execute_script(bars) == 1
    assert browser.execute_script(domain) == pytest.approx([0.95, 1.05])
    note = browser.find_element("css selector", "[data-chart=std] .note").text
    assert note == "Not drawn, 0 in every layer: attention_norm, ffn_norm"


# --- the table ------------------------------------------------------------------------------------


FILTERS = [
    ("attention.wq", r"attention\.wq", LAYERS),
    ("LAYERS.7.", r"^layers\.7\.", KINDS),
    ("layers.?.attention.w?.weight", r"^layers\.\d\.attention\.w.\.weight$", 10 * 4),
    ("*.w1.*", r"\.w1\.", LAYERS),
    ("w1.*", "-", 0),  # a pattern is for the whole name
    ("layers.1.*", r"^layers\.1\.", KINDS),
    ("[4]", "-", 0),
    ("(*[", "-", 0),
    ("(", "-", 0),
    ("", "", WEIGHTS),
]


def test_filter_leaves_the_rows_that_match(departing):
    for text, pattern, number in FILTERS:
        shown = type_filter(departing, text)
        names = column(departing, 0)
        assert shown == f"{number} of {WEIGHTS} weights", text
        assert len(names) == number, text
        assert all(re.search(pattern, name) for name in names), text


def test_component_and_name_narrow_together(departing):
    departing.execute_script(
        "const select = document.getElementById('component');"
        "select.value = 'feed forward'; select.dispatchEvent(new Event('change'))"
    )
    assert type_filter(departing, "layers.11.") == f"3 of {WEIGHTS} weights"
    assert set(column(departing, 5)) == {"feed forward"}


def test_heads_sort_both_ways_and_back(departing):
    heads = departing.find_elements("css selector", "#table thead th")
    for title in ("name", "elements", "layer", "std", "NaN/Inf"):
        number = next(i for i, head in enumerate(heads) if head.text.startswith(title))
        button = heads[number].find_element("css selector", "button")
        key = layer if title == "name" else lambda text: float(text.replace(",", ""))
        before = column(departing, number)
        for order in ("ascending", "descending"):
            button.send_keys(" ")  # from the keyboard
            cells = column(departing, number)
            known = [key(cell) for cell in cells if cell != "-"]
            assert heads[number].get_attribute("aria-sort") == order, title
            assert known == sorted(known, reverse=order == "descending"), title
            assert cells[len(known) :] == ["-"] * before.count("-"), title
        button.click()
        assert column(departing, number) == before, title
        assert heads[number].get_attribute("aria-sort") is None, title


def layer(name):
    """Names sort naturally: layers.2 before layers.10, and the ends of the model behind."""
    found = re.match(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else LAYERS


def test_the_weight_with_a_nan_sorts_to_the_end(departing):
    head = departing.find_elements("css selector", "#table thead th")[17]
    head.find_element("css selector", "button").click()
    assert column(departing, 0)[-1] == BROKEN


# --- looks ----------------------------------------------------------------------------------------


def emulate(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_dark_scheme_changes_the_colors_of_page_and_charts(departing):
    bar = "[data-chart=components] g[aria-label=bar]"
    emulate(departing, "light")
    light = [color(departing), color(departing, bar, "fill"), color(departing, "svg", "color")]
    emulate(departing, "dark")
    dark = [color(departing), color(departing, bar, "fill"), color(departing, "svg", "color")]
    emulate(departing, "light")
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_button_chooses_the_colors(departing):
    emulate(departing, "light")
    button = departing.find_element("id", "theme")
    seen = []
    for _ in range(3):
        button.click()
        seen.append((button.text, color(departing)))
    white, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
    assert seen == [("Colours: light", white), ("Colours: dark", dark), ("Colours: auto", white)]


@pytest.mark.parametrize("name", ["example", "departing", "hostile", "huge"])
def test_a_phone_scrolls_the_page_in_one_direction_alone(browser, pages, name):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened(browser, pages / f"{name}.html")
    widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    charts = browser.execute_script(
        "return [...document.querySelectorAll('.chart svg')]"
        ".map((svg) => svg.getBoundingClientRect().width)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert widths == [360, 360]
    assert max(charts) <= 360


def test_charts_follow_the_width_of_the_window(departing):
    """Drawn anew, and not made smaller with their letters."""
    chart = "document.querySelector('[data-chart=memory] svg')"
    width = f"return Number({chart}.getAttribute('width'))"
    before = departing.execute_script(width)
    size = {"width": 700, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    departing.execute_async_script("setTimeout(arguments[0], 200)")  # drawing is long over
    departing.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    departing.execute_async_script("setTimeout(arguments[0], 400)")
    after = departing.execute_script(width)
    departing.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert after < 700 < before


def test_page_prints(departing):
    answer = departing.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    document = base64.b64decode(answer["data"])
    assert document.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", document)) > 3
    # Afterwards charts are as wide as the window again.
    assert departing.execute_script(
        "const chart = document.querySelector('[data-chart=memory]');"
        "return chart.querySelector('svg').clientWidth === chart.clientWidth"
    )


def test_headings_are_in_order_and_controls_have_labels(departing):
    levels = departing.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    controls = departing.execute_script(
        "return [...document.querySelectorAll('input,select')].map((c) => c.labels.length)"
    )
    assert controls == [1] * 4


# --- hostile names --------------------------------------------------------------------------------


def test_hostile_names_run_nothing_and_show_as_text(browser, pages):
    opened(browser, pages / "hostile.html")
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert count(browser, "img") == 0
    assert count(browser, "script") == 4
    for payload in PAYLOADS:
        assert printable(payload) in column(browser, 0)
    labels = browser.execute_script(
        "return [...document.querySelectorAll('[data-chart=std] g[aria-label=text] text')]"
        ".map((text) => text.textContent)"
    )
    shown = {f"{text[:27]}…" if len(text) > 28 else text for text in map(printable, PAYLOADS)}
    assert set(labels) == shown
    assert count(browser, "#weight option") == 4 * len(PAYLOADS)
    assert type_filter(browser, "</style>") == f"4 of {4 * len(PAYLOADS)} weights"


def test_a_script_that_got_in_would_not_run(browser, pages):
    """The policy, tried out: a page into which a script was written after it was made."""
    page = (pages / "example.html").read_text(encoding="utf-8")
    broken = page.replace("</h1>", "</h1><script>window.hacked=1</script>")
    (pages / "broken.html").write_text(broken, encoding="utf-8")
    opened(browser, pages / "broken.html")
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    (refusal,) = browser.get_log("browser")
    assert "Content Security Policy" in refusal["message"]
