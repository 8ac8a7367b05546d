// The page: which pool and which time are looked at, and what is asked of the daemon when.

import * as api from "./api.js";
import { Chart, repaint } from "./chart.js";
import { Decisions } from "./decisions.js";
import { byId, make, say } from "./dom.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import * as panels from "./panels.js";
import { Pools } from "./pools.js";
import { Schedule } from "./schedule.js";
import { limitsOf, Standing } from "./standing.js";
import { Surrogate } from "./surrogate.js";
import { clock } from "./units.js";
import { POWER } from "./words.js";

const STATUS_MS = 5000;
const LEARNED_MS = 15000;
const HISTORY_MS = 120000; // what ticks have carried on is replaced by what the daemon keeps
const MOST_POINTS = 1440;
const THEMES = { "": "system", light: "light", dark: "dark" };

const SEEN = [
  {
    title: "Load",
    quantity: "load_rps",
    series: [{ column: "load_rps", label: "load", colour: "s1" }],
  },
  {
    title: "Latency",
    quantity: "latency_p99_s",
    series: [
      { column: "latency_p50_s", label: "p50", colour: "s1", dash: [2, 3] },
      { column: "latency_p95_s", label: "p95", colour: "s2", dash: [6, 3] },
      { column: "latency_p99_s", label: "p99", colour: "s3" },
    ],
  },
  {
    title: "Jitter",
    quantity: "jitter_s",
    series: [{ column: "jitter_s", label: "standard deviation", colour: "s1" }],
  },
  {
    title: "Errors",
    quantity: "error_ratio",
    series: [{ column: "error_ratio", label: "failed", colour: "s2" }],
  },
];
const SPENT = [
  {
    title: "CPU",
    quantity: "cpu_cores",
    series: [{ column: "cpu_cores", label: "pool", colour: "s1" }],
  },
  {
    title: "Memory",
    quantity: "memory_bytes",
    series: [{ column: "memory_bytes", label: "pool", colour: "s1" }],
  },
  {
    title: "Power",
    quantity: "power_w",
    series: [{ column: "power_w", label: "whole host", colour: "s1" }],
  },
];
const LEVEL = {
  title: "Level",
  quantity: "level",
  height: 230,
  series: [
    { column: "wanted", label: "wanted", colour: "s3", dash: [2, 3], steps: true },
    { column: "commanded", label: "commanded", colour: "s2", dash: [6, 3], steps: true },
    { column: "applied", label: "applied", colour: "s1", width: 2, steps: true },
  ],
};

class Page {
  constructor() {
    this.pool = decodeURIComponent(location.hash.slice(1)) || null;
    this.rangeS = 900;
    this.zoom = null; // [from, to] that was marked with the pointer; null: the newest
    this.points = new Map(); // pool -> the newest tick's
    this.status = null;
    this.history = new History();
    this.asking = new AbortController(); // all that is asked about the pool and time of now
    this.pools = new Pools((name) => this.select(name));
    this.standing = new Standing();
    this.decisions = new Decisions();
    this.surrogate = new Surrogate();
    this.schedule = new Schedule();
    this.charts = this.makeCharts();
    this.controls();
    this.live = new Live({
      onTick: (tick) => this.ticked(tick),
      onState: (state) => this.linked(state),
      onReconnect: () => this.reload(),
    });
    this.every(STATUS_MS, () => this.loadStatus());
    this.every(LEARNED_MS, () => this.loadLearned());
    this.every(HISTORY_MS, () => this.loadHistory());
  }

  makeCharts() {
    const shared = { window: () => this.window(), onZoom: (from, to) => this.zoomTo([from, to]) };
    this.level = new Chart(byId("level"), {
      ...LEVEL,
      ...shared,
      onDraw: (u) => this.decisions.place(u),
    });
    this.level.stage.append(this.decisions.marks);
    const within = (id, all) =>
      all.map((given) => {
        const place = make("div");
        byId(id).append(place);
        return new Chart(place, { ...given, ...shared });
      });
    return [this.level, ...within("seen", SEEN), ...within("spent", SPENT)];
  }

  controls() {
    byId("range").addEventListener("change", (event) => {
      this.rangeS = Number(event.target.value);
      this.zoomTo(null);
    });
    byId("live").addEventListener("click", () => this.zoomTo(null));
    addEventListener("hashchange", () => {
      const name = decodeURIComponent(location.hash.slice(1));
      if (this.points.has(name)) this.select(name); // the link that skips is no pool
    });
    document.addEventListener("visibilitychange", () => this.render());
    byId("theme").addEventListener("click", () => {
      const names = Object.keys(THEMES);
      const now = names.indexOf(document.documentElement.dataset.choice);
      globalThis.chooseTheme(names[(now + 1) % names.length]);
    });
    document.addEventListener("theme", () => {
      this.sayTheme();
      repaint();
    });
    this.sayTheme();
  }

  sayTheme() {
    say(byId("theme"), `Theme: ${THEMES[document.documentElement.dataset.choice]}`);
  }

  /** Now and then, unless nobody looks or there is nobody to ask. */
  every(periodMs, what) {
    setInterval(() => {
      if (!document.hidden && this.pool && this.live.state === "live") what();
    }, periodMs);
  }

