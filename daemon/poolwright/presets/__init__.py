"""What `poolwright init` knows of servers: one file a server, one line here.

A preset finds the masters of its server among the processes of the host (`find`) and says of each
what a configuration needs to know (`describe`). It looks at /proc, reads the server's own files and
asks systemd what runs; it asks the server nothing and changes nothing.
"""

import importlib

from poolwright.presets.found import Preset

PRESETS: dict[str, str] = {
    "celery": "poolwright.presets.celery:CeleryPreset",
    "gunicorn": "poolwright.presets.gunicorn:GunicornPreset",
    "haproxy": "poolwright.presets.haproxy:HaproxyPreset",
    "pgbouncer": "poolwright.presets.pgbouncer:PgBouncerPreset",
    "php_fpm": "poolwright.presets.php_fpm:PhpFpmPreset",
    "systemd_units": "poolwright.presets.systemd_units:SystemdUnitsPreset",
    "uvicorn": "poolwright.presets.uvicorn:UvicornPreset",
    "uwsgi": "poolwright.presets.uwsgi:UwsgiPreset",
}


def load(kind: str) -> Preset:
    """The preset of one kind of server."""
    module, _, name = PRESETS[kind].partition(":")
    preset: Preset = getattr(importlib.import_module(module), name)()
    return preset
