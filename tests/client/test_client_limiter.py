"""The limiter of an event loop: first come first served, whoever is cancelled when."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolwright.client import ConcurrencyLimiter


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("limit", [0, -3])
def test_less_than_one_is_refused(limit):
    with pytest.raises(ValueError):
        ConcurrencyLimiter(limit)
    with pytest.raises(ValueError):
        ConcurrencyLimiter(1).resize(limit)


async def test_waiting_and_being_inside_are_timed_and_failures_counted():
    limiter = ConcurrencyLimiter(1)

    async def visit():
        async with limiter:
            await asyncio.sleep(0.05)

    await asyncio.gather(*(visit() for _ in range(3)))
    with pytest.raises(KeyError):
        async with limiter:
            raise KeyError
    told = limiter.told()
    assert (told["done"], told["failed"], told["running"], told["queued"]) == (4, 1, 0, 0)
    assert told["ran"]["total"] == pytest.approx(0.15, abs=0.1)
    assert told["waited"]["total"] == pytest.approx(0.15, abs=0.1)
    assert told["stayed"]["total"] == pytest.approx(0.3, abs=0.2)


async def test_another_thread_may_let_waiters_in():
    limiter = ConcurrencyLimiter(1)
    leave = asyncio.Event()

    async def visit():
        async with limiter:
            await leave.wait()

    tasks = [asyncio.create_task(visit()) for _ in range(5)]
    await turns()
    assert limiter.told()["running"] == 1
    thread = threading.Thread(target=limiter.resize, args=(4,))
    thread.start()
    async with asyncio.timeout(5):
        while limiter.told()["running"] < 4:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    thread.join()
    leave.set()
    await asyncio.gather(*tasks)


def test_one_loop_after_another_may_use_it():
    limiter = ConcurrencyLimiter(1)

    async def visit():
        async with limiter:
            await asyncio.sleep(0)

    for _ in range(2):
        asyncio.run(visit())
    limiter.resize(3)  # the loop that it was last used by is closed
    assert limiter.limit == 3


async def test_two_loops_at_once_may_not():
    limiter = ConcurrencyLimiter(1)
    async with limiter:

        async def visit():
            async with limiter:
                pass

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, visit())


async def test_a_mass_of_waiters_that_give_up_is_no_stall():
    limiter = ConcurrencyLimiter(1)
    async with limiter:
        tasks = [asyncio.create_task(limiter.__aenter__()) for _ in range(20_000)]
        await turns()
        assert limiter.told()["queued"] == 20_000
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait(tasks)
        assert limiter.told()["queued"] == 0


async def test_an_abandoned_task_leaves_its_place():
    """A generator that another task closes gives back what it holds."""
    limiter = ConcurrencyLimiter(1)

    async def hold():
        async with limiter:
            yield

    held = hold()
    await asyncio.create_task(anext(held))
    await asyncio.create_task(held.aclose())
    assert limiter.told()["running"] == 0


@pytest.mark.parametrize("by", ["leaving", "growing"])
async def test_who_is_cancelled_with_the_place_in_hand_hands_it_on(by):
    limiter = ConcurrencyLimiter(1)
    entered = []

    async def visit(name):
        async with limiter:
            entered.append(name)

    async with limiter:
        first, second = (asyncio.create_task(visit(name)) for name in ("first", "second"))
        await turns()
        if by == "growing":
            limiter.resize(2)
            await turns(1)  # the place is handed over, and its new holder has not run yet
            assert limiter.told()["running"] == 2
            first.cancel()
            await turns()
            assert entered == ["second"]
    if by == "leaving":
        assert limiter.told()["running"] == 1
        first.cancel()
        await turns()
        assert entered == ["second"]
    await asyncio.wait([first, second])
    assert limiter.told()["running"] == 0


_STEP = st.one_of(
    st.tuples(st.just("come"), st.integers(1, 4)),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("resize"), st.integers(1, 5)),
    st.tuples(st.just("turn"), st.integers(1, 3)),
)


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(_STEP, max_size=60))
def test_whatever_happens_between_any_two_turns_of_the_loop(steps):
    asyncio.run(_play(steps))


async def _play(steps):
    """Steps follow each other without a turn of the loop unless one says so: so a waiter may be
    cancelled before it came, while it waits, after its turn was handed over, and inside."""
    limiter = ConcurrencyLimiter(2)
    order, entered, inside, tasks, doors = [], [], set(), [], []

    async def visit(number):
        told = limiter.told()
        waits = told["queued"] > 0 or told["running"] >= limiter.limit
        async with limiter:
            if waits:  # who need not wait may overtake who has its place and has not run yet
                order.append(number)
            entered.append(number)
            inside.add(number)
            try:
                await doors[number].wait()
            finally:
                inside.discard(number)

    most = 2
    for what, how in steps:
        if what == "come":
            for _ in range(how):
                doors.append(asyncio.Event())
                tasks.append(asyncio.create_task(visit(len(tasks))))
        elif what == "leave" and inside:
            doors[sorted(inside)[how % len(inside)]].set()
        elif what == "cancel" and (left := [task for task in tasks if not task.done()]):
            left[how % len(left)].cancel()
        elif what == "resize":
            limiter.resize(how)
            most = max(how, limiter.told()["running"])
        elif what == "turn":
            await turns(how)
        assert limiter.told()["running"] <= max(most, limiter.limit)
    await turns(10)
    left = [n for n, task in enumerate(tasks) if not task.done()]
    told = limiter.told()
    assert told["running"] == len(inside)
    assert told["queued"] == len(left) - len(inside)
    # Nobody waits for a free place, and those who waited came in in the order of their coming.
    assert told["queued"] == 0 or len(inside) >= limiter.limit
    assert order == sorted(order)
    for door in doors:
        door.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    told = limiter.told()
    assert (told["running"], told["queued"]) == (0, 0)
    assert told["done"] == len(entered)
