// The daemon's fixed words, each with a sign, so that no state is told by colour alone.
// A word that a later daemon adds is shown as it is.

const PHASES = {
  warmup: ["◔", "warming up", "plain"],
  explore: ["◇", "exploring", "plain"],
  converged: ["✓", "converged", "good"],
  cooldown: ["▽", "cooling down", "warn"],
  blind: ["⊘", "blind", "bad"],
  manual: ["▣", "manual", "warn"],
  paused: ["‖", "paused", "warn"],
  stood_down: ["□", "stood down", "warn"],
};

const ACTIONS = {
  hold: ["○", "held"],
  track: ["◆", "followed the plan"],
  dither: ["◇", "dithered"],
  probe: ["▲", "probed"],
  retreat: ["▼", "retreated"],
  restore: ["■", "restored"],
  compare: ["◧", "compared"],
};

// The same as the daemon's own (core/reasons.py); a test compares them.
const REASONS = {
  warming_up: "watching the baseline before the first move",
  settling: "letting the last move take effect before measuring",
  measuring: "measuring this setting",
  waiting_for_plan: "a window has closed and the learner is thinking",
  schedule: "the plan holds another setting at this load",
  best_known: "this is the best safe setting known at this load",
  no_probe_worth_it: "no safe probe is expected to gain enough",
  budget_spent: "a probe would gain, but the budget for probes is spent",
  expected_gain: "this setting is expected to be better, and safe",
  leverage: "this setting would teach most about the others, and is safe",
  slo_breach: "the latency objective is breached",
  memory_breach: "memory is above its limit",
  error_breach: "too many requests fail",
  cpu_breach: "the host's CPU is above its limit",
  queueing: "requests queue for a worker",
  cooling_down: "a guard tripped or clients queued a short time ago",
  no_data: "what the guard needs cannot be seen",
  blind_too_long: "blind for too long: back to the last safe setting",
  other_hand: "another hand moved the level; standing back until `resume`",
  reassert: "another hand moved the level; the policy says to take it back",
  plant_restarted: "the service restarted or reloaded",
  paused_by_operator: "an operator paused poolwright",
  actuation_pending: "the last move is still being made",
  actuation_failed: "the last move failed; waiting before another",
  read_back_failed: "the real level cannot be read back",
  out_of_bounds: "the level is outside the policy's bounds",
  clock_gap: "time passed without ticks; what was being measured is dropped",
  pinned: "an operator has pinned this setting",
  frozen: "the policy forbids every move for now",
  approved: "an operator approved this advice",
  rolled_back: "an operator rolled back",
  relief: "this setting breaches, and another is expected to be safer",
  quiet_time: "a probe would gain, but this is a quiet window of the policy",
  host_busy: "a probe would gain, but another pool of this host is being tried",
  budget_burns: "a probe would gain, but the error budget of the SLO is burning",
  slow_dependency: "what the service depends on is slow; workers do not help",
  pressure_breach: "tasks stall for CPU, memory or I/O above the limit",
  load_fell: "the load fell suddenly; clients may come back and retry",
  holdout: "comparing with the baseline, to see what tuning is worth",
  no_benefit: "comparisons show that tuning does not help here; the baseline is held",
};

const plain = (word) => String(word).replaceAll("_", " ");

/** {sign, text, tone} of a phase. */
export function phase(word) {
  const [sign, text, tone] = PHASES[word] ?? ["•", plain(word), "plain"];
  return { sign, text, tone };
}

/** {sign, text} of an action. */
export function action(word) {
  const [sign, text] = ACTIONS[word] ?? ["•", plain(word)];
  return { sign, text };
}

/** Why, in words, with what the daemon adds to it. */
export function reason(word, detail) {
  const text = REASONS[word] ?? plain(word);
  return detail ? `${text} (${detail})` : text;
}

/** The daemon's word without its underscores. */
export const said = plain;

/** Where watts come from, in words. */
export const POWER = {
  model: "estimated by a model",
  rapl: "RAPL, measured",
  bmc: "BMC, measured",
  hwmon: "hwmon, measured",
  nvml: "NVML, measured",
  ipmi: "IPMI, measured",
};
