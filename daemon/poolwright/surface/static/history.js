// What the charts are drawn from: columns over time, filled by the daemon's history and carried on
// by its ticks.

export const COLUMNS = [
  "time_s",
  "wanted",
  "commanded",
  "applied",
  "load_rps",
  "latency_p50_s",
  "latency_p95_s",
  "latency_p99_s",
  "jitter_s",
  "cpu_cores",
  "memory_bytes",
  "power_w",
  "error_ratio",
];
const LEVELS = new Set(["wanted", "commanded", "applied"]);
const WORST = new Set(["latency_p95_s", "latency_p99_s"]);

/** A bucket's value after one more tick: the worst, the last or the mean, as the daemon does. */
function folded(name, before, value, count) {
  if (value === null || before === null) return value ?? before;
  if (WORST.has(name)) return Math.max(before, value);
  return LEVELS.has(name) ? value : before + (value - before) / count;
}

export class History {
  constructor() {
    this.columns = Object.fromEntries(COLUMNS.map((name) => [name, []]));
    this.stepS = 1;
    this.count = 1; // ticks in the newest bucket
  }

  /** What the daemon answered; columns that it lacks are not known. */
  load(answer) {
    for (const name of COLUMNS) {
      this.columns[name] = answer[name] ?? answer.time_s.map(() => null);
    }
    this.stepS = answer.step_s || 1;
    this.count = this.stepS; // about; it ends with this bucket
  }

  /** One tick: into the newest bucket, or a new one. What is before `fromS` is forgotten. */
  add(point, fromS) {
    const times = this.columns.time_s;
    const last = times.length - 1;
    const beginS = Math.floor(point.time_s / this.stepS) * this.stepS;
    if (last >= 0 && beginS < times[last]) return;
    const opens = last < 0 || beginS > times[last];
    this.count = opens ? 1 : this.count + 1;
    for (const name of COLUMNS) {
      const column = this.columns[name];
      const value = name === "time_s" ? beginS : (point[name] ?? null);
      if (opens) column.push(value);
      else if (name !== "time_s") column[last] = folded(name, column[last], value, this.count);
    }
    const keep = times.findIndex((time) => time >= fromS - this.stepS);
    if (keep > 0) for (const name of COLUMNS) this.columns[name].splice(0, keep);
  }

  get(names) {
    return names.map((name) => this.columns[name]);
  }
}
