"""What one host has learned, as a file for another."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots as make

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Evidence
from poolwright.core.policy import Knob
from poolwright.journal.prior import encode_prior, read_prior

SEEN = tuple(
    Evidence(observation=make.observation(level, p99), weight=weight)
    for level, p99, weight in ((4, 0.19, 1.0), (5, 0.17, 0.5))
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "prior.json"
    path.write_bytes(encode_prior("web", make.POLICY, SEEN))
    return path


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


def test_what_is_written_is_read(written):
    assert read_prior(written, make.POLICY) == SEEN
    told = json.loads(written.read_text())
    assert told["knobs"] == ["workers"]
    assert told["units"]["latency_p99_s"] == "s"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"version": 2}, "poolwright-prior 2, not poolwright-prior 1"),
        ({"format": "cookbook"}, "cookbook 1, not poolwright-prior 1"),
        ({"knobs": ["threads"]}, "learned of the knobs threads; policy .* has workers"),
        ({"units": {"latency_p99_s": "ms"}}, "latency_p99_s is in ms, and in s here"),
        ({"surprise": 1}, "no prior of poolwright: .*surprise"),
        ({"evidence": [{"weight": 1.0}]}, "no prior of poolwright: .*observation"),
    ],
)
def test_another_version_other_knobs_and_other_units_are_refused(written, values, why):
    with pytest.raises(PolicyError, match=why) as refused:
        read_prior(changed(written, **values), make.POLICY)
    assert str(written) in str(refused.value)


def test_a_window_at_what_is_no_setting_is_refused(written):
    told = json.loads(written.read_text())
    told["evidence"][0]["observation"]["setting"]["levels"] = [["threads", 4]]
    with pytest.raises(PolicyError, match="a window at threads=4"):
        read_prior(changed(written, evidence=told["evidence"]), make.POLICY)


def test_what_is_no_json_or_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "prior.json"
    with pytest.raises(PlantFault, match=r"prior\.json: cannot be read"):
        read_prior(path, make.POLICY)
    path.write_text("workers: 4")
    with pytest.raises(PolicyError, match="no prior of poolwright"):
        read_prior(path, make.POLICY)
    path.write_bytes(b" " * (4 * 2**20 + 1))
    with pytest.raises(PolicyError, match="larger than"):
        read_prior(path, make.POLICY)


def test_knobs_may_have_other_bounds(written):
    wide = replace(make.POLICY, knobs=(Knob(name="workers", lower=1, upper=500),))
    assert read_prior(written, wide) == SEEN
