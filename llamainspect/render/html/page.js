// Draws the charts from the JSON in the page, sorts and filters the table, switches colours.
// Text from files only ever becomes textContent or an SVG text node.
"use strict";

const columns = JSON.parse(document.getElementById("columns").textContent);

// --- charts ------------------------------------------------------------------------------------

const PARTS = { weights: "weights", kv_cache: "KV cache", activations: "activations" };
const DASHES = [null, "7 3", "2 3", "10 3 2 3"];
// Edges between the colours of a heat map, as multiples of the median.
const EDGES = [0.5, 0.71, 0.87, 0.95, 1.05, 1.15, 1.41, 2];
const FONT = { fontSize: "12px", fontFamily: "inherit", color: "var(--text)", background: "none" };
const LABEL_HEIGHT = 14; // pixels between two labels of lines
const MAX_TICKS = 14; // numbers of layers below a chart
const STEPS = [1, 2, 5, 10, 20, 50, 100];
const MAX_LABEL = 28; // characters of a name beside a chart; tips have all of it

const CHARTS = {
  components: (width) => horizontalBars(width),
  memory: (width) => memoryBars(width),
  std: (width) => lines(width, "std"),
  l2: (width) => lines(width, "l2"),
  "heat-std": (width) => heatMap(width, "std"),
  "heat-max": (width) => heatMap(width, "abs_max"),
  "component-histogram": (width, index) => histogram(columns.by_component[index], width, 130),
  "weight-histogram": (width) =>
    histogram(columns.weights[document.getElementById("weight").value || 0], width, 220),
};

function draw(place, width = place.clientWidth) {
  if (width) {
    const drawn = CHARTS[place.dataset.chart](width, Number(place.dataset.index));
    place.replaceChildren(...[drawn].flat());
  }
}

function plot(width, options) {
  const chart = Plot.plot({ width, style: FONT, ...options });
  chart.setAttribute("aria-hidden", "true"); // the figure has a label that says it in words
  return chart;
}

// What the pointer is nearest to, in words.
function tip(data, { title, ...where }, pointer = Plot.pointer) {
  return Plot.tip(data, pointer({ ...where, title, fontSize: 12 }));
}

function horizontalBars(width) {
  const rows = columns.components;
  const labels = 7 * Math.max(...rows.map((row) => row.name.length)) + 14;
  const texts = 6.5 * Math.max(...rows.map((row) => row.text.length)) + 10;
  return plot(width, {
    height: 27 * rows.length + 10,
    marginLeft: labels,
    marginRight: texts,
    marginTop: 5,
    marginBottom: 5,
    x: { axis: null },
    y: { label: null, tickSize: 0, domain: rows.map((row) => row.name) },
    marks: [
      Plot.barX(rows, { x: "parameters", y: "name", fill: "var(--bar)" }),
      Plot.text(rows, {
        x: "parameters",
        y: "name",
        text: "text",
        textAnchor: "start",
        dx: 6,
        fill: "currentColor",
      }),
    ],
  });
}

function memoryBars(width) {
  const { rows, unit } = columns.memory;
  const names = Object.keys(PARTS);
  const pieces = rows.flatMap((row) =>
    names.map((part) => ({ form: row.form, part, amount: row[part] })),
  );
  const chart = plot(width, {
    height: 30 * rows.length + 50,
    marginLeft: 7 * Math.max(...rows.map((row) => row.form.length)) + 16,
    marginRight: 16,
    x: { label: unit, labelArrow: "none", grid: true, ticks: Math.max(3, Math.min(8, width / 90)) },
    y: { label: null, tickSize: 0, domain: rows.map((row) => row.form) },
    marks: [
      Plot.barX(pieces, {
        x: "amount",
        y: "form",
        fill: (piece) => `var(--c${names.indexOf(piece.part)})`,
        order: names,
        insetRight: 0.5,
        title: (piece) => `${piece.form}, ${PARTS[piece.part]}: ${piece.amount.toFixed(2)} ${unit}`,
        tip: true,
      }),
      Plot.ruleX([0]),
    ],
  });
  const legend = names.map((part, i) => legendEntry(PARTS[part], `var(--c${i})`));
  return [element("div", "legend", legend), chart];
}

