// Charts over time. uPlot draws; here are the panel round it, its words, and its table.

import { make, say, scrolling, style, table } from "./dom.js";
import { flat } from "./draw.js";
import { clock, number } from "./units.js";

const { uPlot } = globalThis;
const FONT = "11px system-ui, sans-serif";
const MOST_ROWS = 60; // of a table: what is longer is thinned
const NEAR = 2.5; // a limit so many times above the data is named and not drawn
const charts = new Set();

/** Two digits of hours and minutes; seconds when the axis is fine; the date at midnight. */
function times(_u, splits) {
  const fine = splits.length > 1 && splits[1] - splits[0] < 60;
  return splits.map((timeS) => {
    const then = new Date(timeS * 1000);
    const said = then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    if (fine) return then.toLocaleTimeString("en-GB");
    return said === "00:00" ? then.toLocaleDateString("sv-SE").slice(5) : said;
  });
}

/** An axis in the page's colours. */
export const axis = (more) => ({
  stroke: style("--muted"),
  font: FONT,
  grid: { stroke: style("--grid"), width: 1 },
  ticks: { stroke: style("--grid"), width: 1, size: 4 },
  ...more,
});

/** What a series looks like: colour and dash, so that colour is never the only sign. */
export const stroke = (given) => ({
  stroke: style(`--${given.colour}`),
  width: given.width ?? 1.5,
  dash: given.dash,
});

/** Keeps a plot as wide as its place. */
export function fit(place, plot, height) {
  const watch = new ResizeObserver(() => {
    const width = place.clientWidth;
    if (width > 0) plot().setSize({ width, height });
  });
  watch.observe(place);
}

/** Draws all charts anew, in the colours of the theme that is now. */
export function repaint() {
  for (const chart of charts) chart.build();
}

/** What is registered here is built anew when the theme changes. */
export const painted = (chart) => charts.add(chart);

/**
 * A panel: a chart of one quantity over time, a legend with values, and a table.
 * `series`: [{column, label, colour, dash, steps}]; `window()`: [from, to] in unix seconds;
 * `onZoom(from, to)`: a span was marked with the pointer.
 */
export class Chart {
  constructor(place, { title, quantity, series, window, onZoom, height = 150, note = "", onDraw }) {
    Object.assign(this, { title, quantity, series, window, onZoom, height, onDraw });
    this.limits = []; // [{label, value}]
    this.data = [[], ...series.map(() => [])];
    this.plotPlace = make("div", { class: "plot", role: "img" });
    this.legend = series.map((one) => ({ one, value: make("b") }));
    this.limitWords = make("span", { class: "limit", hidden: true });
    this.details = make(
      "details",
      {
        class: "rows",
        on: { toggle: () => this.showTable() },
      },
      make("summary", {}, `${title} as a table`),
    );
    this.stage = make("div", { class: "stage" }, this.plotPlace);
    place.replaceChildren(
      make(
        "figure",
        { class: "panel" },
        make(
          "figcaption",
          {},
          make("h3", {}, title),
          make("span", { class: "note" }, note),
          make("span", { class: "legend" }, this.legend.map(legendItem), this.limitWords),
        ),
        this.stage,
        this.details,
      ),
    );
    this.note = place.querySelector(".note");
    this.build();
    fit(this.plotPlace, () => this.plot, height);
    painted(this);
  }

