"""A daemon that is started with what another host has learned, beside a real gunicorn."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots as make
from gunicorn_service import until
from initialised import free_udp_port
from test_daemon import daemon_of

from poolwright.core.model import Evidence
from poolwright.journal.prior import encode_prior
from poolwright.journal.query import JournalReader
from poolwright.sensors.access_log import gunicorn_flags

pytestmark = pytest.mark.e2e
__all__ = ["daemon_of"]  # a fixture

THERE = tuple(Evidence(observation=make.observation(level, 0.2)) for level in (4, 6))


def test_the_run_begins_with_the_prior_and_nothing_of_it_counts_as_seen(
    gunicorn_service, daemon_of
):
    syslog = free_udp_port()
    served = gunicorn_service(workers=3, flags=gunicorn_flags(f"127.0.0.1:{syslog}"))
    daemon = daemon_of(served, "one", syslog=syslog)
    prior = daemon.folder / "web.prior.json"
    prior.write_bytes(encode_prior("web", make.POLICY, THERE))
    written = daemon.config.read_text()
    assert written.count("- name: web\n") == 1
    daemon.config.write_text(
        written.replace("- name: web\n", f"- name: web\n    prior: {prior.name}\n")
    )
    daemon.start()
    until(lambda: daemon.status()["tick"]["index"] > 2, 60.0, "it ticks")
    daemon.stop()
    with JournalReader(daemon.journal) as reader:
        _, resume = reader.start_of(reader.runs()[-1].id)
        assert resume.prior == THERE
        assert resume.evidence == ()
        known = reader.known_of("web")
        assert known.evidence == ()
        assert known.last_safe is None
