"""The resizable executor: what ThreadPoolExecutor promises, and what it cannot."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.thread import BrokenThreadPool

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolwright.client import ResizableThreadPoolExecutor


def until(done, within_s=10.0):
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, done
        time.sleep(0.0005)


@pytest.fixture
def pool():
    with ResizableThreadPoolExecutor(2) as made:
        yield made


def test_what_the_stdlib_promises(pool):
    assert pool.submit(pow, 2, 5).result(5) == 32
    assert pool.submit(int, "11", base=2).result(5) == 3
    assert list(pool.map(abs, [-3, 2, -1])) == [3, 2, 1]
    failed = pool.submit(int, "x")
    assert isinstance(failed.exception(5), ValueError)
    with pytest.raises(TimeoutError):
        pool.submit(time.sleep, 0.2).result(0.01)


@pytest.mark.parametrize("limit", [0, -1])
def test_less_than_one_is_refused(pool, limit):
    with pytest.raises(ValueError):
        pool.resize(limit)
    assert pool.limit == 2
    with pytest.raises(ValueError):
        ResizableThreadPoolExecutor(limit)


def test_after_shutdown_nothing_is_taken_and_everything_is_done():
    made = ResizableThreadPoolExecutor(1)
    futures = [made.submit(time.sleep, 0.01) for _ in range(5)]
    made.shutdown()
    assert all(f.done() and f.exception() is None for f in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        made.submit(print)


def test_shutdown_may_cancel_what_waits():
    made = ResizableThreadPoolExecutor(1)
    gate = threading.Event()
    futures = [made.submit(gate.wait, 10) for _ in range(3)]
    until(futures[0].running)
    made.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert futures[0].result(5)
    assert all(f.cancelled() for f in futures[1:])
    made.shutdown()


def test_an_initializer_runs_in_every_thread_and_one_that_fails_breaks_the_pool(caplog):
    here = threading.local()
    with ResizableThreadPoolExecutor(2, "named", lambda x: setattr(here, "x", x), (7,)) as made:
        assert made.submit(lambda: (here.x, threading.current_thread().name)).result(5) == (
            7,
            "named_0",
        )
    made = ResizableThreadPoolExecutor(2, initializer=lambda: 1 / 0)
    with pytest.raises(BrokenThreadPool):
        made.submit(abs, 1).result(5)
    with pytest.raises(BrokenThreadPool):
        made.submit(abs, 1)
    made.shutdown()
    with pytest.raises(TypeError):
        ResizableThreadPoolExecutor(2, initializer=3)


def test_an_executor_that_nobody_holds_lets_its_threads_go():
    made = ResizableThreadPoolExecutor(2, "forgotten")
    made.submit(abs, 1).result(5)
    del made
    gc.collect()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("forgotten")])


async def test_it_may_be_the_default_executor_of_a_loop(pool):
    asyncio.get_running_loop().set_default_executor(pool)
    pool.resize(3)
    seen = await asyncio.gather(*(asyncio.to_thread(abs, -i) for i in range(10)))
    assert seen == list(range(10))
    assert pool._max_workers == 3


def test_growing_starts_what_waits_at_once_and_shrinking_interrupts_nothing(pool):
    gate = threading.Event()
    futures = [pool.submit(gate.wait, 20) for _ in range(8)]
    until(lambda: pool.told()["running"] == 2)
    pool.resize(5)
    until(lambda: pool.told()["running"] == 5)
    pool.resize(1)
    assert pool.told() | {"running": 5, "queued": 3} == pool.told()
    gate.set()
    assert all(f.result(5) for f in futures)
    until(lambda: len([t for t in pool._crew._threads if t.is_alive()]) == 1)


def test_shrinking_lets_idle_threads_go(pool):
    pool.resize(6)
    gate = threading.Event()
    wait_all = [pool.submit(gate.wait, 20) for _ in range(6)]
    gate.set()
    wait(wait_all)
    assert len(pool._crew._threads) == 6
    pool.resize(2)
    until(lambda: len(pool._crew._threads) == 2)
    assert pool.submit(abs, -1).result(5) == 1


def test_waiting_and_running_are_timed(pool):
    pool.resize(1)
    wait([pool.submit(time.sleep, 0.05) for _ in range(3)])
    until(lambda: pool.told()["done"] == 3)
    told = pool.told()
    assert told["ran"]["total"] == pytest.approx(0.15, abs=0.1)
    assert 0.1 <= told["waited"]["total"] < told["stayed"]["total"]
    pool.submit(int, "x")
    until(lambda: pool.told()["failed"] == 1)


def test_many_threads_submit_while_it_is_resized(pool):
    stop = threading.Event()

    def resize():
        level = 0
        while not stop.is_set():
            level = level % 7 + 1
            pool.resize(level)
            time.sleep(0.0005)

    resizer = threading.Thread(target=resize)
    resizer.start()
    try:
        found = []

        def submit():
            found.append(sum(f.result(30) for f in [pool.submit(int, 1) for _ in range(500)]))

        clients = [threading.Thread(target=submit) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
    finally:
        stop.set()
        resizer.join()
    assert found == [500] * 6
    until(lambda: pool.told()["done"] == 3000)


_EXIT = """
import time
from poolwright.client import ResizableThreadPoolExecutor
pool = ResizableThreadPoolExecutor(1)
for i in range(3):
    pool.submit(lambda i=i: (time.sleep(0.05), print(i, flush=True)))
