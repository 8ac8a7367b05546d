"""`poolwright install`: put the systemd unit in place, with the rights that a configuration needs.

Writes the units, the user (sysusers), the folders (tmpfiles), an example configuration, one drop-in
for each actuator or sensor of the configuration that needs a right, and the polkit rule for
`systemd_units`; then tells systemd. Where a package brings the units, only the rest. May be run
again: what was edited is kept and named, what is no more needed is removed. Either all of it is
done or nothing. Enables and starts nothing.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from poolwright.cli.check import DEFAULT_PATH, check_file
from poolwright.cli.install_files import (
    OPT_IN,
    PROGRAM,
    File,
    State,
    dropin_text,
    dropins,
    group_names,
    opt_in,
    polkit_rule,
    shipped,
    unwanted,
    wanted,
)
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.policy.config import DaemonConfig, load_config

_UNITS = ("poolwright.service", "poolwright@.service")
_SYSTEM = "etc/systemd/system"
_PACKAGED = ("usr/lib/systemd/system", "lib/systemd/system")
_POLKIT = "etc/polkit-1/rules.d/50-poolwright-units.rules"
_UNSEEN = ("/home", "/root", "/run/user", "/tmp")  # noqa: S108  ProtectHome=, PrivateTmp=


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "install", help="put the unit and its drop-ins in place", description=__doc__
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"what the daemon will run (default: {DEFAULT_PATH}, or of the instance)",
    )
    parser.add_argument("--instance", metavar="NAME", help="for poolwright@NAME.service")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="more",
        metavar="DROPIN",
        help=f"also this right: {', '.join(OPT_IN)}",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="into this tree; tells nobody"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--remove", action="store_true", help="remove what was installed and not edited"
    )


def run(args: argparse.Namespace) -> int:
    """Install, or remove; 0 when it is done. PolicyError and PlantFault for what stops it."""
    unit = f"poolwright@{args.instance}.service" if args.instance else _UNITS[0]
    packaged = any((args.root / folder / _UNITS[0]).exists() for folder in _PACKAGED)
    if args.remove:
        files = list(_present(args.root, unit))
        _refuse_running(args.root, unit)
        commands = _told(args.root, made=False)
    else:
        files = list(_needed(args, unit, packaged=packaged))
        commands = _told(args.root, made=not packaged)
    changed = [file for file in files if file.state not in (State.UNCHANGED, State.EDITED)]
    for file in files:
        _say(file, dry=args.dry_run)
    for command in commands if changed else ():
        print(f"{'would run' if args.dry_run else 'run':9} {shlex.join(command)}")
    if not args.dry_run:
        _apply(changed, commands if changed else [])
    _next(args, unit)
    return 0


def _say(file: File, *, dry: bool) -> None:
    edited = ": it was edited" if file.state is State.EDITED else ""
    would = "would " if dry and file.state not in (State.UNCHANGED, State.EDITED) else ""
    print(f"{would + file.state:9} {file.path}{edited}")


def _next(args: argparse.Namespace, unit: str) -> None:
    if args.remove:
        print("kept: the configuration in /etc/poolwright, the journal, the user poolwright")
    elif not args.dry_run and args.root == Path("/"):
        what = "" if _config_path(args).exists() else "poolwright init; poolwright install; "
        print(f"next: {what}systemctl enable --now {unit}")


def _config_path(args: argparse.Namespace) -> Path:
    name = f"{args.instance}.yaml" if args.instance else DEFAULT_PATH.name
    given: Path | None = args.config
    return given or args.root / DEFAULT_PATH.parent.relative_to("/") / name


def _needed(args: argparse.Namespace, unit: str, *, packaged: bool) -> Iterator[File]:
    """Every file of the installation. PolicyError as `load_config`, PlantFault as `wanted`."""
    path = _config_path(args)
    if args.config is not None or path.exists():
        config = _checked(path, args.root)
    else:
        config = None
        print(f"{path} is not there yet: no drop-in is chosen", file=sys.stderr)
    if not packaged:
        yield from _base(args.root)
    folder = args.root / _SYSTEM / f"{unit}.d"
    chosen = [*(dropins(config) if config else ()), *map(opt_in, args.more)]
    for name in chosen:
        text = dropin_text(name, config)
        _refuse_unknown(text, name, args.root)
        yield wanted(folder / f"{name}.conf", text)
    for path in sorted(folder.glob("*.conf")):
        stale = unwanted(path) if config and path.stem not in {*chosen, *OPT_IN} else None
        if stale is not None and stale.state is State.REMOVE:
            yield stale
    if config is not None and (rule := polkit_rule(config)):
        yield wanted(args.root / _POLKIT, rule)


def _checked(path: Path, root: Path) -> DaemonConfig:
    """The configuration; of this host with all that belongs to it. PolicyError, PlantFault."""
    config = load_config(path)
    if root == Path("/"):
        check_file(path, time.time_ns())
    return config


def _base(root: Path) -> Iterator[File]:
    """What a package would bring."""
    program = Path(sys.prefix) / "bin" / "poolwright"
    if root == Path("/"):
        if not program.exists():
            raise PlantFault(f"{program}: there is no program that the unit could start")
        if any(program.is_relative_to(folder) for folder in _UNSEEN):
            raise PlantFault(
                f"{program}: the unit sees no home and no temporary folder; install poolwright "
                "into a virtual environment in /opt/poolwright"
            )
    source = shipped() / "systemd"
    for name in _UNITS:
        text = (source / name).read_text().replace(PROGRAM, str(program))
        yield wanted(root / _SYSTEM / name, text)
    for kind in ("sysusers", "tmpfiles"):
        text = (source / f"poolwright.{kind}.conf").read_text()
        yield wanted(root / f"etc/{kind}.d/poolwright.conf", text)
    example = _example().read_text()
    yield wanted(root / "etc/poolwright/poolwright.yaml.example", example)


def _example() -> Path:
    packaged = shipped() / "poolwright.yaml"
    return packaged if packaged.exists() else shipped().parent / "config" / "poolwright.yaml"


def _present(root: Path, unit: str) -> Iterator[File]:
    """What an installation may have left; of an instance only what is its own."""
    places = [*sorted((root / _SYSTEM / f"{unit}.d").glob("*.conf"))]
    if unit == _UNITS[0]:
        places += [root / _SYSTEM / name for name in _UNITS]
        places += [root / f"etc/{kind}.d/poolwright.conf" for kind in ("sysusers", "tmpfiles")]
        places += [root / "etc/poolwright/poolwright.yaml.example", root / _POLKIT]
    for path in places:
        if (file := unwanted(path)) is not None:
            yield file


def _refuse_running(root: Path, unit: str) -> None:
    """PolicyError while systemd runs the unit, or would at the next boot."""
    if root != Path("/") or shutil.which("systemctl") is None:
        return
    for question, state in (("is-active", "runs"), ("is-enabled", "is enabled")):
        asked = subprocess.run(["systemctl", "--quiet", question, unit], check=False)
        if asked.returncode == 0:
            raise PolicyError(f"{unit} {state}: first `systemctl disable --now {unit}`")


def _refuse_unknown(text: str, name: str, root: Path) -> None:
    """PolicyError when a drop-in names a group or user without which systemd would not start it."""
    for table, who in group_names(text):
        if root == Path("/"):
            known = subprocess.run(["getent", table, who], capture_output=True, check=False)
            there = known.returncode == 0
        else:
            file = root / "etc" / table
            rows = file.read_text().splitlines() if file.exists() else []
            there = any(row.startswith(f"{who}:") for row in rows)
        if not there:
            what = "group" if table == "group" else "user"
            raise PolicyError(
                f"the drop-in {name} names the {what} {who!r}, which does not exist here; "
                "nothing was changed"
            )


def _told(root: Path, *, made: bool) -> list[list[str]]:
    """What systemd is told. Another tree's systemd looks by itself when it boots."""
    if root != Path("/"):
        return []
    reload = ["systemctl", "daemon-reload"]
    if not made:
        return [reload]
    tmpfiles = ["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/poolwright.conf"]
    return [["systemd-sysusers", "/etc/sysusers.d/poolwright.conf"], tmpfiles, reload]


def _apply(files: Sequence[File], commands: Sequence[Sequence[str]]) -> None:
    """All of it, or nothing: PlantFault, after everything is as it was."""
    before: dict[Path, bytes | None] = {}
    try:
        for file in files:
            before[file.path] = file.path.read_bytes() if file.path.exists() else None
            _put(file.path, None if file.text is None else file.text.encode())
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        for path, held in before.items():
            if path.exists() or held is not None:
                _put(path, held)
        if isinstance(error, subprocess.CalledProcessError):
            said = f"{shlex.join(error.cmd)}: {error.stderr.strip()}"
        else:
            said = f"{error.filename}: {error.strerror}"
        hint = "; it takes root" if os.geteuid() else ""
        raise PlantFault(f"{said}; nothing was changed{hint}") from error


def _put(path: Path, held: bytes | None) -> None:
    """Give a file its content in one step, or take it away, and its drop-ins' folder when empty."""
    if held is None:
        path.unlink(missing_ok=True)
        if path.parent.name.endswith(".service.d") and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.poolwright")
    beside.write_bytes(held)
    beside.chmod(0o644)
    beside.replace(path)
