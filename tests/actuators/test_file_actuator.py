"""What is special about `file`: where the level stands, how the file is replaced, who is told."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from gunicorn_service import until

from poolwright.actuators import replace_file
from poolwright.actuators.file import File, LevelUrl
from poolwright.actuators.text_level import Place
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, Setting, setting

KEY, POINTER, PATTERN = "key", "pointer", "pattern"
HELD = {
    "whole": ({}, b" 4\n", b" 12\n"),
    "ini": ({KEY: "pm.max"}, b"pm.max = 4 ; x\npm.maxx = 5\n", b"pm.max = 12 ; x\npm.maxx = 5\n"),
    "shell": (
        {KEY: "W"},
        b'# W=1\r\nexport W="4"\r\nXW=3\r\n',
        b'# W=1\r\nexport W="12"\r\nXW=3\r\n',
    ),
    "yaml": ({KEY: "workers"}, b"  workers: 4 # x\n", b"  workers: 12 # x\n"),
    "nginx": ({KEY: "worker_processes"}, b"\tworker_processes  4;\n", b"\tworker_processes  12;\n"),
    "last line": ({KEY: "W"}, b"a=1\nW=4", b"a=1\nW=12"),
    "json": (
        {POINTER: "/a/1/b~1c"},
        '{ "é": 1,\n "a" :[ 9 , {"b/c":4 ,"b":[{}]}]}'.encode(),
        '{ "é": 1,\n "a" :[ 9 , {"b/c":12 ,"b":[{}]}]}'.encode(),
    ),
    "json text": ({POINTER: "/a"}, b'{"a": "4"}', b'{"a": "12"}'),
    "json, twice": ({POINTER: "/a"}, b'{"a": 1, "a": 4}', b'{"a": 1, "a": 12}'),
    "pattern": ({PATTERN: r"-w (\d+) "}, b"ARGS='-t 3 -w 4 \xff'\n", b"ARGS='-t 3 -w 12 \xff'\n"),
}


def file(path, **options):
    return File(File.Options(path=str(path), confirm_timeout=0.3, **options), "web")


@pytest.mark.parametrize("how", HELD)
async def test_only_the_digits_change(tmp_path, how):
    options, before, after = HELD[how]
    path = tmp_path / "conf"
    path.write_bytes(before)
    made = file(path, **options)
    assert (await made.read()).setting == setting(workers=4)
    assert (await made.apply(setting(workers=12), 1)).status is ActuationStatus.APPLIED
    assert path.read_bytes() == after
    assert (await made.read()).setting == setting(workers=12)
    assert [p.name for p in tmp_path.iterdir()] == ["conf"]


NOT_HELD = {
    "empty": ({}, b"", "no level"),
    "words": ({}, b"four", "'four' is no level"),
    "no line": ({KEY: "W"}, b"X=1\n", "has no line `W = NUMBER`"),
    "two lines": ({KEY: "W"}, b"W=1\nW=2\n", "has more than one line"),
    "no number": ({KEY: "W"}, b"W=$((2*4))\n", "has no line"),
    "no json": ({POINTER: "/a"}, b"{a: 1}", "is no JSON"),
    "cut json": ({POINTER: "/a"}, b'{"a": 4', "is no JSON"),
    "nothing there": ({POINTER: "/a/b"}, b'{"a": {}}', "has nothing at /a/b"),
    "a list": ({POINTER: "/a"}, b'{"a": [4]}', "is no level"),
    "a fraction": ({POINTER: "/a"}, b'{"a": 4.5}', "is no level"),
    "huge": ({POINTER: "/a"}, b'{"a": ' + b"9" * 5000 + b"}", "is no"),
    "deep": ({POINTER: "/a"}, b"[" * 100_000, "is no JSON"),
    "two matches": ({PATTERN: r"(\d)"}, b"1 2", "more than one match"),
    "no utf-8": ({POINTER: "/a"}, b'{"a": "\xff"}', "is no JSON"),
}


@pytest.mark.parametrize("how", NOT_HELD)
async def test_what_holds_no_level_is_a_fault_that_names_the_file(tmp_path, how):
    options, text, why = NOT_HELD[how]
    path = tmp_path / "conf"
    path.write_bytes(text)
    with pytest.raises(PlantFault) as fault:
        await file(path, **options).read()
    assert str(path) in str(fault.value)
    assert why in str(fault.value)
    outcome = await file(path, **options).apply(setting(workers=3), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert path.read_bytes() == text


async def test_several_knobs_in_one_file(tmp_path):
    path = tmp_path / "conf"
    path.write_text("pool.workers = 2\npool.threads = 8\n")
    made = file(path, key="pool.{knob}", knobs=("workers", "threads"))
    assert (await made.read()).setting == setting(threads=8, workers=2)
    wanted = Setting(levels=(("threads", 4), ("workers", 3)))
    assert (await made.apply(wanted, 1)).status is ActuationStatus.APPLIED
    assert path.read_text() == "pool.workers = 3\npool.threads = 4\n"


def test_a_line_of_blanks_is_linear():
    blanks = b"W" + b" " * 300_000 + b"= 4" + b" " * 300_000 + b"x\n"
    began = time.thread_time()
    with pytest.raises(PlantFault, match="has no line"):
        Place("W", None, None).span(blanks, "workers")
    assert time.thread_time() - began < 1.0


def test_a_pattern_that_would_backtrack_for_ever_is_linear():
    place = Place(None, None, r"((?:a+)+)b")
    with pytest.raises(PlantFault, match="has no match"):
        place.span(b"a" * 1_000_000, "workers")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, or drops from root to nobody")
async def test_owner_mode_and_attributes_stay(tmp_path):
    path = tmp_path / "conf"
    path.write_text("4")
    os.chown(path, 1234, 4321)
    path.chmod(0o2640)
    os.setxattr(path, "user.note", b"hello")
    assert (await file(path).apply(setting(workers=5), 1)).status is ActuationStatus.APPLIED
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (1234, 4321, 0o2640)
    assert os.getxattr(path, "user.note") == b"hello"


async def test_a_symbolic_link_stays_one(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("4")
    link.symlink_to(real)
    assert (await file(link).apply(setting(workers=5), 1)).status is ActuationStatus.APPLIED
    assert link.is_symlink()
    assert real.read_text() == "5"


@pytest.fixture
def reader(tmp_path):
    """A process that reads a file over and over, and ends when it was not whole."""
    path = tmp_path / "conf"
    path.write_text("# " + "x" * 200_000 + "\nW = 4\n")
    read = "import sys\nwhile True:\n    text = open(sys.argv[1]).read()\n"
    read += "    assert len(text) == int(sys.argv[2]) and text.endswith('\\n'), len(text)\n"
    process = subprocess.Popen([sys.executable, "-c", read, str(path), str(path.stat().st_size)])
    yield process
    process.kill()
    process.wait()


async def test_readers_see_the_old_file_or_the_new_one_whole(tmp_path, reader):
    made = file(tmp_path / "conf", key="W")
    for level in (5, 6) * 100:
        assert (await made.apply(setting(workers=level), 1)).status is ActuationStatus.APPLIED
    assert reader.poll() is None


async def test_what_somebody_else_writes_meanwhile_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "conf"
    path.write_text("4")
    write = replace_file._write

    def beaten(*args):
        write(*args)
        path.write_text("9")

    monkeypatch.setattr(replace_file, "_write", beaten)
    outcome = await file(path).apply(setting(workers=5), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "somebody else has just written it" in outcome.detail
    assert path.read_text() == "9"
    assert [p.name for p in tmp_path.iterdir()] == ["conf"]


@pytest.mark.parametrize("name", ["fsync", "fchmod", "open", "write"])
async def test_a_disk_that_is_full_or_broken_leaves_the_file_as_it_was(tmp_path, monkeypatch, name):
    path = tmp_path / "conf"
    path.write_text("4")
    really = getattr(os, name)

    def broken(*args, **kwargs):
        if name == "open" and not str(args[0]).endswith(".poolwright"):
            return really(*args, **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(replace_file.os, name, broken)
        outcome = await file(path).apply(setting(workers=5), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "No space left on device; left as it was" in outcome.detail
    assert path.read_text() == "4"
    assert [p.name for p in tmp_path.iterdir()] == ["conf"]


async def test_what_a_killed_daemon_left_behind_does_not_matter(tmp_path):
    path = tmp_path / "conf"
    path.write_text("4")
    (tmp_path / ".conf.poolwright").write_text("half")
    assert (await file(path).apply(setting(workers=5), 1)).status is ActuationStatus.APPLIED
    assert [p.name for p in tmp_path.iterdir()] == ["conf"]


_AS_NOBODY = """
import asyncio, os, sys
from poolwright.actuators.file import File
from poolwright.core.model import setting
os.setgroups([]); os.setgid(65534); os.setuid(65534)
made = File(File.Options(path=sys.argv[1]), "web")
print(asyncio.run(made.apply(setting(workers=5), 1)))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, or drops from root to nobody")
def test_without_permission_it_is_refused_and_says_how_to_allow_it(tmp_path):
    path = tmp_path / "conf"
    path.write_text("4")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    told = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert "REFUSED" in told
    assert "ReadWritePaths" in told
    assert path.read_text() == "4"


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "missing", "long"])
async def test_what_is_no_file_is_a_fault_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "conf"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "long":
        path.write_bytes(b"1" * (2 << 20))
    with pytest.raises(PlantFault, match=str(path)):
        await file(path).read()