"""


def test_what_was_submitted_is_done_before_the_interpreter_ends():
    run = subprocess.run(
        [sys.executable, "-c", _EXIT],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout.split() == ["0", "1", "2"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own(pool):
    gate = threading.Event()
    held = [pool.submit(gate.wait, 20) for _ in range(4)]
    until(lambda: pool.told()["running"] == 2)
    child = os.fork()
    if child == 0:
        try:
            told = pool.told()
            ok = pool.submit(pow, 2, 3).result(10) == 8 and told["running"] == told["queued"] == 0
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    gate.set()
    assert all(f.result(5) for f in held)


class Machine(RuleBasedStateMachine):
    """Whatever is asked in whatever order: who runs, and in which order they began."""

    def __init__(self):
        super().__init__()
        self.pool = ResizableThreadPoolExecutor(2)
        self.lock = threading.Lock()
        self.began = []  # numbers of tasks, as they began
        self.gates = {}
        self.futures: dict[int, Future] = {}
        self.cancelled = set()
        self.ended = set()
        self.ceiling = 2  # who may still run from before a shrink
        self.number = 0

    def running(self):
        with self.lock:
            return [n for n in self.began if n not in self.ended]

    def task(self, number):
        with self.lock:
            self.began.append(number)
        assert self.gates[number].wait(60)
        return number

    @rule(count=st.integers(1, 4))
    def submit(self, count):
        for _ in range(count):
            self.gates[self.number] = threading.Event()
            self.futures[self.number] = self.pool.submit(self.task, self.number)
            self.number += 1

    @rule(limit=st.integers(1, 6))
    def resize(self, limit):
        self.pool.resize(limit)
        self.ceiling = max(limit, len(self.running()))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), swift=st.integers(1, 3))
    def finish(self, data, swift):
        for _ in range(swift):
            running = self.running()
            if running:
                number = data.draw(st.sampled_from(running))
                self.gates[number].set()
                assert self.futures[number].result(10) == number
                with self.lock:
                    self.ended.add(number)

    @rule(data=st.data())
    def cancel(self, data):
        waiting = [n for n, f in self.futures.items() if not f.done() and not f.running()]
        if waiting:
            number = data.draw(st.sampled_from(waiting))
            if self.futures[number].cancel():
                self.cancelled.add(number)

    @invariant()
    def nobody_waits_for_a_free_place_and_nobody_takes_one_too_many(self):
        def settled():
            running = self.running()
            waiting = self.number - len(self.began) - len(self.cancelled)
            return len(running) == min(self.pool.limit, len(running) + waiting) or (
                len(running) > self.pool.limit
            )

        until(settled)  # else a wake-up was lost
        running = len(self.running())
        assert running <= self.ceiling
        self.ceiling = max(self.pool.limit, running)
        assert self.began == sorted(self.began)  # first come, first served

    def teardown(self):
        for gate in self.gates.values():
            gate.set()
        self.pool.shutdown()
        for number, future in self.futures.items():
            if number in self.cancelled:
                with pytest.raises(CancelledError):
                    future.result(0)
            else:
                assert future.result(0) == number
        assert len(self.began) + len(self.cancelled) == self.number
        assert not deque(self.pool._crew._work)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
