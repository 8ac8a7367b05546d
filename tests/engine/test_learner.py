"""The learner's client against the real process, and against programs that misbehave."""

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from poolwright.core.model import (
    Context,
    Estimate,
    Evidence,
    FitRequest,
    Observation,
    Plan,
    setting,
)
from poolwright.core.policy import Knob, Policy, Slo
from poolwright.engine.learner import Learner
from poolwright.engine.snapshot import LearnerState

PATIENCE_S = 30.0  # the process is niced, and the machine may be busy


def observation(workers: int, latency_s: float) -> Observation:
    return Observation(
        setting=setting(workers=workers),
        opened_tick=0,
        closed_tick=8,
        span_s=8.0,
        sample_count=400,
        context=Context(load_rps=50.0),
        responses=(("latency_p99_s", Estimate(mean=latency_s, std=0.01, count=400)),),
        app_limited=False,
    )


def a_request(version: int = 1, windows: int = 4) -> FitRequest:
    return FitRequest(
        version=version,
        tick=7,
        policy=Policy(
            name="p",
            knobs=(Knob(name="workers", lower=1, upper=16),),
            objective=(("latency_p99_s", 1.0),),
            slo=(Slo(response="latency_p99_s", below=0.3),),
        ),
        evidence=tuple(
            Evidence(observation=observation(4 + k % 2, 0.2 - 0.02 * (k % 2)))
            for k in range(windows)
        ),
        context=Context(load_rps=50.0),
        incumbent=setting(workers=4),
        trust_octaves=0.5,
    )


async def until(what, patience_s: float = PATIENCE_S):
    """Poll `what` until it is true."""
    end = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def learning(**options):
    learner = Learner(**{"pause_s": 0.05, **options})
    try:
        yield learner
    finally:
        await learner.close()
        assert learner.pid is None


def script(tmp_path: Path, text: str) -> tuple[str, str]:
    """A program in the learner's place."""
    path = tmp_path / "program.py"
    path.write_text(text, encoding="utf-8")
    return sys.executable, str(path)


