"""A thread pool whose size may change while it works.

    pool = ResizableThreadPoolExecutor(8)
    pool.resize(12)

Everything else is as in `concurrent.futures.ThreadPoolExecutor`, of which it is one, so that
`loop.set_default_executor` takes it. Growing starts threads at once when there is work for them.
Shrinking lets idle threads go, and a busy thread when its task is done; no task is interrupted,
none is lost, and they begin in the order in which they were submitted.
"""

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from poolwright.client.tally import Tally

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LOG = logging.getLogger("poolwright.client")


class _Job:
    """One call, and when it was submitted."""

    __slots__ = ("args", "fn", "future", "kwargs", "since")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future: Future[Any] = Future()
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.since = perf_counter()

    def run(self) -> tuple[float, float, bool] | None:
        """(waited, ran, failed), None when it had been cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return None
        began = perf_counter()
        failed = False
        try:
            result = self.fn(*self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
            ended, failed = perf_counter(), True
            self.future.set_exception(error)
        else:
            ended = perf_counter()
            self.future.set_result(result)
        return began - self.since, ended - began, failed


class _Crew:
    """Threads and queue. The threads hold it and not the executor, which can so be collected.

    A thread that waits is counted in `_idle` until somebody notifies one: then there is one idle
    thread less, whichever wakes. Whoever wakes looks at everything anew.
    """

    def __init__(
        self, limit: int, name: str | None, initializer: Callable[[], object] | None
    ) -> None:
        self._name = name
        self._initializer = initializer
        self.limit = limit
        self._closed = False
        self.reborn()

    def reborn(self) -> None:
        """Begin anew without threads and work: in a forked child they are the parent's."""
        self._changed = threading.Condition()  # of an RLock: a finalizer may come in between
        self._work: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._hired = 0
        self._running = 0
        self._done = 0
        self._failed = 0
        self._waited = Tally()
        self._ran = Tally()
        self._stayed = Tally()  # waited and ran
        self._broken = False

    def put(self, job: _Job) -> None:
        """Queue a job and see that a thread comes for it."""
        with self._changed:
            if self._broken:
                raise BrokenThreadPool("a thread initializer failed")
            if self._closed or _exiting.is_set():
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._work.append(job)
            if self._idle:
                self._wake(1)
            elif len(self._threads) < self.limit and not self._hire() and not self._threads:
                self._work.remove(job)
                raise RuntimeError("can't start new thread")

    def resize(self, limit: int) -> None:
        """Let idle threads go, or start as many as there is work for."""
        with self._changed:
            self.limit = limit
            excess = len(self._threads) - limit
            if excess > 0:
                self._wake(min(excess, self._idle))
            else:
                self._staff()

    def close(self, *, cancel: bool = False) -> None:
        """No new work; what is queued is still done, or cancelled."""
        with self._changed:
            self._closed = True
            if cancel:
                while self._work:
                    self._work.popleft().future.cancel()
            self._wake_all()

    def join(self) -> None:
        """Wait until every thread has ended."""
        for thread in list(self._threads):
            thread.join()

    def told(self) -> dict[str, object]:
        """What there is, and what was done since the start."""
        with self._changed:
            return {
                "running": self._running,
                "queued": len(self._work),
                "done": self._done,
                "failed": self._failed,
                "waited": self._waited.told(),
                "ran": self._ran.told(),
                "stayed": self._stayed.told(),
            }

    @property
    def used(self) -> bool:
        """Whether anything was ever submitted in this process."""
        return bool(self._hired)

    # With the lock held

    def _wake(self, count: int) -> None:
        self._idle -= count
        self._changed.notify(count)

    def _wake_all(self) -> None:
        self._idle = 0
        self._changed.notify_all()

    def _staff(self) -> None:
        """Start threads for the work that waits."""
        for _ in range(min(self.limit - len(self._threads), len(self._work) - self._idle)):
            if not self._hire():
                return

    def _hire(self) -> bool:
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{self._hired}")
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has none left; the threads that are there go on
            self._threads.discard(thread)
            return False
        self._hired += 1
        return True

    def _next(self) -> _Job | None:
        """The next job, None when the thread is to end. Waits."""
        while len(self._threads) <= self.limit and not self._broken:
            if self._work:
                return self._work.popleft()
            if self._closed:
                break
            self._idle += 1
            self._changed.wait()
        self._threads.discard(threading.current_thread())
        return None

    # In a thread

    def _serve(self) -> None:
        if not self._prepared():
            return
        job: _Job | None = None
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    return
                self._running += 1
            told = job.run()
            job = None  # nothing is held while waiting
            with self._changed:
                self._running -= 1
                if told is not None:
                    waited, ran, failed = told
                    self._done += 1
                    self._failed += failed
                    self._waited.add(waited)
                    self._ran.add(ran)
                    self._stayed.add(waited + ran)

    def _prepared(self) -> bool:
        """Run the initializer; a pool whose threads cannot be prepared is broken, as in stdlib."""
        if self._initializer is None:
            return True
        try:
            self._initializer()
        except BaseException:  # noqa: BLE001 - as in the stdlib
            _LOG.critical("exception in initializer", exc_info=True)
            with self._changed:
                self._broken = True
                self._threads.discard(threading.current_thread())
                while self._work:
                    broken = BrokenThreadPool("a thread initializer failed")
                    self._work.popleft().future.set_exception(broken)
                self._wake_all()
            return False
        return True


class ResizableThreadPoolExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor with `resize`. `max_workers` is where it begins."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        """As in ThreadPoolExecutor. Raises ValueError for less than one worker."""
        super().__init__(max_workers, thread_name_prefix)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        prepare = None if initializer is None else lambda: initializer(*initargs)
        self._crew = _Crew(self._max_workers, self._thread_name_prefix, prepare)
        _CREWS.add(self._crew)
        weakref.finalize(self, self._crew.close).atexit = False

    @property
    def limit(self) -> int:
        """How many tasks may run at once."""
        return self._crew.limit

    def resize(self, limit: int) -> None:
        """Let at most `limit` tasks run at once. Any thread may call it; it does not wait.

        Raises ValueError for less than one.
        """
        if limit < 1:
            raise ValueError(f"a pool of {limit}: it keeps at least one thread")
        self._max_workers = limit  # where those who watch a ThreadPoolExecutor look
        self._crew.resize(limit)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Schedule `fn(*args, **kwargs)`. Raises RuntimeError after shutdown."""
        job = _Job(fn, args, kwargs)
        self._crew.put(job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new work, do or cancel what is queued, and wait for the threads if asked to."""
        self._crew.close(cancel=cancel_futures)
        if wait:
            self._crew.join()

    def told(self) -> dict[str, object]:
        """In flight, queued, and the distributions of queue delay and run time since the start."""
        return self._crew.told()

    @property
    def used(self) -> bool:
        """Whether anything was ever submitted in this process."""
        return self._crew.used


_CREWS: "weakref.WeakSet[_Crew]" = weakref.WeakSet()
_exiting = threading.Event()


def _at_exit() -> None:
    """As the stdlib does: what was submitted is done before the interpreter goes."""
    _exiting.set()
    for crew in list(_CREWS):
        crew.close()


def _in_child() -> None:
    for crew in list(_CREWS):
        crew.reborn()


# Called before the interpreter waits for threads that are no daemons; atexit would be after it, and
# never. `concurrent.futures.thread` hangs on the same private hook, from Python 3.9 on.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001
os.register_at_fork(after_in_child=_in_child)
