"""Hypothesis strategies: policies as the core has them, all of which can be written."""

from hypothesis import strategies as st

from poolwright.core.policy import (
    Exit,
    ExploreRule,
    GuardRule,
    Knob,
    Mode,
    OtherHand,
    Override,
    Policy,
    Scale,
    Slo,
)
from poolwright.policy.relations import parse_relation

SHARES = st.floats(0.001, 1.0) | st.integers(1, 100).map(lambda n: n / 100)
SECONDS = st.floats(0.001, 3000.0) | st.sampled_from([0.25, 1.0, 30.0, 60.0, 1800.0])
LINE = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=60
).filter(str.strip).map(str.strip)  # fmt: skip
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
LATENCIES = st.sampled_from(["latency_p50_s", "latency_p90_s", "latency_p99_s", "latency_p99.9_s"])
DAY_NS = 86_400 * 10**9


@st.composite
def knobs(draw):
    made = []
    for name in sorted(draw(st.sets(st.sampled_from(["workers", "threads", "pool_size"]),
                                    min_size=1))):  # fmt: skip
        lower, step = draw(st.integers(1, 50)), draw(st.integers(1, 4))
        upper = lower + step * draw(st.integers(0, 20))
        made.append(
            Knob(
                name=name, lower=lower, upper=upper, step=step,
                slew_per_move=draw(st.integers(step, 9)),
                settle_s=draw(st.just(0.0) | st.floats(1e-6, 20)),
                drain_s=draw(SECONDS), dwell_s=draw(SECONDS),
                baseline=draw(st.none() | st.sampled_from(range(lower, upper + 1, step))),
                scale=draw(st.sampled_from(Scale)),
            )
        )  # fmt: skip
    return tuple(made)


@st.composite
def overrides(draw, made):
    """One after the other, so that none clash."""
    found = []
    for number in range(draw(st.integers(0, 3))):
        knob = draw(st.sampled_from(made))
        lower, upper = sorted(
            draw(st.tuples(*[st.integers(0, (knob.upper - knob.lower) // knob.step)] * 2))
        )
        what = draw(
            st.sampled_from(
                [
                    {"freeze": True},
                    {"pin": ((knob.name, knob.lower + lower * knob.step),)},
                    {"bounds": ((knob.name, knob.lower + lower * knob.step,
                                 knob.lower + upper * knob.step),)},
                ]
            )
        )  # fmt: skip
        since = (20_000 + number) * DAY_NS + draw(st.integers(0, DAY_NS // 2))
        until = since + draw(st.integers(1, DAY_NS // 2 - 1))
        found.append(Override(reason=draw(LINE), since_wall_ns=since, until_wall_ns=until, **what))
    return tuple(found)


# Made once: a strategy is checked when it is first drawn from.
GUARDS = st.builds(
    GuardRule, memory_ratio=SHARES, cpu_ratio=SHARES, breach_ticks=st.integers(1, 5),
    breach_of_ticks=st.integers(5, 1000), blind_s=st.floats(2.0, 1e4), cooldown_s=SECONDS,
    psi_cpu_ratio=st.none() | SHARES, psi_memory_ratio=st.none() | SHARES,
    psi_io_ratio=st.none() | SHARES, connections_ratio=SHARES, fall_ratio=SHARES,
    fall_hold_s=SECONDS, dependency_ratio=st.floats(1.01, 1000.0),
)  # fmt: skip
QUIET = ["Mon-Fri 09:00-10:00 UTC", "daily  22:00-02:00 UTC", "Sat,Sun 00:00-24:00 UTC"]
EXPLORES = st.builds(
    ExploreRule, probes_per_hour=st.floats(0, 3600), budget_ratio=SHARES, epsilon=SHARES,
    patience=st.integers(1, 99), converged_every=st.integers(1, 99),
    window_s=st.floats(20, 86400), window_jitter=st.floats(0, 0.5),
    warmup_windows=st.integers(1, 9), slo_budget_ratio=SHARES, burn_rate=st.floats(0.01, 100),
    quiet=st.lists(st.sampled_from(QUIET), max_size=3).map(tuple),
    holdout_every_s=st.just(0.0) | st.floats(260_000, 1e7),
)  # fmt: skip
WEIGHTS = st.floats(0.001, 1000)
WEIGHED = LATENCIES | st.sampled_from(["power_w", "cpu_cores", "memory_bytes", "cost_per_hour"])
OBJECTIVES = st.dictionaries(WEIGHED, WEIGHTS, min_size=1)


@st.composite
def policies(draw):
    made = draw(knobs())
    texts = [f"{made[0].name} <= 1000", f"3*{made[0].name} >  {made[-1].name} - 1000"]
    slos = [
        *(Slo(response=name, below=draw(SECONDS), confidence=draw(st.floats(0.51, 0.999)))
          for name in sorted(draw(st.sets(LATENCIES)))),
        *draw(st.sampled_from([[], [Slo(response="error_ratio", below=draw(SHARES))],
                               [Slo(response="jitter_s", below=draw(SECONDS))]])),
    ]  # fmt: skip
    return Policy(
        name=draw(NAMES),
        knobs=made,
        objective=tuple(sorted(draw(OBJECTIVES).items())),
        slo=tuple(sorted(slos, key=lambda slo: slo.response)),
        relations=tuple(map(parse_relation, draw(st.lists(st.sampled_from(texts), max_size=2)))),
        overrides=draw(overrides(made)),
        prices=(("core_hour", draw(WEIGHTS)), ("kwh", draw(WEIGHTS))),
        guard=draw(GUARDS),
        explore=draw(EXPLORES),
        mode=draw(st.sampled_from(Mode)),
        on_other_hand=draw(st.sampled_from(OtherHand)),
        exit=draw(st.sampled_from(Exit)),
        cadence_s=draw(st.floats(0.1, 2.0)),
        seed=draw(st.integers(0, 2**40)),
    )