function lines(width, figure) {
  const height = Math.max(300, LABEL_HEIGHT * columns.profile.length + 60);
  const kinds = columns.profile.map((profile, index) => ({
    kind: profile.kind,
    label: shortened(profile.kind),
    index,
    color: `var(--c${index % 8})`,
    dash: dashOf(profile.kind),
    points: profile.layers
      .map((layer, i) => ({
        layer,
        value: profile[figure][i] > 0 ? profile[figure][i] : NaN,
        kind: profile.kind,
        index,
      }))
      .sort((a, b) => a.layer - b.layer),
  }));
  const points = kinds.flatMap((kind) => kind.points);
  const values = points.map((point) => point.value).filter((value) => value > 0);
  if (!values.length) return document.createTextNode("There are no positive values to draw.");
  const domain = [Math.min(...values) / 1.08, Math.max(...values) * 1.08];
  const [marginTop, marginBottom] = [12, 36];
  const y = Plot.scale({ y: { type: "log", domain, range: [height - marginBottom, marginTop] } });
  const labels = spread(kinds, (point) => y.apply(point.value), marginTop, height - marginBottom);
  const short = width < 480;
  const marginRight = Math.min(
    width * 0.42,
    (short ? 6 : 6.6) * Math.max(...kinds.map((kind) => kind.label.length)) + 30,
  );
  const flat = kinds.filter((kind) => !kind.points.some((point) => point.value > 0));
  const chart = plot(width, {
    height,
    marginLeft: 48,
    marginRight,
    marginTop,
    marginBottom,
    x: {
      label: "layer",
      labelAnchor: "center",
      labelArrow: "none",
      type: "linear",
      ticks: layerTicks(
        points.map((point) => point.layer),
        width,
      ),
      tickFormat: "d",
    },
    y: { type: "log", domain, label: null, grid: true, ticks: 6, tickFormat: tickOf },
    marks: [
      ...kinds.map((kind) =>
        Plot.line(kind.points, {
          x: "layer",
          y: "value",
          stroke: kind.color,
          strokeDasharray: kind.dash,
          strokeWidth: 1.6,
          className: "profile-line",
        }),
      ),
      Plot.dot(
        kinds.filter((kind) => kind.points.length === 1).flatMap((kind) => kind.points),
        { x: "layer", y: "value", r: 2.5, fill: "currentColor" },
      ),
      Plot.dot(
        points.filter((point) => departs(point) && point.value > 0),
        { x: "layer", y: "value", r: 5.5, stroke: "var(--bad)", strokeWidth: 1.8 },
      ),
      ...labels.flatMap((label) => [
        Plot.link([label], {
          x1: (d) => d.layer,
          y1: (d) => d.value,
          x2: (d) => d.layer,
          y2: (d) => d.value,
          stroke: label.color,
        }),
        Plot.text([label], {
          x: "layer",
          y: (d) => y.invert(d.top),
          text: "label",
          dx: 24,
          textAnchor: "start",
          fill: label.color,
          fontSize: short ? 10.5 : 11.5,
        }),
      ]),
      tip(
        points.filter((point) => point.value > 0),
        {
          x: "layer",
          y: "value",
          title: (d) => `layer ${d.layer}, ${d.kind}\n${d.value.toPrecision(4)}`,
        },
      ),
    ],
  });
  const zero = `Not drawn, 0 in every layer: ${flat.map((kind) => kind.kind).join(", ")}`;
  return flat.length ? [chart, element("p", "note", [zero])] : chart;
}

