// The learned schedule: which level is held at which load.

import { axis } from "./chart.js";
import { byId, make, say, style } from "./dom.js";
import { upright } from "./draw.js";
import { known, percent, Picture } from "./picture.js";
import { level, number } from "./units.js";

const { uPlot } = globalThis;

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
    const last = given.at(-1);
    const endRps = last.load_high_rps ?? last.load_low_rps * 1.1; // it may have no end
    const bins = [...given, { ...last, load_low_rps: endRps }];
    const of = (key) => bins.map((bin) => level(bin[key], knob));
    picture.data = [
      bins.map((bin) => bin.load_low_rps),
      of("setting"),
      of("safe_low"),
      of("safe_high"),
    ];
    picture.options = () => this.options();
    picture.build();
    const now = given.find(
      (bin) => loadRps >= bin.load_low_rps && loadRps < (bin.load_high_rps ?? Infinity),
    );
    say(
      picture.words,
      `From ${number("load_rps", given[0].load_low_rps)} to ` +
        `${upTo(last)}. ` +
        (now
          ? `At ${number("load_rps", loadRps)}, now, it holds ${knob} ${level(now.setting, knob)}.`
          : `The present load, ${number("load_rps", loadRps)}, is outside of it.`),
    );
    picture.tell(
      "Level to hold by load",
      ["load", knob, "safe interval", "expected p99", "P(safe)"],
      given.map((bin) => [
        `${number("load_rps", bin.load_low_rps)} to ${upTo(bin)}`,
        String(level(bin.setting, knob)),
        `${level(bin.safe_low, knob)} to ${level(bin.safe_high, knob)}`,
        number("latency_p99_s", bin.predictions.latency_p99_s?.mean),
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
        axis({
          size: 40,
          values: (_u, splits) => splits.map((y) => (Number.isInteger(y) ? y : "")),
        }),
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
        draw: [
          (u) =>
            known(this.loadRps) &&
            upright(u, this.loadRps, `now ${number("load_rps", this.loadRps)}`, "--ink", [], 0),
        ],
      },
    };
  }
}

const upTo = (bin) =>
  known(bin.load_high_rps) ? number("load_rps", bin.load_high_rps) : "whatever comes";
