"""Asking the daemon at its control socket: what `pause`, `pin`, `approve` and their like share.

They end with 0 when the pool's next tick will see what was asked, 2 when the daemon refuses it or
knows no such pool, 3 when it cannot be asked. Who asked and why goes into the journal.
"""

import argparse
import http.client
import json
import shlex
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from poolwright.cli.main import COMMANDS
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Advice
from poolwright.surface import words

DEFAULT_SOCKET = "/run/poolwright/control.sock"
DEFAULT_WHY = "asked at the command line"
_TIMEOUT_S = 5.0
_REFUSED = (400, 404, 409)


class _Given(msgspec.Struct):
    """The answer to a question for advice."""

    advice: Advice | None


def add(
    subparsers: Any, command: str, description: str | None, *, why: str | None = DEFAULT_WHY
) -> argparse.ArgumentParser:
    """The command's parser with the arguments that all of them take. `why` None: must be given."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        command, help=COMMANDS[command][1], description=description
    )
    parser.add_argument("pool", metavar="POOL")
    parser.add_argument(
        "--why",
        default=why,
        required=why is None,
        metavar="TEXT",
        help="for the journal" + ("" if why is None else " (default: %(default)s)"),
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket", default=DEFAULT_SOCKET, metavar="PATH", help="(default: %(default)s)"
    )
    where.add_argument("--config", type=Path, metavar="FILE", help="ask where this one listens")
    return parser


def ask(args: argparse.Namespace, command: str, **more: object) -> dict[str, str]:
    """What the daemon said. PolicyError when it refuses, PlantFault when it cannot be asked."""
    body = {"why": args.why, **more}
    target = f"/v1/pools/{quote(args.pool, safe='')}/{command}"
    said: dict[str, str] = _typed(args, _answer(args, "POST", target, body), dict[str, str])
    return said


def advice_id(args: argparse.Namespace) -> str:
    """The id on the command line, or else of the advice that is given now, which is shown.

    PolicyError when there is none, PlantFault as `ask`.
    """
    if args.id is not None:
        return str(args.id)
    target = f"/v1/pools/{quote(args.pool, safe='')}/advice"
    found: _Given = _typed(args, _answer(args, "GET", target, None), _Given)
    if found.advice is None:
        raise PolicyError(f"{args.pool}: there is no advice now")
    print(f"{args.pool}: advice {found.advice.id}: {words.advice(found.advice)}")
    return found.advice.id


def again(args: argparse.Namespace, command: str, more: str = "") -> str:
    """A command line that asks the same daemon about the same pool."""
    line = f"poolwright {command} {shlex.quote(args.pool)}{more and ' '}{more}"
    if args.config is not None:
        return f"{line} --config {shlex.quote(str(args.config))}"
    if args.socket != DEFAULT_SOCKET:
        return f"{line} --socket {shlex.quote(args.socket)}"
    return line


def levels(written: list[str]) -> dict[str, int]:
    """`workers=12 threads=4`. PolicyError when it is something else, or names a knob twice."""
    found: dict[str, int] = {}
    for word in written:
        knob, _, level = word.partition("=")
        if not (knob and level.isascii() and level.isdigit()) or knob in found:
            raise PolicyError(f"{' '.join(written)}: not of the form workers=12")
        found[knob] = int(level)
    return found


def _typed(args: argparse.Namespace, body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise PlantFault(f"{_path(args)}: no answer of poolwright: {error}") from error


def _answer(args: argparse.Namespace, method: str, target: str, body: object) -> bytes:
    path = _path(args)
    status, said = _request(path, method, target, body)
    if status in (200, 202):
        return said
    why = _error(said)
    if status in _REFUSED:
        raise PolicyError(f"{args.pool}: refused: {why}")
    raise PlantFault(f"{path}: {why}")


def _error(said: bytes) -> str:
    """The daemon's reason; whatever was said when it is not the daemon that spoke."""
    try:
        return msgspec.json.decode(said, type=dict[str, str])["error"]
    except (msgspec.DecodeError, ValueError, KeyError):
        return said.decode(errors="replace").strip() or "no reason given"


def _path(args: argparse.Namespace) -> str:
    if args.config is None:
        return str(args.socket)
    from poolwright.policy.config import load_config  # noqa: PLC0415 - YAML only when needed

    return load_config(args.config).control


def _request(path: str, method: str, target: str, body: object) -> tuple[int, bytes]:
    """A request at a UNIX socket; status and body of the answer."""
    link = http.client.HTTPConnection("localhost", timeout=_TIMEOUT_S)
    text = None if body is None else json.dumps(body)
    try:
        link.sock = socket.socket(socket.AF_UNIX)
        link.sock.settimeout(_TIMEOUT_S)
        link.sock.connect(path)
        link.request(method, target, text, {"Content-Type": "application/json"})
        answer = link.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise PlantFault(f"{path}: {error}: is the daemon running?") from error
    finally:
        link.close()
