// Line charts as SVG, with a table for screen readers.

import { h, newId, s } from "./dom.js";
import { number } from "./text.js";

const WIDTH = 520;
const HEIGHT = 220;
const EDGE = { left: 44, right: 10, top: 10, bottom: 28 };
const MARKS = ["", "6 4", "2 4"];

function ticks(low, high, count = 4) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const result = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) result.push(at);
  return result;
}

/** As many digits as tell the steps apart: 0.25 needs two. */
const digitsOf = ([first = 0, second = 1]) => [0, 1, 2].find((digits) => Math.abs((second - first) * 10 ** digits - Math.round((second - first) * 10 ** digits)) < 1e-6) ?? 3;

/**
 * A chart of series `{label, points: [[x, y], …]}`. Its x axis begins at `from`, or below it.
 *
 * The lines differ in color and in their dashes.
 */
export function lineChart(title, series, { low, high, from = 1, xLabel = "" } = {}) {
  const points = series.flatMap((one) => one.points).filter(([, y]) => Number.isFinite(y));
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [x0, x1] = [Math.min(from, ...xs), Math.max(2, ...xs)];
  const [y0, y1] = [low ?? Math.min(0, ...ys), high ?? Math.max(0.1, ...ys) * 1.05];
  const px = (x) => EDGE.left + ((x - x0) / (x1 - x0)) * (WIDTH - EDGE.left - EDGE.right);
  const py = (y) => HEIGHT - EDGE.bottom - ((y - y0) / (y1 - y0)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const id = newId("chart");
  const [yTicks, xTicks] = [ticks(y0, y1), ticks(x0, x1, 6).filter(Number.isInteger)];
  const svg = s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": id, class: "chart" },
    s("title", { id }, title),
    yTicks.map((y) => [
      s("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: py(y), y2: py(y), class: "grid" }),
      s("text", { x: EDGE.left - 6, y: py(y) + 4, "text-anchor": "end" }, number(y, digitsOf(yTicks))),
    ]),
    xTicks.map((x) => s("text", { x: px(x), y: HEIGHT - 8, "text-anchor": "middle" }, number(x))),
    series.map((one, index) => line(one, index, px, py)),
  );
  return h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, h("strong", {}, title), legend(series)),
    svg,
    xLabel && h("p", { class: "axis" }, xLabel),
    numbers(title, series, xLabel),
  );
}

function line({ points }, index, px, py) {
  const known = points.filter(([, y]) => Number.isFinite(y));
  const path = known.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
  const last = known.at(-1);
  return [
    s("polyline", { points: path, class: `line c${index}`, "stroke-dasharray": MARKS[index % 3] }),
    last && s("circle", { cx: px(last[0]), cy: py(last[1]), r: 3.5, class: `dot c${index}` }),
  ];
}

const legend = (series) =>
  h(
    "span",
    { class: "legend" },
    series.map((one, index) =>
      h(
        "span",
        {},
        s("svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": "true" }, s("line", { x1: 0, x2: 24, y1: 4, y2: 4, class: `line c${index}`, "stroke-dasharray": MARKS[index % 3] })),
        one.label,
      ),
    ),
  );

function numbers(title, series, xLabel) {
  const steps = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))];
  return h(
    "table",
    { class: "visually-hidden" },
    h("caption", {}, title),
    h("thead", {}, h("tr", {}, h("th", {}, xLabel || "x"), series.map((one) => h("th", {}, one.label)))),
    h(
      "tbody",
      {},
      steps.map((x) =>
        h("tr", {}, h("td", {}, number(x)), series.map((one) => h("td", {}, number(one.points.find(([at]) => at === x)?.[1] ?? NaN, 3)))),
      ),
    ),
  );
}

/** Bars of probabilities or counts, with the number beside each. */
export function bars(rows) {
  const largest = Math.max(...rows.map((row) => row.value), Number.MIN_VALUE);
  return h(
    "ul",
    { class: rows.length > 8 ? "bars many" : "bars" },
    rows.map((row) =>
      h(
        "li",
        { class: row.isChosen ? "chosen" : undefined },
        h("span", { class: "bar", style: { "--share": String(row.value / (row.of ?? largest)) }, "aria-hidden": "true" }),
        row.action
          ? h("button", { type: "button", class: "plain", "aria-pressed": String(Boolean(row.isChosen)), on: { click: row.action } }, row.label)
          : h("span", {}, row.label),
        h("span", { class: "figure-text" }, row.text),
      ),
    ),
  );
}
