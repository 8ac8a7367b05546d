"""What daemons and pools of one host share, on real gunicorns: one experiment at a time between
daemons, and one budget of memory between pools.
"""

import subprocess
import sys
import time
from itertools import pairwise, product

import psutil
import pytest
from gunicorn_service import until
from initialised import free_udp_port
from running_daemon import command_line
from test_daemon import POOL, daemon_of, workers

from poolwright.journal.query import JournalReader
from poolwright.sensors.access_log import gunicorn_flags

pytestmark = pytest.mark.e2e
__all__ = ["daemon_of"]  # a fixture

WITHIN_S = 240.0  # plans are made by real learners, and the machine may be busy
# Tries whenever it may, until its 18 seconds for that are used up, and then lets others.
EAGER = """\
version: 1
name: mine
mode: auto
knobs:
  workers: {min: 1, max: 8, slew: 4, settle: 1s}
objective: {latency_p99: 1.0, memory: 0.2}
slo:
  error_ratio: {below: 50%}
explore:
  {window: 3s, warmup: 1, patience: 1000, epsilon: 0.1%, probes_per_hour: 3600, budget: 0.5%,
   holdout_every: 0s}
cadence: 250ms
"""


@pytest.fixture
def eager(gunicorn_service, daemon_of):
    """Starts eager daemons, each on a gunicorn of its own that is under load."""
    loads = []

    def start(name, more):
        syslog = free_udp_port()
        served = gunicorn_service(workers=3, flags=gunicorn_flags(f"127.0.0.1:{syslog}"))
        address = f"http://127.0.0.1:{served.port}/sleep?s=0.03"
        command = (sys.executable, "-m", "poolwright.demo.loadgen", "--url", address)
        loads.append(
            subprocess.Popen(
                [*command, "--rps", "25", "--seconds", "900"], stdout=subprocess.DEVNULL
            )
        )
        daemon = daemon_of(served, name, syslog=syslog)
        daemon.set_policy(EAGER)
        daemon.config.write_text(daemon.config.read_text() + more)
        return daemon.start()

    yield start
    for load in loads:
        load.terminate()
        load.wait()


def count(daemon, name):
    return dict(daemon.status()["counters"]).get(name, 0)


def probes(daemon):
    return count(daemon, "probes")


def steps(daemon):
    """All that was journalled, oldest first."""
    with JournalReader(daemon.journal) as reader:
        return [step for run in reader.runs() for step in reader.steps(run.id)]


def experiments(daemon):
    """When it surely held the lock: from the tick after the first probing one, which began when the
    first had been decided, to the beginning of the first that was probing no more.
    """
    found, began = [], None
    for before, step in pairwise(steps(daemon)):
        if before.decision.probing and began is None:
            began = step.tick.mono_ns
        if began is not None and not step.decision.probing:
            found.append((began, step.tick.mono_ns))
            began = None
    return found


def test_two_daemons_with_one_lock_never_try_at_the_same_time(tmp_path, eager):
    lock = tmp_path / "experiment.lock"
    both = [eager(name, f"experiment_lock: {lock}\n") for name in ("one", "two")]
    until(
        lambda: (
            all(probes(daemon) and not daemon.status()["decision"]["probing"] for daemon in both)
            and any(count(daemon, "decisions:hold:host_busy") for daemon in both)
        ),
        WITHIN_S,
        "both have tried, and one had to wait",
    )
    pids = [daemon.process.pid for daemon in both]
    for daemon in both:
        daemon.stop()
    one, two = (experiments(daemon) for daemon in both)
    assert one
    assert two
    together = [(a, b) for a, b in product(one, two) if a[0] < b[1] and b[0] < a[1]]
    assert together == []
    for daemon, other in zip(both, reversed(pids), strict=True):
        told = {step.tick.rival for step in steps(daemon) if not step.tick.may_probe}
        assert told <= {f"another daemon has {lock}: pid {other}, pool web"}


def test_a_daemon_that_is_killed_while_it_tries_leaves_the_lock_to_the_other(tmp_path, eager):
    more = f"experiment_lock: {tmp_path / 'experiment.lock'}\n"
    one, two = eager("one", more), eager("two", more)
    until(lambda: one.status()["decision"]["probing"], WITHIN_S, "one is trying")
    one.process.kill()
    one.process.wait()
    tried = probes(two)
    until(lambda: probes(two) > tried, WITHIN_S, "the other tries")
    two.stop()


HEAVY = """
held = bytearray(b"x") * (24 << 20)  # each worker imports this for itself

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


@pytest.fixture
def heavy(tmp_path, gunicorn_service):
    """Two gunicorns, each with two workers of 24 MiB."""
    (tmp_path / "heavy.py").write_text(HEAVY)
    told = {"app": "heavy:app", "env": {"PYTHONPATH": str(tmp_path)}}
    return [gunicorn_service(workers=2, **told) for _ in range(2)]


def memory_bytes(services):
    """What masters and workers use, each page counted once."""
    total = 0
    for pid in [pid for served in services for pid in (served.pid, *served.children())]:
        try:
            total += psutil.Process(pid).memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # it has ended since
    return total


def together(daemon, services, most):
    """Let one daemon size both services, with one budget."""
    text = ""
    for name, served in zip(("web", "api"), services, strict=True):
        syslog = free_udp_port()
        named = POOL.replace("name: web", f"name: {name}")
        text += named.format(pidfile=served.pidfile, syslog=syslog)
    daemon.write(text, f"budget: {{memory: {most}B}}\n")
    return daemon.start()


def stuck(pool):
    """Whether it would grow, nothing is under way, and the memory keeps it from growing."""
    kinds = [clamp["kind"] for clamp in pool["decision"]["clamps"]]
    pending = pool["tick"]["actuation"] or {"status": "applied"}
    return "memory" in kinds and not pool["decision"]["moves"] and pending["status"] != "pending"


def test_two_pools_with_one_budget_of_memory_never_exceed_it_together(heavy, daemon_of):
    began = memory_bytes(heavy)
    most = round(began * 9 / 4)  # nine workers, and what the masters leave of their share
    daemon = together(daemon_of(heavy[0]), heavy, most)
    for name in ("web", "api"):
        pin = ("pin", name, "workers=8", "--why", "launch", "--config", daemon.config)
        assert command_line(*pin).returncode == 0
    end, seen, stuck_in = time.monotonic() + 60.0, [], set()
    while len(stuck_in) < 10:  # ticks in a row
        assert time.monotonic() < end, f"they still grow: {[workers(one) for one in heavy]}"
        seen.append(memory_bytes(heavy))
        pools = daemon.pools()
        stuck_in = stuck_in | {pools[0]["tick"]["index"]} if all(map(stuck, pools)) else set()
    daemon.stop()
    assert max(seen) <= most
    grown = sum(workers(one) for one in heavy)
    assert 4 < grown < 16, "it has grown, and not to the 16 that are asked for"
    with JournalReader(daemon.journal) as reader:
        both = [[used(s.tick) for s in reader.steps(run.id)] for run in reader.runs()]
    told = [a + b for a, b in zip(*both, strict=False) if a and b]
    assert began < max(told) <= most


def used(tick):
    """What a pool says that it uses; None: it could not tell."""
    return next((r.value for r in tick.readings if r.signal == "memory_bytes"), None)