def stat_of(pid: int) -> list[str] | None:
    """State and the following fields of /proc/PID/stat; None when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except FileNotFoundError:
        return None


async def test_a_fit_and_what_the_process_is_like(monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name)  # the tests run with one thread, too
    async with learning() as learner:
        assert learner.state is LearnerState.ASLEEP
        assert learner.rss_bytes is None
        learner.submit("web", a_request(version=5))
        assert learner.take("web") is None
        await until(lambda: learner.state is LearnerState.STARTING)
        plan = await until(lambda: learner.take("web"))
        assert isinstance(plan, Plan)
        assert plan.version == 5
        assert plan.fit_s > 0.0
        assert plan.schedule
        assert learner.take("web") is None, "a plan is taken once"
        assert learner.failure("web") == ""
        assert learner.state is LearnerState.IDLE
        assert 50e6 < learner.rss_bytes < 250e6
        assert os.getpriority(os.PRIO_PROCESS, learner.pid) >= 10
        environment = Path(f"/proc/{learner.pid}/environ").read_bytes()
        assert b"OPENBLAS_NUM_THREADS=1" in environment
        assert b"OMP_NUM_THREADS=1" in environment
        assert len(list(Path(f"/proc/{learner.pid}/task").iterdir())) == 1, "one thread only"


async def test_pools_share_one_process_and_a_request_that_cannot_be_fitted_does_not_end_it():
    async with learning() as learner:
        learner.submit("a", a_request(version=1))
        learner.submit("b", a_request(version=2))
        learner.submit("b", a_request(version=3))  # replaces the one that still waits
        learner.submit("c", a_request(windows=0))
        a = await until(lambda: learner.take("a"))
        pid = learner.pid
        b = await until(lambda: learner.take("b"))
        assert (a.version, b.version) == (1, 3)
        assert "no usable evidence" in await until(lambda: learner.failure("c"))
        assert learner.failure("c") == "", "a failure is told once"
        assert learner.state is LearnerState.IDLE
        learner.submit("c", a_request(version=4))
        assert (await until(lambda: learner.take("c"))).version == 4
        assert learner.pid == pid


async def test_killed_in_mid_fit_it_is_told_reaped_and_started_again():
    async with learning() as learner:
        learner.submit("web", a_request())
        pid = await until(lambda: learner.pid)
        os.kill(pid, signal.SIGKILL)
        text = await until(lambda: learner.failure("web"))
        assert "signal 9" in text
        assert learner.state is LearnerState.FAILED
        assert stat_of(pid) is None, "no zombie is left"
        learner.submit("web", a_request(version=2))
        plan = await until(lambda: learner.take("web"))
        assert plan.version == 2
        assert learner.pid != pid


async def test_killed_while_idle_the_next_request_starts_another():
    async with learning() as learner:
        learner.submit("web", a_request())
        await until(lambda: learner.take("web"))
        pid = learner.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: learner.state is LearnerState.ASLEEP)
        assert stat_of(pid) is None
        learner.submit("web", a_request(version=2))
        assert (await until(lambda: learner.take("web"))).version == 2
        assert learner.failure("web") == ""


async def test_a_stopped_process_is_killed_when_late():
    async with learning(deadline_s=0.4) as learner:
        learner.submit("web", a_request())
        pid = await until(lambda: learner.pid)
        os.kill(pid, signal.SIGSTOP)
        text = await until(lambda: learner.failure("web"))
        assert "no plan within 0.4 s" in text
        assert stat_of(pid) is None
        assert learner.state is LearnerState.FAILED


async def test_a_process_that_does_not_read_is_killed_when_late(tmp_path):
    command = script(tmp_path, "import time\ntime.sleep(60)\n")
    async with learning(command=command, deadline_s=0.4) as learner:
        learner.submit("web", a_request(windows=2000))  # more than a pipe holds
        assert "no plan within" in await until(lambda: learner.failure("web"))


async def test_it_ends_when_idle():
    async with learning(idle_s=0.1) as learner:
        learner.submit("web", a_request())
        pid = await until(lambda: learner.pid)
        await until(lambda: learner.take("web"))
        await until(lambda: learner.state is LearnerState.ASLEEP)
        assert learner.pid is None
        assert stat_of(pid) is None
        learner.submit("web", a_request(version=2))
        assert await until(lambda: learner.pid) != pid, "and starts again on demand"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("print('not json', flush=True)", "cannot be read"),
        ("print('{}', flush=True)", "either a plan or an error"),
        ("print('x' * (5 << 20), flush=True)", "limit"),
        ("import sys; sys.stdout.write('{\"error\"'); sys.stdout.flush()", "cut short"),
        ("raise SystemExit('the disk of numpy is gone')", "the disk of numpy is gone"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
async def test_garbage_is_a_failure_and_not_a_hang(tmp_path, text, expected):
    command = script(tmp_path, f"import sys\nsys.stdin.readline()\n{text}\n")
    async with learning(command=command, deadline_s=10.0) as learner:
        learner.submit("web", a_request())
        assert expected in await until(lambda: learner.failure("web"))
        assert learner.state is LearnerState.FAILED
        assert learner.pid is None


async def test_a_program_that_is_not_there():
    async with learning(command=("/nonexistent/learner",)) as learner:
        learner.submit("web", a_request())
        assert "/nonexistent/learner" in await until(lambda: learner.failure("web"))


async def test_only_the_last_of_standard_error_is_kept(tmp_path):
    text = "import sys\nsys.stderr.write('x' * 100_000 + '\\nthe last word')\nsys.exit(1)\n"
    async with learning(command=script(tmp_path, text)) as learner:
        learner.submit("web", a_request())
        failure = await until(lambda: learner.failure("web"))
        assert failure.endswith("(the last word)")
        assert len(learner._stderr) <= 4096


async def test_the_pause_before_a_restart_doubles(tmp_path):
    stamps = tmp_path / "stamps"
    text = f"import time\nopen({str(stamps)!r}, 'a').write(f'{{time.monotonic()}}\\n')\n"
    async with learning(command=script(tmp_path, text), pause_s=0.1) as learner:
        for _ in range(3):
            learner.submit("web", a_request())
            await until(lambda: learner.failure("web"))
        first, second, third = (float(line) for line in stamps.read_text().split())
        assert second - first >= 0.1
        assert third - second >= 0.2


async def test_close_in_mid_fit_leaves_nothing():
    learner = Learner()
    learner.submit("web", a_request())
    pid = await until(lambda: learner.pid)
    await learner.close()
    assert stat_of(pid) is None
    await learner.close()
    with pytest.raises(AssertionError, match="closed"):
        learner.submit("web", a_request())


async def test_the_process_dies_with_its_parent():
    """A parent that is killed outright takes the learner with it."""
    text = (
        "import subprocess, sys, os, time\n"
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'poolwright.learn', str(os.getpid())],"
        " stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE
    )
    child = int(await parent.stdout.readline())
    # niced only after it has asked to die with its parent
    await until(lambda: os.getpriority(os.PRIO_PROCESS, child) >= 10)
    os.kill(child, signal.SIGSTOP)  # so that it cannot end by reading end of input
    parent.kill()
    await parent.wait()
    await until(lambda: (stat_of(child) or ["Z"])[0] == "Z")


def test_the_control_process_stays_free_of_numpy():
    import subprocess

    text = (
        "import sys, poolwright.engine.learner; "
        "print([m for m in ('numpy', 'scipy', 'skopt', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ANSWERS_WHEN_TOLD = """