  /** The span of time that the charts show, by the daemon's clock. */
  window() {
    if (this.zoom) return this.zoom;
    const newest = this.live?.newestS ?? Date.now() / 1000;
    return [newest - this.rangeS, newest];
  }

  zoomTo(span) {
    this.zoom = span;
    byId("live").hidden = span === null;
    this.reload();
  }

  select(name) {
    if (!name || name === this.pool) return;
    this.pool = name;
    this.status = null;
    this.zoom = null;
    byId("live").hidden = true;
    this.history = new History();
    this.reload();
  }

  ticked(tick) {
    this.points = new Map(tick.pools.map((point) => [point.pool, point]));
    const before = this.newest;
    if (!this.points.has(this.pool)) this.select(tick.pools[0]?.pool);
    else if (!before) this.reload(); // the first tick tells which time it is for the daemon
    this.newest = this.points.get(this.pool);
    if (!this.newest) return;
    if (!this.zoom) this.history.add(this.newest, this.window()[0]);
    const changed = before?.phase !== this.newest.phase || before?.applied !== this.newest.applied;
    if (changed && before?.pool === this.newest.pool) {
      this.loadLearned();
      this.loadDecisions();
      this.loadStatus();
    }
    say(byId("daemon"), `${location.host} · ${clock(tick.time_s)}`);
    this.render();
  }

  linked({ state, why }) {
    document.body.dataset.link = state;
    const words = { live: "● live", lost: "✕ lost", stale: "! stale", connecting: "○ connecting" };
    byId("link").dataset.state = state;
    say(byId("link"), words[state]);
    byId("lost").hidden = !why;
    say(byId("lost"), why);
  }

  /** Everything about the pool and time of now; what was asked about others is dropped. */
  reload() {
    this.asking.abort();
    this.asking = new AbortController();
    if (!this.pool) return;
    this.loadStatus();
    this.loadHistory();
    this.loadDecisions();
  }

  async ask(question, then) {
    const { signal } = this.asking;
    try {
      const answer = await question(signal);
      if (!signal.aborted) then(answer);
    } catch (error) {
      if (!signal.aborted && error.status === undefined) return; // the link tells of it
      if (!signal.aborted) then(null, error);
    }
  }

  loadStatus() {
    return this.ask(
      (signal) => api.poolStatus(this.pool, signal),
      (status) => {
        if (!status) return;
        const plan = this.status?.plan?.version;
        const first = this.status === null;
        this.status = status;
        this.live.cadenceS = status.policy.cadence_s;
        this.showStatus();
        if (first || plan !== status.plan?.version) this.loadLearned();
      },
    );
  }

  loadHistory() {
    const [from, to] = this.window();
    const points = Math.min(MOST_POINTS, Math.max(300, innerWidth));
    return this.ask(
      (signal) => api.history(this.pool, from.toFixed(3), to.toFixed(3), points, signal),
      (answer) => {
        if (answer) this.history.load(answer);
        this.render();
      },
    );
  }

  loadDecisions() {
    const [from, to] = this.window();
    return this.ask(
      async (signal) => {
        const newer = await this.decisions.load(
          this.pool,
          from.toFixed(3),
          (to + 60).toFixed(3),
          signal,
        );
        if (newer) this.render();
      },
      () => {},
    );
  }

  loadLearned() {
    if (!this.status?.plan) {
      this.surrogate.load(null);
      this.schedule.load(null);
      return;
    }
    const knob = this.status?.policy.knobs[0].name;
    const limits = limitsOf(this.status?.policy);
    this.ask(
      (signal) => api.surrogate(this.pool, signal),
      (given, error) =>
        this.surrogate.load(given, limits, error?.status === 404 ? "" : error?.message),
    );
    this.ask(
      (signal) => api.schedule(this.pool, signal),
      (given, error) =>
        this.schedule.load(
          given,
          knob,
          this.newest?.load_rps,
          error?.status === 404 ? "" : error?.message,
        ),
    );
  }

  showStatus() {
    const { status } = this;
    panels.budgets(status);
    panels.benefit(status);
    panels.policy(status, status.counters);
    panels.sensors(status);
    const limits = limitsOf(status.policy);
    for (const chart of this.charts) {
      const limit = limits[chart.quantity];
      chart.setLimits(limit === undefined ? [] : [{ label: "SLO", value: limit }]);
    }
    this.level.setNote(status.policy.knobs[0].name);
    const power = this.charts.find((chart) => chart.quantity === "power_w");
    const source = status.sample.power_source;
    power.setNote(source ? (POWER[source] ?? source) : "");
    this.render();
  }

  /** Draws once in the next frame, however often it is asked. */
  render() {
    if (this.frame || document.hidden) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    const isStale = (point) => this.live.newestS - point.time_s > this.live.allowedS;
    this.pools.show([...this.points.values()], this.pool, isStale);
    if (!this.newest) return;
    byId("waiting").hidden = true;
    byId("there").hidden = false;
    byId("pool").setAttribute("aria-busy", "false");
    this.standing.show(this.newest, this.status);
    for (const chart of this.charts) {
      chart.setData(this.history.get(["time_s", ...chart.series.map((one) => one.column)]));
    }
  }
}

new Page();
