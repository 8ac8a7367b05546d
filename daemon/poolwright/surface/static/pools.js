// The list of pools: what each is about, in a line or two.

import { byId, make, say } from "./dom.js";
import { number } from "./units.js";
import { phase, reason } from "./words.js";

const STALE = { sign: "!", text: "stale", tone: "warn" };

/** Rows are kept and changed, so that focus and scroll stay where they are. */
export class Pools {
  constructor(onSelect) {
    this.place = byId("pools");
    this.onSelect = onSelect;
    this.rows = new Map();
  }

  /** `pools`: points of a tick; `selected`: a name; `isStale(point)`: it is of an older tick. */
  show(pools, selected, isStale) {
    const names = pools.map((one) => one.pool);
    if ([...this.rows.keys()].join("\n") !== names.join("\n")) this.build(names);
    for (const point of pools) {
      this.fill(this.rows.get(point.pool), point, selected, isStale(point));
    }
  }

  build(names) {
    this.rows = new Map(names.map((name) => [name, this.row(name)]));
    this.place.replaceChildren(...[...this.rows.values()].map((row) => row.item));
  }

  row(name) {
    const badge = make("span", { class: "badge" });
    const level = make("b");
    const figures = make("span", { class: "figures" });
    const why = make("span", { class: "why" });
    const link = make(
      "a",
      { href: `#${encodeURIComponent(name)}`, on: { click: () => this.onSelect(name) } },
      make("span", { class: "name" }, name),
      badge,
      make("span", { class: "line" }, level, figures),
      why,
    );
    return { item: make("li", {}, link), link, badge, level, figures, why };
  }

  fill(row, point, selected, stale) {
    const { sign, text, tone } = stale ? STALE : phase(point.phase);
    say(row.badge, `${sign} ${text}`);
    row.badge.dataset.tone = tone;
    say(row.level, number("level", point.applied));
    say(
      row.figures,
      ` applied · ${number("load_rps", point.load_rps)} · ` +
        `p99 ${number("latency_p99_s", point.latency_p99_s)}`,
    );
    say(row.why, reason(point.reason, point.detail));
    if (point.pool === selected) row.link.setAttribute("aria-current", "true");
    else row.link.removeAttribute("aria-current");
  }
}
