"""php-fpm: a pool's max_children in its file, seen by its status page and nginx's log."""

import re
from pathlib import Path

from poolwright.actuators.php_fpm_pool import has_grace
from poolwright.policy.preset import PhpFpm
from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    Advice,
    Asked,
    Found,
    Options,
    given,
    mean_rss,
    pidfile_of,
    signalling,
)
from poolwright.presets.ini import sections

_DEBIANS = re.compile(r"/etc/php/([0-9.]+)/fpm/php-fpm\.conf")
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
        requests, better = self._requests(asked)
        if not has_grace(main_text.encode()):
            what = f"{self._main}: a reload cuts requests off, so nothing will be moved"
            better.append(Advice(what=what, add="process_control_timeout = 10s"))
        if not requests:
            missing += better[:1]  # nobody would tell of requests
        title = f"php-fpm: pool {self._section}"
        workers = [p for p in facts.children(master.pid) if " ".join(p.words) == title]
        own = given(
            config=self._path,
            main_config=self._main,
            pidfile=pidfile,
            binary=master.exe,
            **requests,
            listen=[_address(at) for at in (self._lines.get("listen", ""),) if at],
        )
        return Found(
            preset={"kind": "php_fpm", **_shortened(own, self._section)},
            pid=master.pid,
            name=asked.pool or self._section,
            own_name=self._section,
            level=int(size) if size.isdigit() else len(workers),
            worker_bytes=mean_rss(workers),
            settle="5s",
            missing=tuple(missing),
            better=tuple(better),
            rights=(*signalling(facts, master), *_writing(self._path, facts)),
        )

    def _requests(self, asked: Asked) -> tuple[Options, list[Advice]]:
        """Nginx's log and the status page, and what is lacking."""
        found, better = given(access_log=asked.access_log), []
        listen = self._lines.get("listen", "")
        page, at = self._lines.get("pm.status_path", ""), self._lines.get("pm.status_listen", "")
        if page:
            found |= {"status": _address(at or listen), "path": page}
        else:
            what = f"{self._path}: [{self._section}] has no status page"
            better.append(Advice(what=what, add="pm.status_path = /status"))
        if page and not at:
            what = "the status page takes a worker and waits behind the requests"
            better.append(Advice(what=what, add="pm.status_listen = /run/php/status.sock"))
        if not asked.access_log:
            what = "php-fpm tells no latency: name the log of nginx in front of it"
            better.append(Advice(what=what, add="poolwright init --access-log FILE"))
        return found, better


def _shortened(own: Options, section: str) -> Options:
    """Without what Debian's layout tells by its version."""
    pool: Options = {} if section == "www" else {"pool": section}
    at = _DEBIANS.fullmatch(str(own.get("main_config")))
    if at is None:
        return own | pool
    derived = PhpFpm(version=at[1], pool=section).derived()
    derived["path"] = "/status"
    kept = {name: told for name, told in own.items() if derived.get(name) != told}
    unseen: Options = {} if "status" in own else {"status": None}
    return {"version": at[1], **pool, **kept, **unseen}


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