_SERVICE = """
import signal, sys, time
from pathlib import Path
conf, log = map(Path, sys.argv[1:3])
def load(*_):
    log.write_text(conf.read_text())
if len(sys.argv) < 4:
    signal.signal(signal.SIGHUP, load)
load()
while True:
    time.sleep(60)
"""


@pytest.fixture
def service(tmp_path):
    """A process that reads its file on SIGHUP, or (`deaf`) handles no signal."""
    started = []

    def start(*, deaf=False):
        conf, log = tmp_path / "conf", tmp_path / "loaded"
        conf.write_text("4")
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-c", _SERVICE, str(conf), str(log), *(["deaf"] * deaf)]
        started.append(subprocess.Popen(argv))
        until(lambda: log.exists() and log.read_text() == "4", 10.0, "the service has its level")
        (tmp_path / "pid").write_text(f"{started[-1].pid}\n")
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


async def test_the_service_is_told_and_what_it_says_is_read_back(tmp_path, service):
    process = service()
    made = file(
        tmp_path / "conf",
        pidfile=str(tmp_path / "pid"),
        get=("cat", str(tmp_path / "loaded")),
        get_timeout=5.0,
    )
    before = await made.read()
    assert before.epoch.startswith(f"{process.pid}:")
    outcome = await made.apply(setting(workers=6), 1)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    assert (tmp_path / "loaded").read_text() == "6"
    # the file is right, what runs is not: it is told again
    (tmp_path / "loaded").write_text("3")
    assert (await made.read()).setting == setting(workers=3)
    assert (await made.apply(setting(workers=6), 2)).status is ActuationStatus.APPLIED
    assert (await made.read()).epoch == before.epoch