// Whether a weight has another spread than those in the layers around it.
function departs({ index, layer }) {
  return columns.departures.some(([kind, other]) => kind === index && other === layer);
}

// Lines of one component have one pattern of dashes.
function dashOf(kind) {
  const groups = [...new Set(columns.profile.map((profile) => groupOf(profile.kind)))];
  return DASHES[groups.indexOf(groupOf(kind)) % DASHES.length];
}

function shortened(name) {
  return name.length > MAX_LABEL ? `${name.slice(0, MAX_LABEL - 1)}…` : name;
}

function groupOf(kind) {
  return kind.includes(".") ? kind.split(".")[0] : "";
}

// Where the label of each line goes, none on top of another.
function spread(kinds, heightOf, top, bottom) {
  const labels = kinds
    .map((kind) => ({
      ...kind.points.filter((point) => point.value > 0).at(-1),
      label: kind.label,
      color: kind.color,
    }))
    .filter((label) => label.value > 0)
    .map((label) => ({ ...label, top: heightOf(label) }))
    .sort((a, b) => a.top - b.top);
  const step = Math.min(LABEL_HEIGHT, (bottom - top) / labels.length);
  labels.forEach((label, i) => {
    if (i) label.top = Math.max(label.top, labels[i - 1].top + step);
  });
  labels.reverse().forEach((label, i) => {
    label.top = Math.min(label.top, i ? labels[i - 1].top - step : bottom);
  });
  return labels;
}

function heatMap(width, figure) {
  const profile = columns.profile;
  const cells = profile.flatMap(({ kind, layers, ...figures }, index) => {
    const median = d3.median(figures[figure].filter((value) => value > 0));
    return layers
      .map((layer, i) => ({
        layer,
        kind,
        index,
        value: figures[figure][i],
        ratio: figures[figure][i] / median,
      }))
      .filter((cell) => cell.ratio > 0);
  });
  const layers = [...new Set(profile.flatMap((kind) => kind.layers))].sort((a, b) => a - b);
  const chart = plot(width, {
    height: 22 * profile.length + 46,
    marginLeft: Math.min(
      width * 0.4,
      6.4 * Math.max(...profile.map((kind) => shortened(kind.kind).length)) + 14,
    ),
    marginRight: 6,
    marginTop: 6,
    marginBottom: 36,
    x: {
      type: "band",
      domain: layers,
      ticks: layerTicks(layers, width),
      label: "layer",
      labelArrow: "none",
      tickSize: 0,
      padding: layers.length > 64 ? 0 : 0.06,
    },
    y: {
      type: "band",
      domain: d3.range(profile.length),
      tickFormat: (i) => shortened(profile[i].kind),
      label: null,
      tickSize: 0,
      padding: 0.06,
    },
    marks: [
      Plot.cell(cells, {
        x: "layer",
        y: "index",
        fill: { value: (cell) => `var(--h${classOf(cell.ratio)})`, scale: null },
      }),
      Plot.dot(
        cells.filter((cell) => figure === "std" && departs(cell)),
        { x: "layer", y: "index", r: 3, fill: "var(--page)", stroke: "var(--text)" },
      ),
      tip(cells, {
        x: "layer",
        y: "index",
        title: (d) =>
          `layer ${d.layer}, ${d.kind}\n${d.value.toPrecision(4)}, ${d.ratio.toPrecision(3)} x the median`,
      }),
    ],
  });
  return [heatLegend(), chart];
}

// Round numbers of layers, as many as can be read.
function layerTicks(layers, width) {
  const span = d3.max(layers) + 1;
  const step = STEPS.find((step) => span / step <= Math.min(MAX_TICKS, width / 45)) ?? span;
  return [...new Set(layers)].filter((layer) => layer % step === 0);
}

function classOf(ratio) {
  return EDGES.filter((edge) => ratio >= edge).length;
}

