"""What demo and convergence bench make of the seconds that they saw, and how it is shown."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from snapshots import POLICY, pool_snapshot

from poolwright.core.model import Phase, Reading, Status
from poolwright.core.policy import Policy, Slo
from poolwright.core.sketch import sketch_of
from poolwright.demo import run, view
from poolwright.demo.loadgen import Report
from poolwright.demo.stats import Second, objective, references, second_of, summarise

DEMO = replace(
    POLICY,
    objective=(("jitter_s", 0.2), ("latency_p99_s", 1.0), ("memory_bytes", 0.2), ("power_w", 0.3)),
)


def report(elapsed_s, latencies, **more):
    seen = sketch_of(latencies)
    return Report(
        **{
            "elapsed_s": elapsed_s,
            "intended": len(latencies),
            "sent": len(latencies),
            "completed": len(latencies),
            "errors": {},
            "in_flight": 0,
            "p50_s": None,
            "p95_s": None,
            "p99_s": None,
            "mean_s": None,
            "jitter_s": None,
            "lateness_mean_s": 0.001,
            "lateness_max_s": 0.002,
            "latency": seen,
        }
        | more
    )


def second(i, latencies, workers=5, **more):
    return Second(
        report=report(float(i + 1), latencies),
        ended_mono_ns=(i + 1) * 1_000_000_000,
        workers=workers,
        **{"cpu_cores": 1.0, "memory_bytes": 1e8, "power_w": 20.0, "power_source": "model"} | more,
    )


def test_a_second_takes_only_good_readings():
    readings = (
        Reading(signal="cpu_cores", source="tree", value=1.5),
        Reading(signal="memory_bytes", source="tree", status=Status.ERROR),
        Reading(signal="power_w", source="model", value=9.0, std=2.0, estimated=True),
    )
    seen = second_of(report(1.0, [0.1]), 17, 4, readings)
    assert (seen.cpu_cores, seen.memory_bytes, seen.power_w) == (1.5, None, 9.0)
    assert (seen.power_std_w, seen.power_source, seen.workers) == (2.0, "model", 4)


def test_a_summary_adds_requests_and_averages_seconds():
    seconds = [second(0, [0.1] * 99 + [0.5]), second(1, [0.1] * 100, cpu_cores=2.0, workers=7)]
    seen = summarise(seconds, 0.25)
    assert seen.p50_s == pytest.approx(0.1, rel=0.01)
    assert seen.p99_s == pytest.approx(0.1, rel=0.01)
    assert seen.jitter_s == pytest.approx(0.4 * math.sqrt(199) / 200, rel=1e-6)
    assert (seen.cpu_cores, seen.workers, seen.throughput_rps) == (1.5, 6.0, 100.0)
    assert seen.breach_ratio is None, "no whole block of five seconds"


def test_what_was_not_seen_is_not_a_number():
    blank = second(0, [], cpu_cores=None, memory_bytes=None, power_w=None, power_source="")
    seen = summarise([blank], 0.25)
    assert (seen.p99_s, seen.jitter_s, seen.cpu_cores, seen.memory_bytes) == (None,) * 4
    with pytest.raises(ValueError, match="was not seen"):
        objective(DEMO, seen, dict.fromkeys((r for r, _ in DEMO.objective), 1.0))
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([], None)


def test_breaches_are_counted_in_blocks():
    slow, fast = [0.3] * 80, [0.1] * 80
    seconds = [second(i, slow if 5 <= i < 10 else fast) for i in range(22)]
    assert summarise(seconds, 0.25).breach_ratio == pytest.approx(0.25)
    assert summarise(seconds, None).breach_ratio is None


def test_errors_add_up_by_kind():
    first = replace(second(0, [0.1]), report=report(1.0, [0.1], errors={"timeout": 2}))
    then = replace(second(1, [0.1]), report=report(2.0, [0.1], errors={"timeout": 1, "refused": 4}))
    seen = summarise([first, then], None)
    assert seen.errors == (("refused", 4), ("timeout", 3))
    assert seen.error_count == 7


def test_the_objective_is_by_the_bound_and_by_the_baseline():
    base = summarise([second(0, [0.5] * 80)], 0.25)
    best = summarise([second(0, [0.2] * 80, memory_bytes=2e8, power_w=30.0)], 0.25)
    divide_by = references(DEMO, base)
    assert divide_by == {
        "jitter_s": 0.25,
        "latency_p99_s": 0.25,
        "memory_bytes": 1e8,
        "power_w": 20.0,
    }
    assert objective(DEMO, base, divide_by) == pytest.approx(2.0 + 0.2 + 0.3, rel=0.02)
    assert objective(DEMO, best, divide_by) == pytest.approx(0.8 + 0.4 + 0.45, rel=0.02)
    dark = summarise([second(0, [0.5] * 80, power_w=0.0)], 0.25)
    with pytest.raises(ValueError, match="power_w"):
        references(DEMO, dark)


def state_of(policy: Policy, moved_at=20, total=60):
    """Five workers and 0.5 s up to second 20, then eight and 0.2 s; the daemon sees 10 % less."""
    watch = run.Watch("127.0.0.1:1")
    state = run.State(options=run.Options(seconds=total), policy=policy, watch=watch)
    for i in range(total):
        late = i >= moved_at
        state.seconds.append(second(i, [0.2 if late else 0.5] * 80, workers=8 if late else 5))
        watch.ticks[i] = run.Seen(
            mono_ns=i * 1_000_000_000 + 500_000_000,
            phase=Phase.CONVERGED if i >= 40 else Phase.EXPLORE,
            workers=5,
            moved=i == moved_at,
            latency=sketch_of([0.18 if late else 0.45] * 80),
        )
    return state


def test_before_ends_with_the_first_move_and_after_is_the_end():
    out = run.outcome(state_of(DEMO), Path("/j/journal.db"), 40_000_000)
    assert out.before.p99_s == pytest.approx(0.5, rel=0.02)
    assert out.after.p99_s == pytest.approx(0.2, rel=0.02)
    assert (out.before.seconds, out.after.seconds, out.whole.seconds) == (17, 20, 60)
    assert (out.final, out.converged_s, out.settled_s) == (8, 40.0, 20.0)
    assert out.agreement_before.ratio == pytest.approx(0.9, rel=0.03)
    assert out.agreement_after.ratio == pytest.approx(0.9, rel=0.03)
    assert (out.ticks_seen, out.ticks_missed) == (60, 0)
    assert out.explain == "poolwright explain demo --journal /j/journal.db"
    assert out.objective_after < out.objective_before


def test_a_gap_in_the_ticks_is_told():
    state = state_of(DEMO)
    del state.watch.ticks[7], state.watch.ticks[8]
    assert run.outcome(state, Path("j"), None).ticks_missed == 2


def test_no_baseline_no_comparison():
    with pytest.raises(run.PlantFault, match="nothing to compare"):
        run.outcome(state_of(DEMO, moved_at=2), Path("j"), None)


def test_the_table_shows_both_and_says_what_is_not_known():
    console = Console(file=io.StringIO(), width=100)
    out = run.outcome(state_of(DEMO), Path("j"), None)
    console.print(view.table_of(out))
    text = console.file.getvalue()
    for words in ("latency p99", "before (17 s)", "after (20 s)", "objective", "-60%"):
        assert words in text
    assert re.search(r"latency p99 +. +(49\d|50\d) ms . +(19\d|20\d) ms", text)
    told = "\n".join(view.notes(replace(out, agreement_after=None, converged_s=None)))
    assert "after not seen" in told
    assert "converged: not in this run" in told


def test_the_plain_view_repeats_nothing():
    console = Console(file=io.StringIO(), width=200)
    plain, state = view.Plain(console), state_of(DEMO)
    state.watch.events += [(1.0, "one"), (2.0, "two")]
    plain.show(state)
    state.watch.events.append((3.0, "three"))
    plain.show(state)
    lines = console.file.getvalue()
    assert [lines.count(word) for word in ("one", "two", "three")] == [1, 1, 1]
    assert "  60 s  " in lines


def test_the_lively_view_shows_what_the_model_believes():
    state = state_of(DEMO)
    console = Console(file=io.StringIO(), width=110)
    console.print(view.picture(state))
    assert "nothing yet: watching the baseline" in console.file.getvalue()
    seen = pool_snapshot()
    state.watch.pool = seen
    console.print(view.picture(state))
    text = console.file.getvalue()
    assert "60 of 60 s" in text
    assert "158 ms" in text, "the daemon's own p99"
    for candidate in seen.plan.candidates:
        assert f"{candidate.setting['workers']:3d}" in text
        assert candidate.verdict.value.replace("_", " ") in text
    assert "█" in text
    assert "±" in text


def test_the_slo_that_is_not_there():
    without = replace(DEMO, slo=(Slo(response="error_ratio", below=0.01),))
    base = summarise([second(0, [0.5] * 79 + [0.6])], None)
    assert references(without, base)["latency_p99_s"] == base.p99_s
