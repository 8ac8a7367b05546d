"""What another policy would have done, in words: what is recorded, and what is only estimated."""

from poolwright.core.model import Estimate, Responses
from poolwright.core.reasons import REASONS
from poolwright.core.vocabulary import Reason
from poolwright.engine.otherwise import Choice, Stretch, WhatIf
from poolwright.surface import words

_TOLD = ("objective", "latency_p50_s", "latency_p95_s", "latency_p99_s", "jitter_s",
         "throughput_rps", "cpu_cores", "memory_bytes", "power_w", "error_ratio")  # fmt: skip
_BRIEF = ("objective", "latency_p99_s", "power_w")  # of each difference


def told_otherwise(found: WhatIf, show: int) -> list[str]:
    """The whole of a run, and its first `show` differences."""
    lines = [
        (
            f"run {found.run} of pool {found.pool}, {_span(found.span_s)}: recorded under policy "
            f"{found.recorded_policy}, decided again under {found.policy}"
        ),
        (
            f"  {found.differing} of {found.ticks} decisions would differ; "
            f"{found.moves_otherwise} moves instead of {found.moves}"
        ),
    ]
    if found.cut_before is not None:
        lines.append(
            f"  from tick {found.cut_before} on: retention dropped what was before, so both begin "
            "there, with what had been measured"
        )
    lines += [
        f"    {action}: {otherwise} instead of {recorded}"
        for action, (recorded, otherwise) in found.actions.items()
        if recorded != otherwise
    ]
    if found.first is not None:
        tick, recorded, otherwise = found.first
        lines.append(f"  the first in tick {tick}: {_said(recorded)}")
        lines.append(f"    would have been: {_said(otherwise)}")
    lines += _apart(found)
    if found.stretches and show:
        longest = sorted(found.stretches, key=lambda s: s.span_s, reverse=True)[:show]
        shown = sorted(longest, key=lambda s: s.tick)
        lines.append(f"  another setting, {_of(len(shown), len(found.stretches))}:")
        for stretch in shown:
            lines += _told(stretch)
    return lines


def _apart(found: WhatIf) -> list[str]:
    """What came of it, and how that is known."""
    if not found.stretches:
        return ["  the setting would have been the same all the time: what came of it is recorded"]
    share = found.apart_s / found.span_s if found.span_s else 0.0
    recorded, otherwise = found.outside_minutes
    lines = [f"  another setting for {_span(found.apart_s)} ({share:.1%} of the time)"]
    if found.untried_s:
        lines[0] += f", {_span(found.untried_s)} of it one that nothing was measured at"
    lines.append("  RECORDED  while the setting was the same: what came of it is what was seen")
    lines.append("  ESTIMATED while it was another: nobody saw it; these are the model's guesses")
    lines.append(
        f"    minutes outside a latency SLO of {found.policy}: {otherwise} instead of {recorded}, "
        "readings scaled by the model"
    )
    if not found.estimates:
        return [*lines, f"    none: {found.plan_fault or 'nothing had been learned yet'}"]
    lines.append(f"    typical difference (median over {_span(found.estimated_s)}), 90 % interval:")
    lines += [f"      {line}" for line in _differences(found.estimates, _TOLD)]
    kept = [(name, found.calibration[name]) for name in _TOLD if name in found.calibration]
    if kept:
        told = ", ".join(f"{words.name(name)} {share:.0%}" for name, share in kept)
        lines.append(f"    recorded windows inside the model's 90 % intervals: {told}")
    if found.plan_fault:
        lines.append(f"    a plan could not be made: {found.plan_fault}")
    if found.unlike_from is not None:
        lines.append(
            f"  this release decides otherwise than the journal from tick {found.unlike_from} on, "
            "under the recorded policy too"
        )
    return lines


def _differences(estimates: Responses, names: tuple[str, ...]) -> list[str]:
    seen = dict(estimates)
    return [f"{words.name(name)} {_signed(name, seen[name])}" for name in names if name in seen]


def _signed(quantity: str, seen: Estimate) -> str:
    """`-12 ms (-20 ms to -4 ms)`."""
    half = words.Z_90 * seen.std
    low, high = (_plus(quantity, value) for value in (seen.mean - half, seen.mean + half))
    return f"{_plus(quantity, seen.mean)} ({low} to {high})"


def _plus(quantity: str, value: float) -> str:
    sign = "-" if value < 0.0 else "+"
    return f"{sign}{words.number(quantity, abs(value))}"


def _told(stretch: Stretch) -> list[str]:
    when = f"tick {stretch.tick}, {words.utc(stretch.wall_ns)}, for {_span(stretch.span_s)}"
    seen = [
        f"{words.name(name)} {words.number(name, value)}"
        for name, value in (
            ("load_rps", stretch.load_rps),
            ("latency_p99_s", stretch.latency_p99_s),
        )
        if value is not None
    ]
    lines = [
        f"    {when}",
        f"      recorded:  {_said(stretch.recorded)}"
        + (f"; seen: {', '.join(seen)}" if seen else ""),
        f"      otherwise: {_said(stretch.otherwise)}",
    ]
    guesses = _differences(stretch.estimates, _BRIEF)
    untried = "; nothing was measured at it" if stretch.untried else ""
    lines.append(f"      estimated: {', '.join(guesses) or 'nothing'}{untried}")
    return lines


def _said(choice: Choice) -> str:
    what = choice.setting if choice.advice is None else f"{choice.setting}, advice {choice.advice}"
    moves = " (moves)" if choice.moves else ""
    return f"{choice.phase} {choice.action} {what}{moves}: {REASONS[Reason(choice.reason)]}"


def _span(span_s: float) -> str:
    if span_s < 7200.0:
        return words.seconds(span_s)
    return f"{span_s / 3600.0:.3g} h"


def _of(shown: int, all_of_them: int) -> str:
    if shown == all_of_them:
        return f"{shown} time{'s' * (shown != 1)}"
    return f"the longest {shown} of {all_of_them} times (--show N)"
