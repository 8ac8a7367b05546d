// The stream of ticks, and the truth about it: live, stale (the daemon answers, and makes no
// ticks), or lost. Old figures are never shown as if they were live.

import * as api from "./api.js";
import { clock } from "./units.js";

const RETRY_S = [1, 2, 4, 8]; // after the stream was closed for good; the last one repeats
const STALE_CADENCES = 5; // the same as the daemon's own /healthz
const LOOK_MS = 500;

/** Calls `onTick(event)` for each tick, `onState({state, why})` whenever that changes. */
export class Live {
  constructor({ onTick, onState, onReconnect }) {
    Object.assign(this, { onTick, onState, onReconnect });
    this.cadenceS = 1;
    this.newestS = null; // of the newest tick, by the daemon's clock
    this.arrivedMs = null; // the same by ours; a clock that is set does not matter
    this.refused = 0;
    this.wasLost = false;
    this.state = "connecting";
    setInterval(() => this.look(), LOOK_MS);
    this.connect();
  }

  /** How old what is shown as live may be. */
  get allowedS() {
    return STALE_CADENCES * this.cadenceS;
  }

  connect() {
    this.stream = api.events();
    this.stream.addEventListener("open", () => this.opened());
    this.stream.addEventListener("tick", (event) => this.ticked(JSON.parse(event.data)));
    this.stream.addEventListener("error", () => this.broke());
  }

  opened() {
    this.refused = 0;
    this.arrivedMs = performance.now(); // the first tick has its time from here
    if (this.wasLost) this.onReconnect();
    this.wasLost = false;
  }

  ticked(tick) {
    this.newestS = tick.time_s;
    this.arrivedMs = performance.now();
    this.tell("live");
    this.onTick(tick);
  }

  /** The browser tries again by itself, unless the daemon answered with an error. */
  broke() {
    this.wasLost = true;
    this.tell("lost");
    if (this.stream.readyState === EventSource.CLOSED) {
      const waitS = RETRY_S[Math.min(this.refused, RETRY_S.length - 1)];
      this.refused += 1;
      setTimeout(() => this.connect(), waitS * 1000);
    }
  }

  look() {
    const open = this.stream.readyState === EventSource.OPEN;
    if (open && performance.now() - this.arrivedMs > this.allowedS * 1000) {
      this.tell("stale");
    }
  }

  tell(state) {
    if (state === this.state) return;
    this.state = state;
    const of = this.newestS === null ? "" : ` What is shown is of ${clock(this.newestS)}.`;
    const why = {
      lost: `The connection to the daemon is lost. Trying again.${of}`,
      stale: `The daemon is there, and makes no ticks.${of}`,
    };
    this.onState({ state, why: why[state] ?? "" });
  }
}
