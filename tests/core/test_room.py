"""Before anything is added: is there memory, CPU and are there connections for it?"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticks import policy

from poolwright.core.model import ClampKind, setting
from poolwright.core.policy import GuardRule, Knob
from poolwright.core.room import needs, room_allows
from poolwright.core.sample import Sample

RULE = policy(guard=GuardRule(memory_ratio=0.85, connections_ratio=0.90))
# Four workers of 100 MB and half a core each, on a host with 8 GB of which 1 GB is used.
ROOMY = Sample(
    tick=0,
    dt_s=1.0,
    memory_bytes=400e6,
    memory_limit_bytes=8e9,
    host_memory_used_bytes=1e9,
    cpu_cores=2.0,
)


def allowed(sample, wanted=10, applied=4, rule=RULE, **more):
    """How many workers, and the kinds of limit that were met."""
    found, clamps = room_allows(
        sample, rule, setting(workers=applied), setting(workers=wanted), **more
    )
    return found["workers"], [c.kind for c in clamps]


def test_where_there_is_room_everything_is_allowed():
    assert allowed(ROOMY) == (10, [])


def test_memory_is_forecast_before_a_worker_is_added():
    """php s2i issue 416 and crawlee issue 1535: a pool that grew until it was killed."""
    tight = replace(ROOMY, host_memory_used_bytes=6.8e9 - 310e6)
    assert allowed(tight) == (6, [ClampKind.MEMORY])  # 310 MB are two workers of 1.5 * 100 MB


def test_a_worker_is_forecast_to_take_more_than_the_mean_for_it_has_yet_to_warm_up():
    bare = replace(ROOMY, host_memory_used_bytes=6.8e9 - 140e6)
    assert allowed(bare) == (4, [ClampKind.MEMORY])


def test_the_caution_costs_at_most_half_a_worker_once_the_others_are_warm():
    workers = 4
    for _ in range(20):
        own = workers * 100e6
        now = replace(ROOMY, memory_bytes=own, host_memory_used_bytes=5e9 + own)
        workers, _ = allowed(now, 100, workers)
    assert workers == 17  # of 18.0 that would fit below 85 % of 8 GB


def test_memory_above_the_guard_allows_nothing_more_and_takes_nothing_away():
    full = replace(ROOMY, host_memory_used_bytes=7.9e9)
    assert allowed(full) == (4, [ClampKind.MEMORY])
    assert allowed(full, wanted=2) == (2, [])


def test_memory_that_all_pools_share_may_be_the_tighter_limit():
    assert allowed(ROOMY, room_bytes=300e6) == (6, [ClampKind.MEMORY])
    assert allowed(ROOMY, room_bytes=-1.0) == (4, [ClampKind.MEMORY])


def test_cpu_that_all_pools_share_limits_growth():
    assert allowed(ROOMY, room_cores=1.4) == (6, [ClampKind.CPU])
    assert allowed(ROOMY, room_cores=0.0) == (4, [ClampKind.CPU])
    assert allowed(ROOMY, room_cores=8.0) == (10, [])


def test_without_a_shared_budget_unknown_cpu_does_not_matter():
    assert allowed(replace(ROOMY, cpu_cores=None)) == (10, [])


def test_connections_are_kept_below_what_the_dependency_accepts():
    """puma_auto_tune issue 7, pgbouncer issue 103: each worker takes its share of them."""
    database = replace(ROOMY, connections=80.0, connections_limit=100.0)
    assert allowed(database, 100, 40) == (45, [ClampKind.CONNECTIONS])  # two each, up to ninety
    assert allowed(replace(database, connections=95.0), 100, 40) == (40, [ClampKind.CONNECTIONS])


def test_a_worker_without_a_connection_in_a_lull_will_take_one():
    lull = replace(ROOMY, connections=0.0, connections_limit=10.0)
    assert allowed(lull, 20) == (13, [ClampKind.CONNECTIONS])


def test_connections_that_nobody_watches_are_no_limit():
    assert allowed(replace(ROOMY, missing=("power_w",))) == (10, [])


@pytest.mark.parametrize(
    "unseen",
    [
        {"host_memory_used_bytes": None},
        {"memory_limit_bytes": None},
        {"memory_bytes": None},
        {"memory_bytes": 0.0},  # crawlee issue 1535: no pool takes no memory
        {"connections": 3.0},
        {"connections_limit": 100.0},
        {"missing": ("connections",)},
        {"missing": ("connections_limit",), "connections": 3.0},
    ],
)
def test_without_the_numbers_that_a_limit_needs_nothing_grows(unseen):
    blind = replace(ROOMY, **unseen)
    assert allowed(blind)[0] == 4
    assert allowed(blind)[1]
    assert allowed(blind, held_before=True) == (10, [])
    assert allowed(blind, wanted=2) == (2, [])


def test_without_the_own_share_of_a_shared_budget_nothing_grows():
    assert allowed(replace(ROOMY, cpu_cores=None), room_cores=9.0) == (4, [ClampKind.CPU])
    blind = replace(ROOMY, memory_bytes=None)
    assert allowed(blind, room_bytes=9e9) == (4, [ClampKind.MEMORY])


def test_a_pool_without_workers_has_no_mean_and_only_goes_back_to_what_it_had():
    assert allowed(ROOMY, applied=0)[0] == 0
    assert allowed(ROOMY, applied=0, held_before=True)[0] == 10


def test_what_was_held_before_is_still_no_reason_to_run_out_of_memory():
    tight = replace(ROOMY, host_memory_used_bytes=6.8e9 - 310e6)
    assert allowed(tight, held_before=True) == (6, [ClampKind.MEMORY])


def test_every_limit_that_was_met_is_written_down():
    tight = replace(ROOMY, host_memory_used_bytes=6.8e9 - 610e6)
    found, clamps = room_allows(
        tight, RULE, setting(workers=4), setting(workers=10), room_cores=1.1
    )
    assert found == setting(workers=6)
    assert [(c.kind, c.knob, c.wanted, c.allowed) for c in clamps] == [
        (ClampKind.MEMORY, "workers", 10, 8),
        (ClampKind.CPU, "workers", 8, 6),
    ]


def test_what_fits_is_rounded_down_to_the_lattice():
    steps = replace(RULE, knobs=(Knob(name="workers", lower=1, upper=31, step=3),))
    assert allowed(ROOMY, 16, 4, steps, room_cores=2.9) == (7, [ClampKind.CPU])  # 9.8 would fit


TWO = replace(
    RULE,
    knobs=(Knob(name="threads", lower=1, upper=64), Knob(name="workers", lower=1, upper=64)),
)


def test_knobs_multiply_and_share_the_room():
    before, after = setting(threads=2, workers=4), setting(threads=4, workers=8)
    assert needs(ROOMY, before, after) == pytest.approx((1.5 * 3 * 400e6, 6.0))
    found, clamps = room_allows(ROOMY, TWO, before, after, room_cores=3.2)
    assert found == setting(threads=4, workers=5)  # two cores for the threads, one for a worker
    assert [c.knob for c in clamps] == ["workers"]


def test_what_one_knob_gives_back_is_not_counted_on_while_it_drains():
    before, after = setting(threads=4, workers=4), setting(threads=2, workers=8)
    found, _ = room_allows(ROOMY, TWO, before, after, room_cores=1.0)
    assert found == setting(threads=4, workers=6), "and half of a trade is no trade"


def test_a_trade_is_allowed_that_is_known_to_take_no_more():
    before, after = setting(threads=2, workers=8), setting(threads=4, workers=4)
    tight = replace(ROOMY, host_memory_used_bytes=6.8e9 - 100e6)
    assert room_allows(tight, TWO, before, after)[0] == before
    assert room_allows(tight, TWO, before, after, held_bytes=450e6)[0] == after
    assert room_allows(tight, TWO, before, after, held_bytes=480e6)[0] == before
    full = replace(ROOMY, host_memory_used_bytes=7.9e9)
    assert room_allows(full, TWO, before, after, held_bytes=390e6)[0] == after


def test_the_way_back_to_more_of_one_knob_is_not_forecast_by_a_product():
    """18 workers of 1 thread held half of the memory; with 3 threads they took a tenth more."""
    before, after = setting(threads=1, workers=18), setting(threads=3, workers=18)
    half = replace(ROOMY, memory_bytes=3.4e9, host_memory_used_bytes=3.5e9)
    assert room_allows(half, TWO, before, after)[0] == before
    assert room_allows(half, TWO, before, after, held_bytes=3.8e9)[0] == after
    assert room_allows(half, TWO, before, after, held_bytes=6.0e9)[0] == before
    # More is in use now than the larger setting took then: it leaks, and that was another time.
    assert room_allows(half, TWO, before, after, held_bytes=3.0e9)[0] == before


def test_a_growth_needs_what_it_is_forecast_to_take_and_a_shrink_nothing():
    four, six = setting(workers=4), setting(workers=6)
    assert needs(ROOMY, four, six) == pytest.approx((1.5 * 200e6, 1.0))
    assert needs(ROOMY, six, four) == (0.0, 0.0)
    assert needs(replace(ROOMY, memory_bytes=None, cpu_cores=None), four, six) == (0.0, 0.0)
    assert needs(ROOMY, setting(workers=0), six) == (0.0, 0.0)


LEVELS = st.builds(
    lambda threads, workers: setting(threads=threads, workers=workers),
    st.integers(1, 20),
    st.integers(1, 20),
)
WHOLE = st.builds(
    lambda **seen: Sample(tick=0, dt_s=1.0, **seen),
    memory_bytes=st.floats(1e6, 4e9),
    memory_limit_bytes=st.floats(8e9, 9e9),
    host_memory_used_bytes=st.floats(1e9, 8e9),
    cpu_cores=st.floats(0.0, 2.0),
    connections=st.floats(0.0, 20.0),
    connections_limit=st.floats(20.0, 300.0),
)
ROOM_BYTES = st.one_of(st.none(), st.floats(-1e9, 1e10))
ROOM_CORES = st.one_of(st.none(), st.floats(-1.0, 64.0))


def size(found):
    return found["threads"] * found["workers"]


@settings(max_examples=300)  # growth is allowed in about one of ten
@given(WHOLE, LEVELS, LEVELS, ROOM_BYTES, ROOM_CORES)
def test_no_growth_passes_any_limit(sample, before, after, room_bytes, room_cores):
    found, clamps = room_allows(
        sample, TWO, before, after, room_bytes=room_bytes, room_cores=room_cores
    )
    held = {n: max(level, before[n]) for n, level in found.levels}  # what shrinks may yet drain
    more = held["threads"] * held["workers"] / size(before) - 1.0
    for name, level in found.levels:
        assert min(before[name], after[name]) <= level <= after[name] or level == before[name]
    assert (found != after) == bool(clamps)
    if more <= 0.0:
        return
    slack = 1.0 + 1e-9
    used, limit, own = sample.host_memory_used_bytes, sample.memory_limit_bytes, sample.memory_bytes
    assert used + own * more <= RULE.guard.memory_ratio * limit * slack
    assert room_bytes is None or own * more <= room_bytes * slack
    assert room_cores is None or sample.cpu_cores * more <= room_cores * slack
    taken = sample.connections * (1.0 + more)
    assert taken <= RULE.guard.connections_ratio * sample.connections_limit * slack


@given(WHOLE, LEVELS, LEVELS, st.data())
def test_less_data_never_allows_more(sample, before, after, data):
    lost = data.draw(
        st.sets(
            st.sampled_from(
                [
                    "memory_bytes", "memory_limit_bytes", "host_memory_used_bytes", "cpu_cores",
                    "connections", "connections_limit",
                ]
            )
        )
    )  # fmt: skip
    less = replace(sample, missing=tuple(sorted(lost)), **dict.fromkeys(lost))
    room = {"room_bytes": 1e9, "room_cores": 4.0}
    seen, _ = room_allows(sample, TWO, before, after, **room)
    unseen, _ = room_allows(less, TWO, before, after, **room)
    for name, level in unseen.levels:
        assert level <= max(seen[name], before[name])


@given(WHOLE, LEVELS, LEVELS)
def test_a_growth_that_is_allowed_needs_no_more_than_there_is_room_for(sample, before, after):
    found, _ = room_allows(sample, TWO, before, after, room_bytes=1e9, room_cores=4.0)
    taken_bytes, taken_cores = needs(sample, before, found)
    assert taken_bytes <= 1e9 * (1 + 1e-9)
    assert taken_cores <= 4.0 * (1 + 1e-9)
