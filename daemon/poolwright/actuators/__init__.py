"""What is moved: one file an actuator, one line here. Classes are imported only when configured."""

ACTUATORS: dict[str, str] = {
    "celery": "poolwright.actuators.celery:Celery",
    "command": "poolwright.actuators.command:Command",
    "file": "poolwright.actuators.file:File",
    "gunicorn": "poolwright.actuators.gunicorn:Gunicorn",
    "haproxy": "poolwright.actuators.haproxy:Haproxy",
    "http": "poolwright.actuators.http:Http",
    "kubernetes": "poolwright.actuators.kubernetes:Kubernetes",
    "pgbouncer": "poolwright.actuators.pgbouncer:PgBouncer",
    "php_fpm": "poolwright.actuators.php_fpm:PhpFpm",
    "python": "poolwright.actuators.python:Python",
    "systemd_units": "poolwright.actuators.systemd_units:SystemdUnits",
    "uvicorn": "poolwright.actuators.uvicorn:Uvicorn",
    "uwsgi": "poolwright.actuators.uwsgi:Uwsgi",
}
