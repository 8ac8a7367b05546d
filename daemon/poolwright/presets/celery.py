"""Celery workers: moved and seen through their broker."""

from pathlib import Path
from urllib.parse import urlsplit

from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    Advice,
    Asked,
    Found,
    given,
    mean_rss,
    option,
    pidfile_of,
    tree,
)

_TITLE = "[celeryd: "  # setproctitle's: [celeryd: web@host:MainProcess]


class CeleryPreset:
    """Main processes of Celery workers."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called celery that are workers, and whose parent is not one."""
        return facts.masters(_is_worker)

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the processes of the worker."""
        words = master.words
        node = _node(master, facts)
        broker, secret = asked.broker or option(words, "-b", "--broker"), asked.password_file
        missing = []
        if not broker:
            what = "the broker is not told on the command line"
            missing.append(Advice(what=what, add="poolwright init --broker redis://HOST:6379/0"))
        elif _without_password(broker) != broker:
            broker = _without_password(broker)
            if not secret:
                what = "the broker has a password, which belongs in a file"
                missing.append(Advice(what=what, add="poolwright init --password-file FILE"))
        if option(words, "--autoscale"):
            what = "Celery's own autoscaler moves this worker"
            missing.append(Advice(what=what, add="celery worker -c N, without --autoscale"))
        events = bool({"-E", "--task-events"} & set(words))
        count, workers = option(words, "-c", "--concurrency"), facts.children(master.pid)
        pidfile = pidfile_of(facts, master, option(words, "--pidfile"), asked)
        own = given(broker=broker, node=node, password_file=secret, events=events)
        what = "without events Celery tells no times and no failures"
        return [
            Found(
                preset={"kind": "celery", **own, **tree(pidfile, master)},
                pid=master.pid,
                name=asked.pool or node.partition("@")[0],
                level=int(count) if count.isdigit() else len(workers),
                worker_bytes=mean_rss(workers),
                settle="5s",
                missing=tuple(missing),
                better=() if events else (Advice(what=what, add="celery worker -E"),),
            )
        ]


def _is_worker(process: Process) -> bool:
    words = process.words
    if words[:1] and words[0].startswith(_TITLE):
        return True
    return "worker" in words and any(Path(word).name == "celery" for word in words[:3])


def _node(master: Process, facts: Facts) -> str:
    """The worker's name as Celery makes it: %h is the host, %n what stands before it."""
    if master.words[0].startswith(_TITLE):
        return master.words[0].removeprefix(_TITLE).partition(":")[0]
    told = option(master.words, "-n", "--hostname") or "celery@%h"
    short, _, domain = facts.hostname.partition(".")
    for sign, meant in (("%h", facts.hostname), ("%n", short), ("%d", domain)):
        told = told.replace(sign, meant)
    return told if "@" in told else f"{told}@{facts.hostname}"


def _without_password(broker: str) -> str:
    """The same address without a password, wherever it stands; the same text if there is none."""
    parts = urlsplit(broker)
    if parts.password is None and "password=" not in parts.query:
        return broker
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}{parts.netloc.rpartition('@')[2]}", query="").geturl()
