"""`poolwright pause POOL` and `poolwright resume POOL`: through the daemon's control socket.

Paused, poolwright watches and moves nothing. `resume` also ends phase manual, in which it stands
back because somebody else moved the level. Who asked and why goes into the journal.
"""

import argparse
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from poolwright.core.errors import PlantFault, PolicyError

DEFAULT_SOCKET = "/run/poolwright/control.sock"
_TIMEOUT_S = 5.0


def add(subparsers: Any, command: str) -> None:
    """Add the arguments of `command`."""
    parser = subparsers.add_parser(command, description=__doc__)
    parser.add_argument("pool", metavar="POOL")
    parser.add_argument("--why", default="asked at the command line", metavar="TEXT")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", default=DEFAULT_SOCKET, metavar="PATH")
    where.add_argument("--config", type=Path, metavar="FILE", help="ask where this one listens")


def run(args: argparse.Namespace, command: str) -> int:
    """Ask; 0 when the next tick will see it. PlantFault when the socket does not answer."""
    status, said = _post(_path(args), f"/v1/pools/{args.pool}/{command}", {"why": args.why})
    if status in (400, 404):
        raise PolicyError(said)
    if status != 202:
        raise PlantFault(f"{_path(args)}: {said}")
    print(f"{args.pool}: {command} asked")
    return 0


def _path(args: argparse.Namespace) -> str:
    if args.config is None:
        return str(args.socket)
    from poolwright.policy.config import load_config  # noqa: PLC0415 - YAML only when needed

    return load_config(args.config).control


def _post(path: str, target: str, body: dict[str, str]) -> tuple[int, str]:
    """POST to a UNIX socket; status and text of the answer."""
    link = http.client.HTTPConnection("localhost", timeout=_TIMEOUT_S)
    try:
        link.sock = socket.socket(socket.AF_UNIX)
        link.sock.settimeout(_TIMEOUT_S)
        link.sock.connect(path)
        link.request("POST", target, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        return answer.status, answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise PlantFault(f"{path}: {error}: is the daemon running?") from error
    finally:
        link.close()
