"""What every setting would give at a load, and up to what load an SLO holds."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from learn_loop import SLO_S, policy, request
from plants import MIB, Plant, window

from poolwright.core.model import setting
from poolwright.core.policy import Slo
from poolwright.learn.front import front_of

PLANT = Plant()
LEVELS = (5, 6, 7, 8, 9, 10, 12)


@pytest.fixture(scope="module")
def seen():
    rng = np.random.default_rng(1)
    loads = (60.0, 80.0, 100.0)
    return [window(PLANT, rng, 10 * k, level, loads[k % 3]) for k, level in enumerate(LEVELS * 6)]


def by_level(front):
    return {outlook.setting["workers"]: outlook for outlook in front.outlooks}


def test_nothing_on_the_front_is_beaten_in_everything(seen):
    front = front_of(request(seen, setting(workers=7)))
    assert front.load_rps == 80.0
    assert set(front.responses) >= {"latency_p99_s", "throughput_rps", "memory_bytes"}
    found = by_level(front)
    assert sorted(found) == list(range(1, 25))
    values = {level: dict(o.predictions) for level, o in found.items()}
    for level, outlook in found.items():
        beaten = [
            other
            for other in found
            if values[other]["latency_p99_s"].mean < 0.98 * values[level]["latency_p99_s"].mean
            and values[other]["memory_bytes"].mean < 0.98 * values[level]["memory_bytes"].mean
            and values[other]["power_w"].mean < 0.98 * values[level]["power_w"].mean
            and values[other]["jitter_s"].mean < 0.98 * values[level]["jitter_s"].mean
            and values[other]["throughput_rps"].mean > 0.999 * values[level]["throughput_rps"].mean
        ]
        assert not (outlook.front and beaten), (level, beaten)
    assert found[1].front, "nothing takes less memory"
    assert not found[24].front
    assert found[8].octaves == 0.0 < found[24].octaves


def test_what_does_not_fit_the_memory_is_neither_safe_nor_on_the_front(seen):
    roomy = by_level(front_of(request(seen, setting(workers=7))))
    limit = dict(roomy[9].predictions)["memory_bytes"].mean + MIB
    tight = by_level(front_of(request(seen, setting(workers=7), memory_limit_bytes=limit)))
    assert roomy[10].safe
    assert all(tight[level].safe == roomy[level].safe for level in range(1, 9))
    assert not any(tight[level].safe or tight[level].front for level in range(10, 25))


def test_the_room_is_the_load_up_to_which_the_slo_holds(seen):
    asked = request(seen, setting(workers=7))
    front = front_of(asked)
    assert front.room_rps > 100.0
    at_it = front_of(asked, front.room_rps)
    assert any(outlook.safe for outlook in at_it.outlooks)
    assert not any(outlook.safe for outlook in front_of(asked, 1.05 * front.room_rps).outlooks)
    strict = replace(
        policy(), slo=(Slo(response="latency_p99_s", below=0.7 * SLO_S, confidence=0.9),)
    )
    assert front_of(replace(asked, policy=strict)).room_rps < front.room_rps


def test_more_load_takes_more_and_far_beyond_all_experience_nothing_is_held(seen):
    asked = request(seen, setting(workers=7))
    smallest = [
        min(level for level, o in by_level(front_of(asked, load)).items() if o.safe)
        for load in (40.0, 80.0, 110.0)
    ]
    assert smallest == sorted(smallest)
    assert smallest[0] < smallest[-1]
    assert front_of(asked).held is not None
    assert front_of(asked, 1000.0).held is None


def test_a_load_that_nothing_holds_leaves_no_room(seen):
    hopeless = replace(policy(), slo=(Slo(response="latency_p99_s", below=0.001),))
    front = front_of(replace(request(seen, setting(workers=7)), policy=hopeless))
    assert (front.room_rps, front.room, front.room_open) == (None, None, False)
    assert not any(outlook.safe for outlook in front.outlooks)


def test_room_that_was_not_looked_for_further_is_said_to_be_open(seen):
    asked = request(seen, setting(workers=7))
    assert not front_of(asked).room_open
    anything = replace(policy(), slo=(Slo(response="latency_p99_s", below=1e6),))
    assert front_of(replace(asked, policy=anything)).room_open


def test_without_evidence_it_says_so():
    with pytest.raises(ValueError, match="no usable evidence"):
        front_of(request([], setting(workers=7)))
