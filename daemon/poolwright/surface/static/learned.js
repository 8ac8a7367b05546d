// What was learned: the surrogate over the levels at the present load, and the schedule.

import { axis, fit, painted } from "./chart.js";
import { byId, make, say, scrolling, style, table } from "./dom.js";
import { level, name, number, seconds } from "./units.js";

const { uPlot } = globalThis;
const HEIGHT = 240;
const FIRST = "latency_p99_s"; // the response that is shown first, where it is predicted
const OLD_S = 3600; // an observation this old is drawn faint

const known = (value) => value !== null && value !== undefined;
/** A level, from a number or from a setting. */
const levelOf = (given, knob) => (known(given) && typeof given === "object" ? level(given, knob) : given ?? null);
const percent = (ratio) => (known(ratio) ? `${Math.round(ratio * 100)} %` : "–");

/** A panel with a chart whose x is no time; `draw()` gives uPlot's options, `data` its columns. */
class Picture {
  constructor(place, title) {
    this.title = title;
    this.words = make("p", { class: "words" });
    this.control = make("span", { class: "legend" });
    this.plotPlace = make("div", { class: "plot", role: "img", "aria-label": title });
    this.rows = make("div");
    this.details = make("details", { class: "rows" }, make("summary", {}, `${title} as a table`), this.rows);
    place.replaceChildren(
      make(
        "figure",
        { class: "panel" },
        make("figcaption", {}, make("h3", {}, title), this.control),
        this.words,
        make("div", { class: "stage" }, this.plotPlace),
        this.details,
      ),
    );
    this.options = null;
    this.data = null;
    fit(this.plotPlace, () => this.plot ?? { setSize() {} }, HEIGHT);
    painted(this);
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.options) return;
    const width = this.plotPlace.clientWidth || 300;
    const common = { width, height: HEIGHT, legend: { show: false }, padding: [12, 12, 0, 0] };
    this.plot = new uPlot({ ...common, ...this.options() }, this.data, this.plotPlace);
  }

  nothing(why) {
    this.options = null;
    this.build();
    say(this.words, why);
    this.rows.replaceChildren();
    this.details.hidden = true;
    this.plotPlace.hidden = true;
    this.control.hidden = true;
  }

  something() {
    this.details.hidden = false;
    this.plotPlace.hidden = false;
    this.control.hidden = false;
  }

  tell(label, heads, rows) {
    this.plotPlace.setAttribute("aria-label", label);
    if (!this.details.open || this.rows.childElementCount === 0) {
      this.rows.replaceChildren(scrolling(`${this.title}, as a table`, table(label, heads, rows)));
    }
  }
}

/** A vertical line through the plot, with its name at the top. */
function upright(u, x, words, colour, dash, row) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const at = Math.round(u.valToPos(x, "x", true));
  if (at < bbox.left || at > bbox.left + bbox.width) return;
  ctx.save();
  ctx.strokeStyle = style(colour);
  ctx.fillStyle = style(colour);
  ctx.lineWidth = 1.5 * ratio;
  ctx.setLineDash(dash.map((part) => part * ratio));
  ctx.beginPath();
  ctx.moveTo(at, bbox.top);
  ctx.lineTo(at, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "top";
  const right = at > bbox.left + bbox.width * 0.7;
  ctx.textAlign = right ? "right" : "left";
  ctx.fillText(words, at + (right ? -4 : 4) * ratio, bbox.top + (2 + 14 * row) * ratio);
  ctx.restore();
}

/** Slanting lines over what is not safe. */
function hatch(u, fromX, toX) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const left = Math.max(bbox.left, u.valToPos(fromX, "x", true));
  const right = Math.min(bbox.left + bbox.width, u.valToPos(toX, "x", true));
  if (right <= left) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, bbox.top, right - left, bbox.height);
  ctx.clip();
  ctx.strokeStyle = style("--hatch");
  ctx.lineWidth = ratio;
  for (let x = left - bbox.height; x < right; x += 8 * ratio) {
    ctx.beginPath();
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x + bbox.height, bbox.top);
    ctx.stroke();
  }
  ctx.restore();
}

/** Mean and 95 % interval of one response over the levels. */
export class Surrogate {
  constructor() {
    this.picture = new Picture(byId("surrogate"), "Surrogate");
    this.select = make("select", { "aria-label": "Response", on: { change: () => this.show() } });
    this.picture.control.append(
      this.select,
      make("span", {}, make("i", { class: "swatch s1" }), "mean"),
      make("span", {}, make("i", { class: "swatch band" }), "interval"),
      make("span", {}, make("i", { class: "swatch dot" }), "observed"),
      make("span", {}, make("i", { class: "swatch hatched" }), "not safe"),
    );
    this.limits = {};
  }

