"""`poolwright init`: a first configuration and policy for what runs on this host.

Finds gunicorn, uWSGI, uvicorn, Celery, php-fpm, PgBouncer and HAProxy among the processes, and the
instances of templates that systemd runs, asks at a terminal which of them is meant (or goes by
--pid and --kind), tries every sensor and the actuator once, and then writes DIR/poolwright.yaml, a
preset for each, and DIR/policies.d/POOL.yaml in mode recommend (--full: actuator, sensors and
policy written out). It never replaces a file and changes nothing of the service; what the service
lacks is told with the line to add.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from poolwright.cli import check
from poolwright.cli.main import EXIT_PLANT, EXIT_POLICY
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.presets import PRESETS, load
from poolwright.presets.facts import Facts, Process, gather
from poolwright.presets.found import Asked, Found, printable
from poolwright.presets.render import config_text, policy_text
from poolwright.presets.write import put_in_place, refuse_existing

_CONFIG = "poolwright.yaml"
_POLICIES = "policies.d"
_NAME_MOST = 40
_UNITS = "systemd_units"
_OPERATORS_WORD = (
    ("pool", "NAME", "what to call the pool"),
    ("pidfile", "FILE", "a pidfile of the master that its own arguments do not tell"),
    ("broker", "URL", "Celery's broker, without a password"),
    ("user", "NAME", "PgBouncer's admin user"),
    ("password-file", "FILE", "a file with the password of broker or PgBouncer"),
    ("access-log", "FILE", "nginx's log in front of the service, as docs/init.md says"),
)


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "init", help="write a first configuration for what runs here", description=__doc__
    )
    parser.add_argument("--kind", choices=sorted(PRESETS), help="only services of this kind")
    parser.add_argument("--pid", type=int, help="only the service of this master process")
    for name, what, text in _OPERATORS_WORD:
        parser.add_argument(f"--{name}", default="", metavar=what, help=text)
    parser.add_argument(
        "--out",
        type=Path,
        default=check.DEFAULT_PATH.parent,
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--full", action="store_true", help="write actuator, sensors and a whole policy out"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing and write")
    parser.add_argument("--json", action="store_true", help="say what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Find, choose, try and write; 0 when it is written."""
    facts = asyncio.run(gather(time.monotonic_ns(), _of_interest()))
    services = _services(facts, args)
    if not args.json:
        _tell(services)
    # Both: who cannot see the question cannot answer it.
    asking = sys.stdin.isatty() and sys.stdout.isatty() and not args.yes and not args.json
    if asking:
        services = _completed(services, facts, args, _ask)
    chosen = [found for found in services if not found.missing]
    if chosen and asking:
        chosen = _asked(chosen, _ask)
        if not chosen:
            _say("nothing was written")
            return EXIT_POLICY
    here = args.out != check.DEFAULT_PATH.parent
    files = _files(chosen, facts, full=args.full, here=here) if chosen else {}
    if args.json:
        more = ({"kind": f.kind, "knob": f.knob, "movable": not f.missing} for f in services)
        shown = [asdict(found) | told for found, told in zip(services, more, strict=True)]
        print(
            json.dumps({"found": shown, "files": {str(k): v for k, v in files.items()}}, indent=2)
        )
    if not chosen:
        _say("nothing was written: of these, none can be moved yet")
        return EXIT_PLANT
    if not (args.yes or asking):
        _say("nothing was written: --yes writes it")
        return EXIT_POLICY
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        return _write(files, args.out)


def _say(text: str) -> None:
    print(f"poolwright: {text}", file=sys.stderr)


def _of_interest() -> Callable[[Process], bool]:
    """Whether a process is called like a server that is known, seen by its command line alone."""
    presets = [load(kind) for kind in PRESETS]

    def closely(process: Process) -> bool:
        alone = Facts(processes={process.pid: process})
        return any(preset.find(alone) for preset in presets)

    return closely


def _services(facts: Facts, args: argparse.Namespace) -> list[Found]:
    """What was asked for, each pool with a name of its own. Raises PolicyError when none is."""
    asked = Asked(**{name.replace("-", "_"): _word(args, name) for name, _, _ in _OPERATORS_WORD})
    services: list[Found] = []
    for kind in [args.kind] if args.kind else PRESETS:
        preset = load(kind)
        for master in preset.find(facts):
            if _is_meant(master.pid, args.pid, asked.pidfile, facts):
                found = preset.describe(master, facts, asked)
                facts = replace(facts, udp_ports=facts.udp_ports.union(*map(_ports, found)))
                services += found
    # What a server does by itself is finer than whole instances of it.
    taken = {found.pid for found in services if found.kind != _UNITS}
    services = [f for f in services if f.kind != _UNITS or f.pid not in taken]
    if not services:
        raise PolicyError(_nobody(facts, args))
    if args.pool and len(services) > 1:  # the pool of a php-fpm, the backend of a HAProxy
        services = _of_name(services, asked.pool)
    if len(services) > 1 and asked.access_log:
        which = f"name it by --pid ({_pids(services)}), or by --pool ({_own(services)})"
        raise PolicyError(f"--access-log is the log of one service: {which}")
    return _named(services)


def _is_meant(pid: int, wanted: int | None, pidfile: str, facts: Facts) -> bool:
    """Whether a master is the one that --pid, or else --pidfile, names; without both any is."""
    if wanted is None and pidfile:
        return facts.names(pidfile, pid)
    return wanted in (None, pid)


def _of_name(services: list[Found], name: str) -> list[Found]:
    """The one that its server itself calls so. Raises PolicyError."""
    named = [found for found in services if found.own_name == name]
    if len(named) != 1:
        raise PolicyError(f"--pool is for one service: name it by --pid ({_pids(services)})")
    return named


