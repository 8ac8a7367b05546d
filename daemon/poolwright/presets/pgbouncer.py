"""PgBouncer: default_pool_size over its admin console, which also tells what goes through."""

from pathlib import Path

from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import Advice, Asked, Found, given
from poolwright.presets.ini import sections

_OWN_USER = "pgbouncer"  # let in over the UNIX socket for its own Unix user
_DEFAULTS = {"listen_port": "6432", "unix_socket_dir": "/tmp", "default_pool_size": "20"}  # noqa: S108
_ASKS_NOTHING = ("trust", "any")


class PgBouncerPreset:
    """PgBouncer processes."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called pgbouncer."""
        return facts.masters(lambda p: bool(p.words) and Path(p.words[0]).name == "pgbouncer")

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the default size of all databases that have none of their own."""
        path = next((w for w in reversed(master.words[1:]) if w.endswith(".ini")), "")
        text = facts.files.read(master.resolved(path)) if path else None
        told = _DEFAULTS | sections(text or "").get("pgbouncer", {})
        missing = []
        if text is None:
            what = f"this user ({facts.user}) cannot read {path or 'its configuration'}"
            missing.append(Advice(what=what, add="run `poolwright init` as a user that can"))
        address = _address(told)
        user = asked.user or _user(told, facts, master, address)
        if not user:
            what = "no admin_users in pgbouncer.ini"
            missing.append(Advice(what=what, add="admin_users = poolwright"))
        secret = asked.password_file
        plain = told.get("auth_type", "md5") in _ASKS_NOTHING
        if user and not (secret or plain or user == _OWN_USER):
            what = f"PgBouncer asks {user} for a password"
            missing.append(Advice(what=what, add="poolwright init --password-file FILE"))
        own = given(address=address, user=user or _OWN_USER, password_file=secret)
        size, cap = told["default_pool_size"], told.get("max_db_connections", "0")
        what = "PgBouncer tells no latency: let the application tell its transactions'"
        return [
            Found(
                preset={"kind": "pgbouncer", **own},
                pid=master.pid,
                name=asked.pool or "pgbouncer",
                level=int(size) if size.isdigit() else 0,
                settle="2s",
                most=int(cap) if cap.isdigit() else 0,
                why_most="max_db_connections",
                missing=tuple(missing),
                better=(Advice(what=what, add="a `prometheus` sensor, see docs/pgbouncer.md"),),
            )
        ]


def _address(told: dict[str, str]) -> str:
    """The UNIX socket, for it tells which process answers; TCP where there is none."""
    folder, port = told["unix_socket_dir"], told["listen_port"]
    if folder.startswith("/"):
        return f"unix:{folder}/.s.PGSQL.{port}"
    host = told.get("listen_addr", "").partition(",")[0].strip()
    return f"{'127.0.0.1' if host in ('', '*', '0.0.0.0') else host}:{port}"


def _user(told: dict[str, str], facts: Facts, master: Process, address: str) -> str:
    if facts.user == master.user and address.startswith("unix:"):
        return _OWN_USER
    return told.get("admin_users", "").partition(",")[0].strip()
