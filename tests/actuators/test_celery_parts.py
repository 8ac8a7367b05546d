"""The parts of the celery adapters that need no worker: what is refused, believed and kept."""

import asyncio
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.actuators.celery import Celery
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.engine.build import build_actuator, build_sensor
from poolwright.policy.config import load_config
from poolwright.wire.celery import link as links
from poolwright.wire.celery import quiet as quiets
from poolwright.wire.celery.events import _MOST_OPEN, Tally
from poolwright.wire.celery.link import Link
from poolwright.wire.celery.mailbox import Denied, masked
from poolwright.wire.celery.messages import Answer, Ask, Place, Pool, encode
from poolwright.wire.celery.quiet import Quiet, _eta_s
from poolwright.wire.celery.serve import pool_of

NODE = "w@h"
PLACE = Place(broker="redis://127.0.0.1:1/0", password_file=None, node=NODE)
POOL = Pool(pid=7, uptime_s=100, kind="prefork", level=4, autoscaled=False, started=0, prefetch=16)


# Options


@pytest.mark.parametrize(
    ("broker", "node", "message"),
    [
        ("redis://:secret@h/0", NODE, "password_file"),
        ("redis://h/0?password=secret", NODE, "password_file"),
        ("redis://h:99x/0", "w", "not a worker's name"),
        ("sqs://h", NODE, "redis, rediss, amqp, amqps"),
        ("h:6379", NODE, "not a url"),
        ("redis://[h/0", NODE, "not a url"),
        ("redis://h/0", "worker", "not a worker's name"),
        ("redis://h/0", "a@b c", "not a worker's name"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_its_password(broker, node, message):
    with pytest.raises(PolicyError, match=message) as refusal:
        Celery.Options(broker=broker, node=node)
    assert "secret" not in str(refusal.value)


def test_a_bad_option_is_told_with_its_place(tmp_path):
    path = tmp_path / "daemon.yaml"
    path.write_text(
        "version: 1\npools:\n  - name: jobs\n    actuator:\n      kind: celery\n"
        "      broker: redis://:secret@h/0\n      node: w@h\n"
        "    sensors:\n      - {kind: celery, broker: redis://h, node: w@h, evnts: true}\n"
    )
    (pool,) = load_config(path).pools
    with pytest.raises(PolicyError, match=r"daemon\.yaml:\d+:\d+: .*password_file") as refusal:
        build_actuator(pool.actuator, "jobs")
    assert "secret" not in str(refusal.value)
    with pytest.raises(PolicyError, match=r"daemon\.yaml:9:\d+: .*evnts.*did you mean.*events"):
        build_sensor(pool.sensors[0], "jobs")


def test_without_kombu_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "kombu", raising=False)
    monkeypatch.setattr(links, "find_spec", lambda _name: None)
    with pytest.raises(PolicyError, match=r"pip install 'poolwright\[celery\]'"):
        Celery(Celery.Options(broker="redis://h/0", node=NODE), "jobs")


def test_a_password_is_masked_and_messages_stay_short():
    assert masked("AUTH a\nswordfish failed", "swordfish") == "AUTH a *** failed"
    assert len(masked("x" * 5_000, "")) < 400


# Stats


def stats(**changes):
    pool = {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 9}
    pool |= {"processes": [1, 2, 3]} | changes.pop("pool", {})
    return {"pool": pool, "pid": 5, "uptime": 60, "total": {"a": 2, "b": 3}} | changes


def test_the_level_of_prefork_is_who_is_there_of_gevent_the_limit():
    assert pool_of(stats()).level == 3
    gevent = {"implementation": "celery.concurrency.gevent:TaskPool"}
    assert pool_of(stats(pool=gevent)).level == 9
    assert pool_of(stats()).started == 5
    assert not pool_of(stats()).autoscaled
    assert pool_of(stats(autoscaler={"max": 3})).autoscaled


@pytest.mark.parametrize(
    "answer",
    [None, [], "x", {}, stats(pid="x"), stats(total=[1]), stats(pool={"processes": None})],
    ids=str,
)
def test_what_is_no_stats_raises(answer):
    with pytest.raises((KeyError, TypeError, ValueError)):
        pool_of(answer)


# Events


def event(kind, uuid="u", **fields):
    return {"type": kind, "uuid": uuid, "hostname": NODE, **fields}


def test_durations_are_of_one_clock_each():
    tally = Tally(NODE)
    tally.take({"type": "task-sent", "uuid": "u", "hostname": "client"}, 10.0)
    tally.take([event("task-started", timestamp=1000.0)], 11.0)
    tally.take([event("task-failed", timestamp=1002.0)], 13.5)
    seen = tally.seen()
    assert (seen.started, seen.failed, seen.succeeded) == (1, 1, 0)
    assert seen.runtime.mean == pytest.approx(2.0)
    assert seen.latency.mean == pytest.approx(3.5)
    assert tally.seen().runtime.count == 0


def test_events_of_other_workers_do_not_count():
    tally = Tally(NODE)
    for kind in ("task-started", "task-succeeded", "task-failed"):
        tally.take(event(kind) | {"hostname": "other@h"}, 1.0)
    seen = tally.seen()
    assert (seen.started, seen.failed, seen.succeeded) == (0, 0, 0)


@pytest.mark.parametrize("runtime", [None, -1.0, math.inf, math.nan, 1e12, "2", True, [1]])
def test_a_runtime_that_is_none_is_not_counted(runtime):
    tally = Tally(NODE)
    tally.take(event("task-succeeded", runtime=runtime), 1.0)
    seen = tally.seen()
    assert (seen.succeeded, seen.runtime.count) == (1, 0)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)
_KINDS = st.sampled_from(["task-sent", "task-started", "task-succeeded", "task-failed", "x"])
_EVENT = st.fixed_dictionaries(
    {"type": _KINDS | _ANY, "uuid": st.just("u") | _ANY, "hostname": st.just(NODE) | _ANY},
    optional={"timestamp": _ANY, "runtime": _ANY},
)


@given(st.lists(_EVENT | _ANY))
def test_whatever_comes_a_tally_goes_on(messages):
    tally = Tally(NODE)
    for message in messages:
        tally.take(message, 1.0)
    assert tally.seen().runtime.count <= 2 * len(messages)


def test_what_never_ends_is_forgotten_in_the_end():
    tally = Tally(NODE)
    for number in range(_MOST_OPEN + 10):
        tally.take(event("task-started", str(number), timestamp=0.0), 0.0)
        tally.take(event("task-sent", str(number)), 0.0)
    assert len(tally._begun) == len(tally._sent) == _MOST_OPEN


# Quiet


class Box:
    """A worker's answers by command; a callable is called."""

    def __init__(self, **answers):
        self.answers = {
            "report": "software -> celery:5.7.0 (x)",
            "active_queues": lambda: [{"name": name} for name in self.taking],
            "reserved": [],
            "scheduled": [],
            "active": [{}, {}, {}],
            **answers,
        }
        self.taking = ["celery", "mail"]
        self.asked = []
        self.note = None

    def call(self, command, _patience_s, **arguments):
        self.asked.append(command)
        if command == "cancel_consumer":
            self.taking.remove(arguments["queue"])
        elif command == "add_consumer":
            self.taking.append(arguments["queue"])
        answer = self.answers.get(command)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def keep(self, _name, note):
        self.note = note

    def kept(self, _name):
        return self.note


def test_only_idle_processes_are_taken_and_the_queues_come_back():
    box = Box()
    quiet = Quiet(PLACE, box)
    assert quiet.left_s is None
    assert quiet.shrink(3, POOL) == 1
    assert box.taking == []
    assert box.note["queues"] == ["celery", "mail"]
    assert quiet.left_s > 1.0
    quiet.end(POOL)
    assert (box.taking, box.note, quiet.left_s) == (["celery", "mail"], None, None)


def test_the_last_process_stays():
    assert Quiet(PLACE, Box(active=[])).shrink(9, POOL) == POOL.level - 1


@pytest.mark.parametrize(
    "answers",
    [
        {"reserved": [{}]},
        {"scheduled": [{"eta": "2000-01-01T00:00:00+00:00"}]},
        {"scheduled": [{"eta": None}]},
        {"active": [{}] * 4},
        {"pool_shrink": Denied("Can't shrink pool. All processes busy!")},
    ],
    ids=str,
)
def test_nobody_is_taken_while_a_task_may_begin(answers):
    box = Box(**answers)
    assert Quiet(PLACE, box).shrink(1, POOL) == 0
    assert box.asked.count("pool_shrink") == ("pool_shrink" in answers)


def test_a_worker_is_not_kept_idle_for_etas_that_never_end(monkeypatch):
    monkeypatch.setattr(quiets, "_SPARE_MOST_S", 0.1)
    box = Box(scheduled=[{"eta": "2000-01-01T00:00:00+00:00"}])
    with pytest.raises(PlantFault, match="ETA"):
        Quiet(PLACE, box).shrink(1, POOL)


@pytest.mark.parametrize("report", ["celery:5.6.2 (x)", "celery:4.4.7", "no version", None])
def test_a_worker_that_would_forget_its_queues_is_not_made_quiet(report):
    box = Box(report=report)
    with pytest.raises(Denied, match="7733"):
        Quiet(PLACE, box).shrink(1, POOL)
    assert box.asked == ["report"]


def test_a_worker_that_another_hand_wakes_is_not_shrunk():
    box = Box(reserved=lambda: box.taking.append("mail") or [{}])
    with pytest.raises(Denied, match="another hand"):
        Quiet(PLACE, box).shrink(1, POOL)
    assert "pool_shrink" not in box.asked


def test_a_worker_that_was_restarted_keeps_its_own_queues():
    box = Box()
    quiet = Quiet(PLACE, box)
    quiet.shrink(1, POOL)
    fresh = Pool(
        pid=8, uptime_s=0, kind="prefork", level=4, autoscaled=False, started=0, prefetch=16
    )
    with pytest.raises(PlantFault, match="restarted"):
        quiet.shrink(1, fresh)
    quiet.end(fresh)
    assert (box.taking, box.note) == ([], None)
    box.note = {"queues": ["celery"], "worker": 7, "since_s": 0.0}
    assert "restarted since" in quiet.mend(fresh)
    assert (box.taking, box.note) == ([], None)


def test_a_note_that_is_none_is_thrown_away():
    box = Box()
    box.note = {"queues": "celery"}
    assert "not ours" in Quiet(PLACE, box).mend(POOL)
    assert box.note is None
    assert Quiet(PLACE, box).mend(POOL) == ""


def test_a_time_without_a_zone_is_utc():
    assert _eta_s({"eta": "1970-01-01T00:01:00"}) == 60.0
    assert _eta_s({"eta": "1970-01-01T01:01:00+01:00"}) == 60.0
    assert _eta_s("x") == 0.0


# The pipe


def child(monkeypatch, script):
    """A link whose child runs `script`."""
    spawn = asyncio.create_subprocess_exec

    def instead(*_command, **options):
        return spawn(
            sys.executable, "-c", f"import sys, time\nask = sys.stdin.readline\n{script}", **options
        )

    monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)
    return Link.to(PLACE)


