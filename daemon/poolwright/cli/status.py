"""`poolwright status [POOL]`: what the daemon sees and does, now.

Exits 0 when all is well, 1 when something is not as it should be, 3 when the daemon cannot be
reached.
"""

import argparse
import http.client
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.engine.snapshot import Snapshot
from poolwright.surface.page import COLUMNS, row
from poolwright.surface.standing import Lines, figures, notices
from poolwright.surface.words import daemon_troubles, pool_troubles, seconds, troubles, utc

DEFAULT_URL = "http://127.0.0.1:9817"
TIMEOUT_S = 5.0
LIMIT_BYTES = 64 * 2**20  # a hundred pools are 1.2 MB


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "status", help="show what the daemon sees and does", description=__doc__
    )
    parser.add_argument("pool", nargs="?", metavar="POOL", help="only this pool")
    parser.add_argument("--json", action="store_true", help="print the API's answer")
    add_address(parser)


def add_address(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which daemon."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=DEFAULT_URL, help="of the daemon (default: %(default)s)")
    where.add_argument(
        "--config", type=Path, metavar="FILE", help="ask where this configuration lets it listen"
    )


def run(args: argparse.Namespace) -> int:
    """Print the status; 0 all is well, 1 not. PlantFault when the daemon cannot be reached."""
    snapshot, body, stale = latest(address(args))
    if snapshot is None:
        print(stale, file=sys.stderr)
        return 1
    wrong = _wrong(snapshot, args.pool, stale)
    if args.json:
        _print_json(snapshot, body, args.pool)
    else:
        print(render(snapshot, args.pool, wrong))
    return 1 if wrong else 0


def address(args: argparse.Namespace) -> str:
    """Where the daemon is to be asked. PolicyError when --url or --config does not say it."""
    return _base(args.url) if args.config is None else _configured(args.config)


def latest(url: str) -> tuple[Snapshot | None, bytes, str]:
    """The newest snapshot, its JSON, and why it is not of now, if it is not.

    None: no tick has been made yet. PlantFault when the daemon cannot be reached.
    """
    code, health = _get(f"{url}/healthz")
    stale = "" if code == 200 else health.decode(errors="replace").strip()
    code, body = _get(f"{url}/api/v1/status")
    if code == 503:
        return None, b"", stale or "no tick has been made yet"
    if code != 200:
        raise PlantFault(f"{url}/api/v1/status: answers {code}: is this poolwright?")
    try:
        return msgspec.json.decode(body, type=Snapshot), body, stale
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise PlantFault(f"{url}/api/v1/status: no status of poolwright: {error}") from error


def render(snapshot: Snapshot, only: str | None, wrong: list[str]) -> str:
    """The status as text: a line about the daemon, a table, what stands, last what is wrong.

    Budgets, benefit and policy are told of one pool only: the one asked for, or the only one.
    """
    up_s = (snapshot.wall_ns - snapshot.started_wall_ns) / 1e9
    lines = [f"poolwright {snapshot.version}, {utc(snapshot.wall_ns)}, up {seconds(up_s)}", ""]
    pools = [pool for pool in snapshot.pools if only in (None, pool.pool)]
    table = [COLUMNS, *map(row, pools)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    for pool in pools:
        told = notices(pool) + (figures(pool) if len(pools) == 1 else [])
        lines += ["", pool.pool, *_aligned(told)] if told else []
    if wrong:
        lines += ["", *(f"! {line}" for line in wrong)]
    return "\n".join(lines)


def _aligned(told: Lines) -> list[str]:
    width = max(len(head) for head, _ in told)
    return [f"  {head.ljust(width)}  {said}" for head, said in told]


def _wrong(snapshot: Snapshot, only: str | None, stale: str) -> list[str]:
    """What is wrong with the daemon or with the pool asked for."""
    first = [stale] if stale else []
    if only is None:
        return first + troubles(snapshot)
    for pool in snapshot.pools:
        if pool.pool == only:
            return [*first, *daemon_troubles(snapshot), *pool_troubles(pool)]
    there = ", ".join(pool.pool for pool in snapshot.pools)
    raise PolicyError(f"there is no pool {only!r}; there is {there}")


def _print_json(snapshot: Snapshot, body: bytes, only: str | None) -> None:
    if only is None:
        print(body.decode())
        return
    pool = next(pool for pool in snapshot.pools if pool.pool == only)
    print(msgspec.json.encode(pool).decode())


def _configured(path: Path) -> str:
    """Where the daemon of a configuration listens. PolicyError when it does not."""
    from poolwright.policy.config import load_config  # noqa: PLC0415 only here is YAML needed

    listen = load_config(path).listen
    if listen is None:
        raise PolicyError(f"{path}: `listen` is null, so there is nobody to ask")
    host, _, port = listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{here}:{port}"


def _base(url: str) -> str:
    """The URL without a slash at the end. PolicyError when it is none that can be asked."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PolicyError(f"{url}: not a URL such as {DEFAULT_URL}")
    return url.rstrip("/")


def _get(url: str) -> tuple[int, bytes]:
    """Status and body of a GET, past any proxy. PlantFault naming the URL."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read(LIMIT_BYTES + 1)
            code = answer.status
    except HTTPError as error:
        with error:
            return error.code, error.read(LIMIT_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise PlantFault(f"{url}: not reachable: {reason}. Is poolwright running?") from error
    if len(body) > LIMIT_BYTES:
        raise PlantFault(f"{url}: answers more than {LIMIT_BYTES} bytes")
    return code, body
