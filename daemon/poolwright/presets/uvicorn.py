"""uvicorn's supervisor (--workers 2 and more): moved by signals, seen by the log in front of it."""

from pathlib import Path

from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    Advice,
    Asked,
    Found,
    given,
    mean_rss,
    option,
    pidfile_of,
    queue,
    signalling,
    tree,
)


class UvicornPreset:
    """Supervisors of uvicorn workers."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called uvicorn with more than one worker."""
        return facts.masters(_supervises)

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the workers of the supervisor."""
        pidfile = pidfile_of(facts, master, "", asked)
        app = next((w for w in master.words[1:] if ":" in w and w[0] not in "-/"), "uvicorn")
        name = asked.pool or app.partition(":")[0].partition(".")[0]
        missing = []
        if not pidfile:
            what = "uvicorn writes no pidfile: let its unit"
            line = f"ExecStartPost=/bin/sh -c 'echo $MAINPID > /run/{name}/uvicorn.pid'"
            missing.append(Advice(what=what, add=f"{line}, then poolwright init --pidfile FILE"))
        if not asked.access_log:
            what = "uvicorn tells nobody of its requests: name the log of nginx in front of it"
            missing.append(Advice(what=what, add="poolwright init --access-log FILE"))
        own = tree(pidfile, master) | given(access_log=asked.access_log)
        workers = [p for p in facts.children(master.pid) if "spawn_main" in " ".join(p.words)]
        lossy = "uvicorn hangs up on a few new connections when a worker leaves: only growing"
        return [
            Found(
                preset={"kind": "uvicorn", **own, **queue(master)},
                pid=master.pid,
                name=name,
                level=len(workers) or int(option(master.words, "--workers")),
                worker_bytes=mean_rss(workers),
                missing=tuple(missing),
                better=(Advice(what=lossy, add="lossy_shrink: true, where the proxy tries again"),),
                rights=signalling(facts, master),
            )
        ]


def _supervises(process: Process) -> bool:
    named = any(Path(word).name == "uvicorn" for word in process.words[:3])
    workers = option(process.words, "--workers")
    return named and workers.isdigit() and int(workers) > 1