_LEVEL = Ask(id=0, do="level")
_OTHER = encode(Answer(id=9, pool=POOL)).decode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('kombu is missing')", "kombu is missing"),
        ("ask(); ask(); print('{', flush=True); ask()", "malformed|truncated"),
        ("ask(); ask(); print('x' * (2 << 20), flush=True); ask()", "limit|separator"),
        (
            f"ask(); ask(); print({_OTHER!r}, end='', flush=True); ask()",
            "in place of 1",
        ),
        ("ask(); sys.stdout.close(); ask()", "ended with"),
    ],
)
async def test_a_child_that_fails_is_a_fault_and_not_started_at_once(monkeypatch, script, message):
    link = child(monkeypatch, script)
    with pytest.raises(PlantFault, match=message):
        await link.ask(_LEVEL, 10.0)
    assert link.pid is None
    with pytest.raises(PlantFault, match=message):
        await link.ask(_LEVEL, 10.0)
    assert link.pid is None
    await link.close()


async def test_an_answer_that_comes_late_is_not_taken_for_the_next(monkeypatch):
    late = encode(Answer(id=1, error="late")).decode()
    soon = encode(Answer(id=2, pool=POOL)).decode()
    link = child(
        monkeypatch,
        f"ask(); ask(); time.sleep(1.0); print({late!r}, end='', flush=True)\n"
        f"ask(); print({soon!r}, end='', flush=True); ask()",
    )
    monkeypatch.setattr(links, "_START_S", 0.0)
    with pytest.raises(PlantFault, match="no answer within"):
        await link.ask(_LEVEL, 0.3)
    assert (await link.ask(_LEVEL, 10.0)).pool == POOL
    await link.close()
