// What uPlot does not draw by itself, on its canvas.

import { style } from "./dom.js";

const font = (ratio) => `${11 * ratio}px system-ui, sans-serif`;

/** A dotted line at a height, across the plot; with words above it, if any are given. */
export function flat(u, value, words = "") {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const y = u.valToPos(value, "y", true);
  if (y < bbox.top || y > bbox.top + bbox.height) return;
  ctx.save();
  ctx.strokeStyle = style("--bad");
  ctx.fillStyle = style("--bad");
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  ctx.lineWidth = ratio;
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.font = font(ratio);
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillText(words, bbox.left + 4 * ratio, y - 4 * ratio);
  ctx.restore();
}

/** A vertical line through the plot, with its name at the top. */
export function upright(u, x, words, colour, dash, row) {
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
  ctx.font = font(ratio);
  ctx.textBaseline = "top";
  const right = at > bbox.left + bbox.width * 0.7;
  ctx.textAlign = right ? "right" : "left";
  ctx.fillText(words, at + (right ? -4 : 4) * ratio, bbox.top + (2 + 14 * row) * ratio);
  ctx.restore();
}

/** Slanting lines over what is not safe. */
export function hatch(u, fromX, toX) {
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
