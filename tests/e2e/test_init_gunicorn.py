"""`poolwright init` before a real gunicorn: what it writes, `check --probe` finds right."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gunicorn_service import GunicornService
from initialised import at_a_terminal, free_udp, init, poolwright

from poolwright.sensors.access_log import gunicorn_flags

pytestmark = pytest.mark.e2e


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_writes_what_check_finds_right_once(tmp_path):
    listen = free_udp()
    with GunicornService(tmp_path, workers=3, flags=gunicorn_flags(listen)) as service:
        before = service.children()
        out = tmp_path / "etc"
        done = init(service.pid, out)
        assert done.returncode == 0, done.stderr + done.stdout
        assert written(out) == ["policies.d/sleeping-app.yaml", "poolwright.yaml"]
        policy = (out / "policies.d/sleeping-app.yaml").read_text()
        assert "mode: recommend" in policy
        assert "workers: {min: 2, max: " in policy
        assert "memory: 3 now + (85% of " in policy
        config = (out / "poolwright.yaml").read_text()
        assert f"pidfile: {service.pidfile}" in config
        assert f"control: {service.control}" in config
        assert f'requests: "{listen}"' in config
        lines = [line for line in config.splitlines() if line and line.lstrip()[0] != "#"]
        assert lines[:2] == ["version: 1", "policies: policies.d"]
        assert lines[2:5] == ["control: control.sock", "journal: journal.db", "pools:"]
        assert [line.split()[0] for line in lines[5:]][:2] == ["-", "preset:"]

        probed = poolwright("check", "--probe", out / "poolwright.yaml")
        assert probed.returncode == 0, probed.stdout + probed.stderr
        assert "workers=3" in probed.stdout.replace("'", "").replace(": 3", "=3")
        assert probed.stderr == ""

        stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
        again = init(service.pid, out)
        assert again.returncode == 2
        assert f"{out}/poolwright.yaml exist; nothing was written" in again.stderr
        assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == stamps
        assert service.children() == before


def test_a_gunicorn_that_tells_nothing_gets_the_lines_to_add(tmp_path):
    with GunicornService(tmp_path, pidfile=False) as service:
        out = tmp_path / "etc"
        done = init(service.pid, out, "--pool", "web")
        assert done.returncode == 0, done.stderr + done.stdout
        assert "--pid /run/web/gunicorn.pid" in done.stdout
        assert "--log-syslog --log-syslog-to udp://127.0.0.1:" in done.stdout
        assert poolwright("check", "--probe", out / "poolwright.yaml").returncode == 0


def test_neither_pidfile_nor_control_socket(tmp_path):
    with GunicornService(tmp_path, pidfile=False, control=False) as service:
        done = init(service.pid, tmp_path / "etc")
        assert done.returncode == 3
        assert "gunicorn --pid /run/sleeping_app/gunicorn.pid" in done.stdout
        assert not (tmp_path / "etc").exists()

        pidfile = tmp_path / "own.pid"
        pidfile.write_text("1\n")
        done = init(service.pid, tmp_path / "etc", "--pidfile", str(pidfile))
        assert done.returncode == 2
        assert done.stderr == f"--pidfile {pidfile} does not name process {service.pid}\n"
        pidfile.write_text(f"{service.pid}\n")
        done = init(service.pid, tmp_path / "etc", "--pidfile", str(pidfile))
        assert done.returncode == 0, done.stderr + done.stdout


def test_the_wrong_process_is_one_message(tmp_path):
    done = init(os.getpid(), tmp_path / "etc")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"process {os.getpid()} (")
    assert done.stderr.count("\n") == 1
    with GunicornService(tmp_path) as service:
        done = init(service.children()[0], tmp_path / "etc")
        assert f"which its parent {service.pid} may be" in done.stderr
        service.signal(signal.SIGTERM)
        service.process.wait()
        done = init(service.pid, tmp_path / "etc")
        assert done.stderr == f"process {service.pid} is not running\n"
    assert not (tmp_path / "etc").exists()


def test_json_says_all_and_writes_nothing_without_yes(tmp_path):
    with GunicornService(tmp_path) as service:
        out = tmp_path / "etc"
        done = poolwright("init", "--pid", service.pid, "--out", out, "--json")
        assert done.returncode == 2
        told = json.loads(done.stdout)
        assert [f["kind"] for f in told["found"]] == ["gunicorn"]
        assert told["found"][0]["level"] == 2
        assert "poolwright.yaml" in told["files"]
        assert not out.exists()


def test_what_does_not_work_here_is_not_written(tmp_path):
    with GunicornService(tmp_path) as service:
        out = tmp_path / "etc"
        out.write_text("a file where the folder should be")
        done = init(service.pid, out)
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert str(out) in done.stderr


_AS_NOBODY = """
import contextlib, io, os, sys
from poolwright.cli.main import main
pid, first, out = sys.argv[1:]
words = ["init", "--pid", pid, "--yes", "--out"]
with contextlib.redirect_stdout(io.StringIO()):
    main([*words, first])  # all is imported: the interpreter's own files may not be nobody's
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main([*words, out]) or main(["check", "--probe", f"{first}/poolwright.yaml"]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_signal_is_told_what_would_allow_it():
    with tempfile.TemporaryDirectory(prefix="pw-init-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        out = Path(folder) / "etc"
        out.mkdir()
        os.chown(out, 65534, 65534)
        with GunicornService(folder) as service:
            done = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, str(service.pid), f"{folder}/first", out],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            print(done.stdout, done.stderr)
            assert done.returncode == 0
            assert "this user (nobody) may not signal processes of root" in done.stdout
            mine, roots = out / "poolwright.yaml", Path(folder) / "first/poolwright.yaml"
            assert "CAP_KILL" in mine.read_text()
            assert "listen: " not in mine.read_text()
            assert f'listen: ["127.0.0.1:{service.port}"]' in roots.read_text()


def test_at_a_terminal_it_asks(tmp_path):
    out = tmp_path / "etc"
    with GunicornService(tmp_path) as service:
        for answer, status in (("n\n", 2), ("\n", 0)):
            said, code = at_a_terminal(answer, "init", "--pid", service.pid, "--out", out)
            assert "Write a configuration for gunicorn sleeping-app" in said
            assert code == status, said
            assert out.exists() == (status == 0)


def test_at_a_terminal_it_asks_for_the_flag_that_is_missing(tmp_path):
    pidfile = tmp_path / "own.pid"
    with GunicornService(tmp_path, pidfile=False, control=False) as service:
        pidfile.write_text(f"{service.pid}\n")
        words = ("init", "--pid", service.pid, "--out", tmp_path / "etc")
        said, code = at_a_terminal(f"{pidfile}\n\n", *words)
        assert "--pidfile (gunicorn sleeping-app" in said
        assert code == 0, said
        assert f"pidfile: {pidfile}" in (tmp_path / "etc/poolwright.yaml").read_text()


def test_without_a_terminal_on_both_sides_it_never_waits(tmp_path):
    out = tmp_path / "etc"
    with GunicornService(tmp_path) as service:
        words = [sys.executable, "-m", "poolwright", "init", "--pid", str(service.pid)]
        ours, theirs = pty.openpty()  # nothing is ever written to it
        with os.fdopen(ours), os.fdopen(theirs) as inner:
            done = subprocess.run(
                [*words, "--out", out],
                stdin=inner,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        assert (done.returncode, out.exists()) == (2, False)
        assert "--yes writes it" in done.stderr
