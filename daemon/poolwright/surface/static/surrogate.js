// The surrogate at the load of the last fit: what it predicts of each level, and holds to be safe.

import { axis } from "./chart.js";
import { byId, make, say, style } from "./dom.js";
import { flat, hatch, upright } from "./draw.js";
import { known, percent, Picture } from "./picture.js";
import { name, number } from "./units.js";
import { said } from "./words.js";

const FIRST = "latency_p99_s"; // the response that is shown first, where it is predicted
const OLD_S = 3600; // an observation this old is drawn faint

/** Mean and 90 % interval of one response over the levels. */
export class Surrogate {
  constructor() {
    this.picture = new Picture(byId("surrogate"), "Surrogate");
    this.select = make("select", { "aria-label": "Response", on: { change: () => this.show() } });
    this.picture.control.append(
      this.select,
      make("span", {}, make("i", { class: "swatch s1" }), "mean"),
      make("span", {}, make("i", { class: "swatch band" }), "90 % interval"),
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
    this.bands = { ...given.responses };
    if (given.objective) this.bands.objective = given.objective;
    const names = Object.keys(this.bands);
    const before = this.select.value;
    if ([...this.select.options].map((option) => option.value).join() !== names.join()) {
      this.select.replaceChildren(...names.map((one) => make("option", { value: one }, name(one))));
      this.select.value = names.includes(before)
        ? before
        : names.includes(FIRST)
          ? FIRST
          : names[0];
    }
    this.picture.something();
    this.show();
  }

  show() {
    const { given, picture } = this;
    const response = this.select.value;
    const { mean, low, high } = this.bands[response];
    picture.data = [given.levels, mean, low, high];
    picture.options = () => this.options(response);
    picture.build();
    const { incumbent } = given;
    const probe = known(given.probe) ? `next it probes ${given.probe}` : "nothing is worth a probe";
    const safe = given.levels.filter((_level, i) => given.safe[i]);
    const set = safe.length
      ? `safe are ${spans(given.levels, given.safe)}`
      : "none is held to be safe";
    const best = known(incumbent) ? `the best known is ${incumbent}` : "none is the best yet";
    say(
      picture.words,
      `At ${number("load_rps", given.load_rps)}, ${given.knob} from ${given.levels[0]} to ` +
        `${given.levels.at(-1)}: ${set}; ${best}; ${probe}.`,
    );
    const rows = given.levels.map((one, i) => [
      String(one),
      number(response, mean[i]),
      `${number(response, low[i])} to ${number(response, high[i])}`,
      percent(given.p_safe[i]),
      given.safe[i] ? "yes" : "no",
      said(given.verdicts[i]),
    ]);
    picture.tell(
      `Predicted ${name(response)} by ${given.knob}`,
      [given.knob, "mean", "90 % interval", "P(safe)", "safe", "verdict"],
      rows,
    );
  }

  options(response) {
    const { given } = this;
    const observed = given.observed.filter((one) => known(one[response]));
    const seen = observed.map((one) => one[response]);
    const { high } = this.bands[response];
    const limit = this.limits[response];
    const mostSeen = Math.max(...seen, ...high.filter((_v, i) => given.safe[i]), 0);
    const mostAll = Math.max(...high, mostSeen);
    // what is far above anything that matters would flatten the rest
    const top = Math.min(mostAll, 3 * Math.max(mostSeen, limit ?? 0) || mostAll) * 1.1 || 1;
    const band = style("--band");
    return {
      scales: {
        x: { time: false, range: (_u, least, most) => [least - 0.5, most + 0.5] },
        y: { range: () => [0, top] },
      },
      axes: [
        axis({
          size: 28,
          values: (_u, splits) => splits.map((x) => (Number.isInteger(x) ? x : "")),
        }),
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
        draw: [(u) => this.drawOver(u, response, observed, limit)],
        setCursor: [(u) => this.hover(u, response)],
      },
    };
  }

  hover(u, response) {
    const i = u.cursor.idx;
    const { given } = this;
    u.over.title =
      i === null || i === undefined
        ? ""
        : `${given.knob} ${given.levels[i]}: ` +
          `${number(response, this.bands[response].mean[i])}, P(safe) ${percent(given.p_safe[i])}`;
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

  drawOver(u, response, observed, limit) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = style("--s2");
    for (const one of observed) {
      ctx.globalAlpha = one.age_s > OLD_S ? 0.35 : 0.9;
      const x = u.valToPos(one.level, "x", true);
      const y = u.valToPos(one[response], "y", true);
      if (one.breached) ctx.fillRect(x - 4 * ratio, y - ratio, 8 * ratio, 2 * ratio);
      ctx.beginPath();
      ctx.arc(x, y, 3 * ratio, 0, 7);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
    ctx.restore();
    if (known(limit)) flat(u, limit, `SLO ${number(response, limit)}`);
    const { applied, incumbent, probe } = this.given;
    if (known(applied)) upright(u, applied, `applied ${applied}`, "--ink", [], 0);
    if (known(incumbent)) upright(u, incumbent, `best known ${incumbent}`, "--good", [6, 3], 1);
    if (known(probe)) upright(u, probe, `next probe ${probe}`, "--s3", [2, 3], 2);
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