def _pids(services: list[Found]) -> str:
    return ", ".join(str(pid) for pid in dict.fromkeys(found.pid for found in services))


def _own(services: list[Found]) -> str:
    return ", ".join(found.own_name for found in services if found.own_name) or "none here"


def _ports(found: Found) -> set[int]:
    """The UDP ports that its sensors will receive at, which are nobody else's any more."""
    listening = map(found.preset.get, ("requests", "statsd"))
    return {int(at.rpartition(":")[2]) for at in listening if isinstance(at, str)}


def _word(args: argparse.Namespace, name: str) -> str:
    told = str(getattr(args, name.replace("-", "_")))
    return str(Path(told).absolute()) if told and name.endswith(("file", "log")) else told


def _nobody(facts: Facts, args: argparse.Namespace) -> str:
    kinds = args.kind or f"{', '.join(sorted(PRESETS))}"
    if args.pid is None and args.pidfile:
        return f"--pidfile {args.pidfile} names no master process of {kinds}"
    if args.pid is None:
        why = f" ({facts.no_units})" if args.kind == _UNITS and facts.no_units else ""
        return f"no master process of {kinds} is seen here{why}"
    process = facts.processes.get(args.pid)
    if process is None:
        return f"process {args.pid} is not running"
    if process.ppid in facts.processes and args.kind is None:
        kinds += f", which its parent {process.ppid} may be"
    what = printable(" ".join(process.words))[:60] or "a process without a command line"
    return f"process {args.pid} ({what}) is no master of {kinds}"


def _named(services: list[Found]) -> list[Found]:
    """The same with names that a configuration takes, each once."""
    taken: set[str] = set()
    named = []
    for found in services:
        plain = re.sub(r"[^a-z0-9]+", "-", found.name.lower())[:_NAME_MOST].strip("-")
        stem = (
            plain if plain[:1].isalpha() else f"{found.kind}-{plain}".strip("-").replace("_", "-")
        )
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        named.append(replace(found, name=name))
    return named


def _tell(services: Sequence[Found]) -> None:
    for found in services:
        print(found.title)
        for what, advice in (
            ("cannot be moved yet", found.missing),
            ("poolwright needs", found.rights),
            ("to see more", found.better),
        ):
            for item in advice:
                print(f"  {what}: {printable(str(item))}")


def _ask(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""


def _completed(
    services: list[Found], facts: Facts, args: argparse.Namespace, ask: Callable[[str], str]
) -> list[Found]:
    """One service with the flags that it lacks, as far as the person at the terminal knows them.

    Flags are of one service: of several none is asked for. Raises PolicyError for a wrong answer.
    """
    while len(services) == 1:
        flag = next((advice.flag for advice in services[0].missing if advice.flag), "")
        answer = ask(f"--{flag} ({services[0].title}; empty: not known): ") if flag else ""
        if not answer:
            break
        setattr(args, flag.replace("-", "_"), answer)
        services = _services(facts, args)
        _tell(services)
    return services


def _asked(services: list[Found], ask: Callable[[str], str]) -> list[Found]:
    """Those that the person at the terminal means."""
    if len(services) == 1:
        answer = ask(f"Write a configuration for {services[0].title}? [Y/n] ")
        return services if answer.lower() in ("", "y", "yes") else []
    for number, found in enumerate(services, 1):
        print(f"  {number}  {found.title}")
    answer = ask("Which? Numbers, or all: ")
    if answer.lower() == "all":
        return services
    numbers = answer.replace(",", " ").split()
    wrong = [n for n in numbers if not n.isdigit() or not 0 < int(n) <= len(services)]
    if wrong:
        raise PolicyError(f"{wrong[0]!r} is none of 1 to {len(services)}")
    return [services[number - 1] for number in sorted({int(n) for n in numbers})]


def _files(chosen: list[Found], facts: Facts, *, full: bool, here: bool) -> dict[Path, str]:
    """Text by the path below the folder that is written to."""
    policies = {
        Path(_POLICIES) / f"{f.name}.yaml": policy_text(f, facts, full=full) for f in chosen
    }
    return {**policies, Path(_CONFIG): config_text(chosen, _POLICIES, full=full, here=here)}


def _write(files: dict[Path, str], out: Path) -> int:
    """Write the files beside where they belong, try them there, and put them in place."""
    finals = [out / path for path in files]
    refuse_existing(finals)
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".poolwright-init-", dir=out) as folder:
            written = _tried(files, Path(folder), out)
    except OSError as error:
        raise PlantFault(f"{error.filename or out}: {error.strerror}") from error
    if not written:
        if is_new:
            out.rmdir()
        _say("nothing was written: what it would say does not work here, see above")
        return EXIT_PLANT
    for path in finals:
        print(f"wrote {path}")
    unit = out == check.DEFAULT_PATH.parent
    run = (
        "install, then systemctl enable --now poolwright" if unit else f"run --config {finals[-1]}"
    )
    print(f"next: poolwright {run}")
    return 0


def _tried(files: dict[Path, str], folder: Path, out: Path) -> bool:
    """Whether the files work here as they are written to `folder`; then they are in `out` too."""
    staged = {folder / path: out / path for path in files}
    for path, text in zip(staged, files.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o666 & ~_umask())
    trial = argparse.Namespace(paths=[folder / _CONFIG], probe=True, effective=False)
    if check.run(trial):
        return False
    put_in_place(staged)
    return True


def _umask() -> int:
    """The permissions that this process withholds from new files."""
    now = os.umask(0o077)
    os.umask(now)
    return now