  /** `given`: the API's answer, null when there is no plan yet; `limits`: response -> SLO. */
  load(given, limits, why) {
    this.given = given;
    this.limits = limits;
    if (!given || given.levels.length === 0) {
      this.picture.nothing(why || "Nothing is learned yet: the first plan comes after warm-up.");
      return;
    }
    const names = Object.keys(given.responses);
    const before = this.select.value;
    if ([...this.select.options].map((option) => option.value).join() !== names.join()) {
      this.select.replaceChildren(...names.map((one) => make("option", { value: one }, name(one))));
      this.select.value = names.includes(before) ? before : names.includes(FIRST) ? FIRST : names[0];
    }
    this.picture.something();
    this.show();
  }

  show() {
    const { given, picture } = this;
    const response = this.select.value;
    const { mean, low, high } = given.responses[response];
    const at = { incumbent: levelOf(given.incumbent, given.knob), probe: levelOf(given.probe, given.knob), applied: levelOf(given.applied, given.knob) };
    picture.data = [given.levels, mean, low, high];
    picture.options = () => this.options(response, at);
    picture.build();
    const probe = known(at.probe) ? `the next probe is ${at.probe}` : "nothing is worth a probe";
    const safe = given.levels.filter((_level, i) => given.safe[i]);
    const set = safe.length ? `safe are ${spans(given.levels, given.safe)}` : "none is held to be safe";
    const best = known(at.incumbent) ? `the best known is ${at.incumbent}` : "none is the best yet";
    say(
      picture.words,
      `At ${number("load_rps", given.load_rps)}, ${given.knob} from ${given.levels[0]} to `
        + `${given.levels.at(-1)}: ${set}; ${best}; ${probe}.`,
    );
    const rows = given.levels.map((one, i) => [
      String(one),
      number(response, mean[i]),
      `${number(response, low[i])} to ${number(response, high[i])}`,
      percent(given.p_safe[i]),
      given.safe[i] ? "yes" : "no",
    ]);
    picture.tell(
      `Predicted ${name(response)} by ${given.knob}`,
      [given.knob, "mean", "interval", "P(safe)", "safe"],
      rows,
    );
  }

  options(response, at) {
    const { given } = this;
    const observed = given.observed.filter((one) => known(one[response]));
    const seen = observed.map((one) => one[response]);
    const { high } = given.responses[response];
    const limit = this.limits[response];
    const mostSeen = Math.max(...seen, ...high.filter((_v, i) => given.safe[i]), 0);
    const mostAll = Math.max(...high, mostSeen);
    // what is far above anything that matters would flatten the rest
    const top = Math.min(mostAll, 3 * Math.max(mostSeen, limit ?? 0) || mostAll) * 1.1 || 1;
    const band = style("--band");
    return {
      scales: { x: { time: false, range: (_u, least, most) => [least - 0.5, most + 0.5] }, y: { range: () => [0, top] } },
      axes: [
        axis({ size: 28, values: (_u, splits) => splits.map((x) => (Number.isInteger(x) ? x : "")) }),
        axis({ size: 62, values: (_u, splits) => splits.map((y) => number(response, y)) }),
      ],
      cursor: { y: false, drag: { x: false, y: false } },
      series: [
        {},
        { stroke: style("--s1"), width: 2, points: { size: 5, fill: style("--s1") } },
        { stroke: band, width: 1, points: { show: false } },
        { stroke: band, width: 1, points: { show: false } },
      ],
      bands: [{ series: [3, 2], fill: band }],
      hooks: {
        drawAxes: [(u) => this.drawUnsafe(u)],
        draw: [(u) => this.drawOver(u, response, observed, limit, at)],
        setCursor: [(u) => this.hover(u, response)],
      },
    };
  }

  hover(u, response) {
    const i = u.cursor.idx;
    const { given } = this;
    u.over.title = i === null || i === undefined ? "" : `${given.knob} ${given.levels[i]}: `
      + `${number(response, given.responses[response].mean[i])}, P(safe) ${percent(given.p_safe[i])}`;
  }

  drawUnsafe(u) {
    const { levels, safe } = this.given;
    levels.forEach((one, i) => {
      if (safe[i]) return;
      const before = i > 0 ? (levels[i - 1] + one) / 2 : one - 0.5;
      const after = i + 1 < levels.length ? (levels[i + 1] + one) / 2 : one + 0.5;
      hatch(u, before, after);
    });
  }