// A strip of the colours, with the edges between them.
function heatLegend() {
  const steps = ["", ...EDGES].map((edge, i) => {
    const swatch = element("i");
    swatch.style.background = `var(--h${i})`;
    return element("span", "", [swatch, element("small", "", [String(edge)])]);
  });
  return element("div", "steps", steps);
}

function histogram(row, width, height) {
  const apart = row.end > row.start;
  const margin = apart ? 0 : Math.abs(row.start) / 20 || 1; // equal values are one bar
  const start = row.start - margin;
  const step = (row.end + margin - start) / row.counts.length;
  const logarithmic = document.getElementById("logarithmic").checked;
  const total = d3.sum(row.counts) + row.below + row.above;
  const bins = row.counts.map((count, i) => ({
    count,
    from: start + i * step,
    to: start + (i + 1) * step,
  }));
  const words = ({ from, to, count }) => {
    const range = apart ? `${tickOf(from)} to ${tickOf(to)}` : tickOf(row.start);
    return `${range}\n${count.toLocaleString("en")} (${((100 * count) / total).toFixed(2)} %)`;
  };
  const chart = plot(width, {
    height,
    marginLeft: height > 200 ? 56 : 8,
    marginRight: 12,
    marginTop: 8,
    marginBottom: 26,
    x: { label: null, ticks: Math.max(2, Math.min(8, width / 95)), tickFormat: "~g" },
    y: {
      axis: height > 200 ? "left" : null,
      label: null,
      grid: height > 200,
      ticks: 4,
      tickFormat: countOf,
      ...(logarithmic ? { type: "symlog", ticks: powersOfTen(Math.max(1, ...row.counts)) } : {}),
      domain: [0, Math.max(1, ...row.counts)],
    },
    marks: [
      Plot.rectY(bins, {
        x1: "from",
        x2: "to",
        y: "count",
        fill: "var(--bar)",
        insetLeft: 0.5,
        insetRight: 0.5,
      }),
      Plot.ruleY([0]),
      tip(bins, { x: (d) => (d.from + d.to) / 2, y: "count", title: words }, Plot.pointerX),
    ],
  });
  const outside = `${row.below.toLocaleString("en")} below, ${row.above.toLocaleString("en")} above`;
  return row.below + row.above ? [chart, element("p", "note", [`Outside: ${outside}`])] : chart;
}

function powersOfTen(most) {
  return [0, ...d3.range(Math.floor(Math.log10(most)) + 1).map((power) => 10 ** power)];
}

function tickOf(number) {
  const rounded = Number(number.toPrecision(3));
  const size = Math.abs(rounded);
  return size === 0 || (size >= 1e-4 && size < 1e6) ? String(rounded) : rounded.toExponential();
}

// Whole numbers: 80, 1.2k, 3M.
function countOf(number) {
  if (!Number.isInteger(number)) return "";
  return number < 1000 ? String(number) : d3.format("~s")(number).replace("G", "B");
}

function element(name, className = "", children = []) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children); // texts become text nodes
  return made;
}

function legendEntry(word, color) {
  const swatch = element("i");
  swatch.style.background = color;
  return element("span", "", [swatch, word]);
}

// --- redrawing ---------------------------------------------------------------------------------

const charts = [...document.querySelectorAll(".chart")];
const PRINTED_WIDTH = 680; // pixels of an A4 page between its margins

function watchWidths() {
  const widths = new Map(charts.map((chart) => [chart, chart.clientWidth]));
  let waiting;
  new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const chart of charts) {
        if (chart.clientWidth !== widths.get(chart)) {
          widths.set(chart, chart.clientWidth);
          draw(chart);
        }
      }
    }, 120);
  }).observe(document.body);
}

function printedWidth(chart) {
  if (chart.closest(".multiples")) return PRINTED_WIDTH / 3 - 16;
  return PRINTED_WIDTH;
}

