"""What the daemon itself costs: start to READY, RSS and CPU of the control process.

One real gunicorn service is watched by 1, 10 and 100 pools (`--pools`), each with every kind of
sensor. Request lines as gunicorn writes them are sent to every pool's access-log socket at
`--rps`, in real datagrams. Measured over `--seconds` after the learner has fallen asleep.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil

POLICY = """\
version: 1
name: bench
mode: recommend
knobs:
  workers: {min: 1, max: 16, slew: 4, settle: 2s}
objective: {latency_p99: 1.0, memory: 0.2}
slo:
  latency_p99: {below: 500ms, confidence: 0.9}
  error_ratio: {below: 1%}
explore: {window: 5s, warmup: 2, patience: 2, converged_every: 1000}
"""
APP = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def free_ports(count, kind=socket.SOCK_DGRAM):
    sockets = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def config(folder, pools, ports, web, http):
    lines = [
        "version: 1",
        f"listen: 127.0.0.1:{http}",
        f"control: {folder}/control.sock",
        f"journal: {folder}/journal.db",
        f"policies: {folder}/policies.d",
        "pools:",
    ]
    for i in range(pools):
        lines += [
            f"  - name: web-{i}",
            "    policy: bench",
            f"    actuator: {{kind: gunicorn, pidfile: {folder}/pid}}",
            "    sensors:",
            f'      - {{kind: access_log, listen: "127.0.0.1:{ports[i]}"}}',
            f"      - {{kind: process_tree, pidfile: {folder}/pid}}",
            "      - {kind: host}",
            f'      - {{kind: listen_queue, listen: ["127.0.0.1:{web}"]}}',
            "      - {kind: power}",
        ]
    path = folder / "poolwright.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def line(now, latency_s):
    """One line as the access-log flags make gunicorn write it."""
    micros = round(latency_s * 0.9e6)
    text = f"<14>gunicorn.bench.access: [1] poolwright 200 {micros} t={now - latency_s:.6f}\0"
    return text.encode()


def feed(ports, rps, stop):
    """Real datagrams, `rps` a second to every port, evenly spaced."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    began, sent = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began) * rps)
        while sent < due:
            payload = line(time.time(), 0.05 + 0.01 * (sent % 7))
            for port in ports:
                sender.sendto(payload, ("127.0.0.1", port))
            sent += 1
        stop.wait(min(0.01, 1.0 / rps))
    sender.close()


def start(folder, path):
    """Start the daemon; its process and the seconds until it said READY."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f"{folder}/notify")
    notify.settimeout(120)
    began = time.monotonic()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "poolwright", "run", "--config", str(path)],
        env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"},
        stderr=(folder / "log").open("w"),
    )
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
    except TimeoutError:
        daemon.kill()
        raise SystemExit(f"not READY:\n{(folder / 'log').read_text()}") from None
    return daemon, time.monotonic() - began, notify


def drain(notify, stop):
    notify.settimeout(0.5)
    while not stop.is_set():
        try:
            notify.recv(4096)
        except TimeoutError:
            continue


def asleep(http, most_s):
    """Wait until no pool waits for the learner and its process has gone."""
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/status", timeout=10) as answer:
            pools = json.load(answer)["pools"]
        if all(p["learner"] == "asleep" and p["decision"]["phase"] == "converged" for p in pools):
            return True
        time.sleep(2)
    return False


@contextmanager
def running(folder, pools, rps):
    """(daemon, its port) over a service that serves `rps` to each pool; `daemon.ready_s` is set."""
    folder = Path(folder)
    ports = free_ports(pools)
    web, http = free_ports(2, socket.SOCK_STREAM)
    (folder / "policies.d").mkdir()
    (folder / "policies.d" / "bench.yaml").write_text(POLICY)
    (folder / "app.py").write_text(APP)
    service = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "app:app", "-b", f"127.0.0.1:{web}", "-w", "4",
         "-p", f"{folder}/pid", "--no-control-socket", "--log-level", "warning"],
        cwd=folder,
    )  # fmt: skip
    stop = threading.Event()
    feeder = threading.Thread(target=feed, args=(ports, rps, stop))
    daemon = None
    try:
        while not (folder / "pid").exists():
            time.sleep(0.05)
        feeder.start()
        daemon, ready_s, notify = start(folder, config(folder, pools, ports, web, http))
        daemon.ready_s = ready_s
        threading.Thread(target=drain, args=(notify, stop), daemon=True).start()
        yield daemon, http
    finally:
        stop.set()
        for child in (daemon, service):
            if child is not None:
                child.send_signal(signal.SIGTERM)
                child.wait(30)
        if feeder.is_alive():
            feeder.join()


def measure(folder, pools, rps, seconds, wait):
    with running(folder, pools, rps) as (daemon, http):
        quiet = asleep(http, wait)
        process = psutil.Process(daemon.pid)
        before, at = process.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after, span = process.cpu_times(), time.monotonic() - at
        memory = process.memory_full_info()
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/status", timeout=10) as answer:
            seen = json.load(answer)["pools"]
        return {
            "pools": pools,
            "rps_each": rps,
            "seconds": round(span, 1),
            "learner_asleep": quiet,
            "ready_s": round(daemon.ready_s, 3),
            "rss_mb": round(memory.rss / 2**20, 1),
            "uss_mb": round(memory.uss / 2**20, 1),
            "cpu_percent_of_one_core": round(
                100 * (after.user + after.system - before.user - before.system) / span, 2
            ),
            "phases": sorted({p["decision"]["phase"] for p in seen}),
            "late_ticks": max(dict(p["counters"]).get("late_ticks", 0) for p in seen),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rps", type=float, default=50.0, help="requests a second to each pool")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--wait", type=float, default=180.0, help="most seconds until all is quiet")
    args = parser.parse_args()
    for pools in args.pools:
        with tempfile.TemporaryDirectory(prefix="poolwright-bench-") as folder:
            print(json.dumps(measure(folder, pools, args.rps, args.seconds, args.wait)), flush=True)


if __name__ == "__main__":
    main()