  build() {
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), this.data, this.plotPlace);
  }

  options() {
    return {
      width: this.plotPlace.clientWidth || 300,
      height: this.height,
      legend: { show: false },
      padding: [8, 8, 0, 0],
      cursor: {
        y: false,
        sync: {
          key: "time",
          filters: { pub: (type) => type.startsWith("mouse") && !/up|down/.test(type) },
        },
        drag: { x: true, y: false, setScale: false },
      },
      scales: {
        x: { range: () => this.window() },
        y: { range: (_u, low, high) => this.span(low, high) },
      },
      axes: [
        axis({ values: times, size: 28, space: 64 }),
        axis({ values: (_u, splits) => splits.map((value) => this.mark(value)), size: 62 }),
      ],
      series: [
        {},
        ...this.series.map((one) => ({
          ...stroke(one),
          paths: one.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
          points: { size: 3 },
        })),
      ],
      hooks: {
        setCursor: [(u) => this.showLegend(u.cursor.idx)],
        setSelect: [(u) => this.zoomed(u)],
        draw: [(u) => this.drawLimits(u)],
      },
    };
  }

  /** From zero, so that a small ripple does not look like a storm. */
  span(_low, high) {
    const seen = high ?? 0;
    const near = this.limits
      .map((limit) => limit.value)
      .filter((value) => seen === 0 || value < seen * NEAR);
    const top = Math.max(seen, ...near) * 1.1;
    return [0, top > 0 ? top : 1];
  }

  mark(value) {
    if (value === null) return "";
    if (this.quantity === "level" && !Number.isInteger(value)) return "";
    return number(this.quantity, value).replace(" cores", ""); // the legend has the unit
  }

  drawLimits(u) {
    for (const { value } of this.limits) flat(u, value);
    this.onDraw?.(u);
  }

  zoomed(u) {
    if (u.select.width < 8) return;
    const from = u.posToVal(u.select.left, "x");
    const to = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.onZoom(from, to);
  }

  /** `limits`: [{label, value}], drawn dotted and named in the legend. */
  setLimits(limits) {
    this.limits = limits;
    this.limitWords.hidden = limits.length === 0;
    const words = limits.map(({ label, value }) => `${label} ${number(this.quantity, value)}`);
    say(this.limitWords, words.join(", "));
  }

  setNote(text) {
    say(this.note, text);
  }

  /** Columns in the order of `series`, after the times. */
  setData(columns) {
    this.data = columns;
    this.plot.setData(columns);
    this.showLegend(this.plot.cursor.idx);
    this.plotPlace.setAttribute("aria-label", this.summary());
  }

  showLegend(index) {
    const at = index ?? this.data[0].length - 1;
    this.legend.forEach(({ value }, i) => say(value, number(this.quantity, this.data[i + 1][at])));
  }

  summary() {
    const count = this.data[0].length;
    if (count === 0) return `${this.title}: nothing is known yet`;
    const parts = this.series.map((one, i) => {
      const known = this.data[i + 1].filter((value) => value !== null);
      if (known.length === 0) return `${one.label} not known`;
      const [low, high] = known.reduce(
        ([least, most], value) => [Math.min(least, value), Math.max(most, value)],
        [Infinity, -Infinity],
      );
      const last = this.data[i + 1][count - 1];
      return (
        `${one.label} ${number(this.quantity, last)} at the end, ` +
        `between ${number(this.quantity, low)} and ${number(this.quantity, high)}`
      );
    });
    const span = `${clock(this.data[0][0])} to ${clock(this.data[0][count - 1])}`;
    return `${this.title}, ${span}: ${parts.join("; ")}`;
  }

  /** Made when it is opened, and then left alone: nobody can read what changes every second. */
  showTable() {
    if (!this.details.open) {
      this.details.querySelector(".scrolls")?.remove();
      return;
    }
    const every = Math.ceil(this.data[0].length / MOST_ROWS) || 1;
    const rows = this.data[0]
      .map((timeS, i) => [
        clock(timeS),
        ...this.data.slice(1).map((c) => number(this.quantity, c[i])),
      ])
      .filter((_row, i) => i % every === 0)
      .reverse();
    const thinned = every === 1 ? "" : `, one in ${every} points`;
    const caption = `${this.title} until ${rows[0]?.[0] ?? "now"}${thinned}`;
    const made = table(caption, ["time", ...this.series.map((one) => one.label)], rows);
    this.details.append(scrolling(`${this.title}, as a table`, made));
  }
}

const dashName = (dash) => (dash ? (dash[0] < 4 ? "dotted" : "dashed") : "");

function legendItem({ one, value }) {
  const swatch = make("i", { class: `swatch ${one.colour} ${dashName(one.dash)}` });
  return make("span", {}, swatch, one.label, " ", value);
}
