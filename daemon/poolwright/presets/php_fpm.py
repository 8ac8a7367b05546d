"""php-fpm: a pool's max_children in its file, seen by its status page and nginx's log."""

import re
from pathlib import Path

from poolwright.actuators.php_fpm_pool import has_grace
from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    HOST,
    Advice,
    Asked,
    Found,
    Options,
    Sight,
    mean_rss,
    nginx_log,
    pidfile_of,
    signalling,
    trees,
)
from poolwright.presets.ini import sections

_MASTER = re.compile(r"php-fpm: master process \((.+)\)")


class PhpFpmPreset:
    """php-fpm masters, whose title names their main file."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes with that title."""
        return facts.masters(lambda process: bool(_MASTER.match(" ".join(process.words))))

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """Each pool of the master."""
        match = _MASTER.match(" ".join(master.words))
        assert match is not None, "this is what it was found by"
        main = match[1]
        text = facts.files.read(main) or ""
        pools = []
        for path in (main, *_included(text, main, facts)):
            for section, lines in sections(facts.files.read(path) or "").items():
                if section != "global":
                    pools.append(_Pool(master, main, path, section, lines))
        return [pool.found(text, facts, asked) for pool in pools]


class _Pool:
    """One section of one file."""

    def __init__(
        self, master: Process, main: str, path: str, section: str, lines: dict[str, str]
    ) -> None:
        self._master, self._main, self._path = master, main, path
        self._section, self._lines = section, lines

    def found(self, main_text: str, facts: Facts, asked: Asked) -> Found:
        """What a configuration needs to know."""
        master, size = self._master, self._lines.get("pm.max_children", "")
        told = sections(main_text).get("global", {}).get("pid", "")
        pidfile = pidfile_of(facts, master, told, asked)
        missing = []
        if not pidfile:
            what = f"{self._main}: no `pid` that names process {master.pid}"
            missing.append(Advice(what=what, add="pid = /run/php/php-fpm.pid"))
        if not master.exe:
            missing.append(Advice(what=f"this user may not see the binary of {master.pid}"))
        sights, better = self._sights(asked)
        if not has_grace(main_text.encode()):
            what = f"{self._main}: a reload cuts requests off, so nothing will be moved"
            better.append(Advice(what=what, add="process_control_timeout = 10s"))
        if not sights[:1] or sights[0].options["kind"] == "listen_queue":
            missing += better[:1]  # nobody would tell of requests
        title = f"php-fpm: pool {self._section}"
        workers = [p for p in facts.children(master.pid) if " ".join(p.words) == title]
        memory = [sight for sight in trees(pidfile, master) if "pidfile" in sight.options]
        return Found(
            kind="php_fpm",
            pid=master.pid,
            name=asked.pool or self._section,
            own_name=self._section,
            knob="workers",
            actuator={
                "kind": "php_fpm",
                "config": self._path,
                "main_config": self._main,
                "pidfile": pidfile,
                "binary": master.exe,
                "pool": self._section,
            },
            level=int(size) if size.isdigit() else len(workers),
            sights=(*sights, *(s for s in memory if s.options["kind"] == "process_tree"), HOST),
            latency=bool(asked.access_log),
            errors=bool(asked.access_log),
            worker_bytes=mean_rss(workers),
            settle="5s",
            missing=tuple(missing),
            better=tuple(better),
            rights=(*signalling(facts, master), *_writing(self._path, facts)),
        )

    def _sights(self, asked: Asked) -> tuple[list[Sight], list[Advice]]:
        """Nginx's log, the status page and the accept queue."""
        sights, better = nginx_log(asked), []
        listen = self._lines.get("listen", "")
        page, at = self._lines.get("pm.status_path", ""), self._lines.get("pm.status_listen", "")
        if page:
            own: Options = {"kind": "php_fpm", "listen": _address(at or listen), "path": page}
            sights.append(Sight(options=own, why="requests and busy workers, as php-fpm counts"))
        else:
            what = f"{self._path}: [{self._section}] has no status page"
            better.append(Advice(what=what, add="pm.status_path = /status"))
        if page and not at:
            what = "the status page takes a worker and waits behind the requests"
            better.append(Advice(what=what, add="pm.status_listen = /run/php/status.sock"))
        if not asked.access_log:
            what = "php-fpm tells no latency: name the log of nginx in front of it"
            better.append(Advice(what=what, add="poolwright init --access-log FILE"))
        if listen:
            queue: Options = {"kind": "listen_queue", "listen": [_address(listen)]}
            sights.append(Sight(options=queue, why="connections that no worker has accepted yet"))
        return sights, better


def _included(text: str, main: str, facts: Facts) -> list[str]:
    """The files that php-fpm.conf includes."""
    patterns = re.findall(r"^\s*include\s*=\s*\"?([^\";\n]+?)\"?\s*(?:;.*)?$", text, re.MULTILINE)
    return [path for one in patterns for path in facts.files.matching(str(Path(main).parent / one))]


def _address(listen: str) -> str:
    """php-fpm's way of writing an address, as the sensors take it."""
    if listen.startswith("/"):
        return f"unix:{listen}"
    return f"127.0.0.1:{listen}" if listen.isdigit() else listen


def _writing(path: str, facts: Facts) -> tuple[Advice, ...]:
    if facts.files.writable(str(Path(path).parent)):
        return ()
    what = f"this user ({facts.user}) may not write {Path(path).parent}"
    return (Advice(what=what, add=f"ReadWritePaths={Path(path).parent} and that user's right to"),)