import sys, time
from pathlib import Path
from poolwright.learn.wire import Reply, decode_request, encode
sys.path.insert(0, {support!r})
import ticks
for line in sys.stdin.buffer:
    asked = decode_request(line)
    while not Path({told!r} + str(asked.version)).exists():
        time.sleep(0.01)
    sys.stdout.buffer.write(encode(Reply(plan=ticks.plan(asked.version, 4))))
    sys.stdout.buffer.flush()
"""


async def test_what_was_asked_under_another_policy_is_not_answered(tmp_path):
    """The answer to a forgotten request is thrown away; the next request is answered."""
    told = tmp_path / "told"
    support = str(Path(__file__).parents[1] / "support")
    command = script(tmp_path, ANSWERS_WHEN_TOLD.format(support=support, told=str(told)))
    async with learning(command=command) as learner:
        learner.submit("web", a_request(version=1))
        await until(lambda: learner.pid is not None)
        learner.forget("web")
        learner.submit("web", a_request(version=2))
        (tmp_path / "told1").touch()
        (tmp_path / "told2").touch()
        plan = await until(lambda: learner.take("web"))
        assert plan.version == 2
        learner.submit("web", a_request(version=3))
        learner.submit("api", a_request(version=4))
        learner.forget("api")
        (tmp_path / "told3").touch()
        assert (await until(lambda: learner.take("web"))).version == 3
        assert learner.take("api") is None


async def test_a_death_over_a_forgotten_request_is_no_failure_of_the_next(tmp_path):
    told = tmp_path / "told"
    text = "import sys, time\nfrom pathlib import Path\nsys.stdin.readline()\n"
    text += f"while not Path({str(told)!r}).exists(): time.sleep(0.01)\nsys.exit(3)\n"
    async with learning(command=script(tmp_path, text)) as learner:
        learner.submit("web", a_request())
        await until(lambda: learner.pid is not None)
        learner.forget("web")
        told.touch()
        await until(lambda: learner.state is LearnerState.FAILED)
        assert learner.failure("web") == ""


async def test_what_is_forgotten_during_the_pause_after_a_death_does_not_end_it(tmp_path):
    command = script(tmp_path, "import sys\nsys.stdin.readline()\nsys.exit(3)\n")
    async with learning(command=command, pause_s=0.3) as learner:
        learner.submit("web", a_request())
        await until(lambda: learner.failure("web"))
        learner.submit("web", a_request())
        await asyncio.sleep(0)  # its task has seen the request, and waits
        learner.forget("web")
        await until(lambda: time.monotonic() > learner._resume_at + 0.05)
        learner.submit("web", a_request())
        assert "exit status 3" in await until(lambda: learner.failure("web"))


def test_a_pipe_that_closed_between_two_requests_is_a_failure_under_the_daemons_own_loop(tmp_path):
    go = tmp_path / "go"
    text = "import sys, time\nfrom pathlib import Path\nsys.stdin.readline()\n"
    text += 'print(\'{"error": "no"}\', flush=True)\n'
    text += f"while not Path({str(go)!r}).exists(): time.sleep(0.01)\nsys.exit(3)\n"

    async def ask_twice():
        async with learning(command=script(tmp_path, text)) as learner:
            learner.submit("web", a_request())
            assert await until(lambda: learner.failure("web")) == "no"
            learner._process.stdin.transport.abort()  # as uvloop does when the reader has gone
            learner.submit("web", a_request())
            go.touch()
            assert "exit status 3" in await until(lambda: learner.failure("web"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask_twice())