  drawOver(u, response, observed, limit, at) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = style("--s2");
    for (const one of observed) {
      ctx.globalAlpha = one.age_s > OLD_S ? 0.35 : 0.9;
      ctx.beginPath();
      ctx.arc(u.valToPos(levelOf(one.level, this.given.knob), "x", true), u.valToPos(one[response], "y", true), 3 * ratio, 0, 7);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
    if (known(limit)) {
      const y = u.valToPos(limit, "y", true);
      ctx.strokeStyle = style("--bad");
      ctx.fillStyle = style("--bad");
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.lineWidth = ratio;
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.font = `${11 * ratio}px system-ui, sans-serif`;
      ctx.fillText(`SLO ${number(response, limit)}`, bbox.left + 4 * ratio, y - 4 * ratio);
    }
    ctx.restore();
    if (known(at.applied)) upright(u, at.applied, `applied ${at.applied}`, "--ink", [], 0);
    if (known(at.incumbent)) upright(u, at.incumbent, `best known ${at.incumbent}`, "--good", [6, 3], 1);
    if (known(at.probe)) upright(u, at.probe, `next probe ${at.probe}`, "--s3", [2, 3], 2);
  }
}

/** `2 to 5, 8`: runs of neighbours for which `yes` holds. */
function spans(levels, yes) {
  const runs = [];
  levels.forEach((one, i) => {
    if (!yes[i]) return;
    if (i > 0 && yes[i - 1]) runs.at(-1)[1] = one;
    else runs.push([one, one]);
  });
  return runs.map(([from, to]) => (from === to ? String(from) : `${from} to ${to}`)).join(", ");
}

/** Which level is held at which load. */
export class Schedule {
  constructor() {
    this.picture = new Picture(byId("schedule"), "Learned schedule");
    this.picture.control.append(
      make("span", {}, make("i", { class: "swatch s1" }), "level to hold"),
      make("span", {}, make("i", { class: "swatch band" }), "safe interval"),
    );
    this.loadRps = null;
  }

  load(given, knob, loadRps, why) {
    this.loadRps = loadRps;
    const { picture } = this;
    if (!given || given.length === 0) {
      picture.nothing(why || "Nothing is learned yet: the first plan comes after warm-up.");
      return;
    }
    picture.something();
    const bins = [...given, { ...given.at(-1), load_low_rps: given.at(-1).load_high_rps }];
    const of = (key) => bins.map((bin) => levelOf(bin[key], knob));
    picture.data = [bins.map((bin) => bin.load_low_rps), of("setting"), of("safe_low"), of("safe_high")];
    picture.options = () => this.options();
    picture.build();
    const now = given.find((bin) => loadRps >= bin.load_low_rps && loadRps < bin.load_high_rps);
    say(
      picture.words,
      `From ${number("load_rps", given[0].load_low_rps)} to `
        + `${number("load_rps", given.at(-1).load_high_rps)}. `
        + (now ? `At the present ${number("load_rps", loadRps)} it holds ${knob} ${levelOf(now.setting, knob)}.`
          : `The present load, ${number("load_rps", loadRps)}, is outside of it.`),
    );
    picture.tell(
      "Level to hold by load",
      ["load", knob, "safe interval", "expected p99", "P(safe)"],
      given.map((bin) => [
        `${number("load_rps", bin.load_low_rps)} to ${number("load_rps", bin.load_high_rps)}`,
        String(levelOf(bin.setting, knob)),
        `${levelOf(bin.safe_low, knob)} to ${levelOf(bin.safe_high, knob)}`,
        seconds2(bin.predictions?.latency_p99_s),
        percent(bin.p_safe),
      ]),
    );
  }

  options() {
    const band = style("--band");
    const stepped = uPlot.paths.stepped({ align: 1 });
    const edge = { stroke: band, width: 1, paths: stepped, points: { show: false } };
    return {
      scales: { x: { time: false }, y: { range: (_u, _least, most) => [0, (most ?? 1) + 1] } },
      axes: [
        axis({ size: 28, values: (_u, splits) => splits.map((x) => number("load_rps", x)) }),
        axis({ size: 40, values: (_u, splits) => splits.map((y) => (Number.isInteger(y) ? y : "")) }),
      ],
      cursor: { y: false, drag: { x: false, y: false } },
      series: [
        {},
        { stroke: style("--s1"), width: 2, paths: stepped, points: { show: false } },
        edge,
        edge,
      ],
      bands: [{ series: [3, 2], fill: band }],
      hooks: {
        draw: [(u) => known(this.loadRps)
          && upright(u, this.loadRps, `now ${number("load_rps", this.loadRps)}`, "--ink", [], 0)],
      },
    };
  }
}

function seconds2(prediction) {
  const mean = prediction?.mean ?? prediction;
  return typeof mean === "number" ? seconds(mean) : "–";
}