async def test_who_does_not_handle_the_signal_is_not_ended_by_it(tmp_path, service):
    process = service(deaf=True)
    made = file(tmp_path / "conf", pidfile=str(tmp_path / "pid"))
    outcome = await made.apply(setting(workers=6), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "does not handle SIGHUP: not signalled" in outcome.detail
    assert process.poll() is None
    assert (tmp_path / "conf").read_text() == "4", "nobody was told, so nothing is claimed"


async def test_a_signal_that_cannot_be_sent_takes_the_change_back(tmp_path, service, monkeypatch):
    service()
    made = file(tmp_path / "conf", pidfile=str(tmp_path / "pid"))

    def gone(handle, number):
        if number == signal.SIGHUP:
            raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(signal, "pidfd_send_signal", gone)
    outcome = await made.apply(setting(workers=6), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert (tmp_path / "conf").read_text() == "4"


async def test_a_stale_pidfile_is_a_fault(tmp_path, service):
    process = service()
    process.kill()
    process.wait()
    made = file(tmp_path / "conf", pidfile=str(tmp_path / "pid"))
    with pytest.raises(PlantFault, match=f"process {process.pid} is not running"):
        await made.read()
    outcome = await made.apply(setting(workers=6), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert (tmp_path / "conf").read_text() == "4"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key": "a", "pointer": "/a"}, "at most one"),
        ({"pattern": "x"}, "exactly one group"),
        ({"pattern": "(x"}, r"pattern: missing \)"),
        ({"pointer": "a"}, "no JSON pointer"),
        ({"knobs": ("a", "b"), "key": "w"}, "each needs its own"),
        ({"get": ("x",), "get_http": LevelUrl(url="http://127.0.0.1:1/")}, "get and get_http"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        File.Options(path="/x", **options)