function chooseWeight() {
  const select = document.getElementById("weight");
  if (!select) return;
  const redraw = () => {
    const chart = document.querySelector('[data-chart="weight-histogram"]');
    const name = columns.weights[select.value].name;
    chart.setAttribute("aria-label", `Histogram of ${name}`);
    draw(chart);
  };
  columns.weights.forEach((row, index) => select.append(new Option(row.name, index)));
  select.addEventListener("change", redraw);
  redraw();
}

function chooseScale() {
  document.getElementById("logarithmic")?.addEventListener("change", () => {
    charts
      .filter((chart) => chart.dataset.chart.endsWith("histogram"))
      .forEach((chart) => draw(chart));
  });
}

// --- the table ---------------------------------------------------------------------------------

const natural = new Intl.Collator("en", { numeric: true });

function workTable() {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  document.getElementById("narrow").hidden = false;
  const heads = [...table.tHead.rows[0].cells];
  const ofComponent = heads.findIndex((head) => head.textContent.trim() === "component");
  heads.forEach((head, column) => makeSortable(head, column, body, rows));
  const filter = document.getElementById("filter");
  const component = document.getElementById("component");
  const show = () => {
    const matches = matcher(filter.value.trim());
    let shown = 0;
    for (const row of rows) {
      const fits =
        matches(row.cells[0].textContent.trim()) &&
        (!component.value || row.cells[ofComponent].textContent.trim() === component.value);
      row.hidden = !fits;
      shown += fits;
    }
    const many = `${rows.length.toLocaleString("en")} weight${rows.length === 1 ? "" : "s"}`;
    document.getElementById("shown").textContent = `${shown.toLocaleString("en")} of ${many}`;
  };
  filter.addEventListener("input", show);
  component.addEventListener("change", show);
  document.getElementById("narrow").addEventListener("submit", (event) => event.preventDefault());
  show();
}

// A part of the name; with * or ? a pattern for all of it, as on the command line.
function matcher(text) {
  const wanted = text.toLowerCase();
  if (!/[*?]/.test(wanted)) return (name) => name.toLowerCase().includes(wanted);
  const escaped = wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  const pattern = new RegExp(`^${escaped.replace(/\*+/g, ".*").replace(/\?/g, ".")}$`, "s");
  return (name) => pattern.test(name.toLowerCase());
}

function makeSortable(head, column, body, rows) {
  const title = head.textContent.trim();
  const button = element("button", "", [title]);
  button.type = "button";
  head.replaceChildren(button);
  const numeric = head.dataset.order === "number";
  button.addEventListener("click", () => {
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    const order = next[head.getAttribute("aria-sort") ?? "none"];
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    if (order !== "none") head.setAttribute("aria-sort", order);
    body.append(...(order === "none" ? rows : sorted(rows, column, numeric, order)));
  });
}

function sorted(rows, column, numeric, order) {
  const sign = order === "ascending" ? 1 : -1;
  const keyed = rows.map((row) => {
    const text = row.cells[column].textContent.trim();
    return { row, key: numeric ? Number(text.replace(/[,~ ]/g, "") || NaN) : text };
  });
  const compare = numeric ? (a, b) => sign * (a - b) : (a, b) => sign * natural.compare(a, b);
  // Rows without a number come last, whichever way.
  const missing = ({ key }) => Number.isNaN(key);
  keyed.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : compare(a.key, b.key)));
  return keyed.map(({ row }) => row);
}

// --- colours -----------------------------------------------------------------------------------

function chooseTheme() {
  const button = document.getElementById("theme");
  const next = { auto: "light", light: "dark", dark: "auto" };
  let theme = "auto";
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = next[theme];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Colours: ${theme}`;
  });
}

charts.forEach((chart) => draw(chart));
chooseWeight();
chooseScale();
workTable();
chooseTheme();
watchWidths();
window.addEventListener("beforeprint", () =>
  charts.forEach((chart) => draw(chart, printedWidth(chart))),
);
window.addEventListener("afterprint", () => charts.forEach((chart) => draw(chart)));
