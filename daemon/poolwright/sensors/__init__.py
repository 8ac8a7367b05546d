"""What is seen: one file a sensor, one line here. Classes are imported only when configured."""

SENSORS: dict[str, str] = {
    "access_log": "poolwright.sensors.access_log:AccessLog",
    "celery": "poolwright.sensors.celery:Celery",
    "cgroup": "poolwright.sensors.control_group:ControlGroup",
    "haproxy": "poolwright.sensors.haproxy:Haproxy",
    "host": "poolwright.sensors.host:Host",
    "listen_queue": "poolwright.sensors.listen_queue:ListenQueue",
    "nginx": "poolwright.sensors.nginx:Nginx",
    "pgbouncer": "poolwright.sensors.pgbouncer:PgBouncerSensor",
    "php_fpm": "poolwright.sensors.php_fpm:PhpFpmSensor",
    "power": "poolwright.sensors.power:Power",
    "process_tree": "poolwright.sensors.process_tree:ProcessTree",
    "prometheus": "poolwright.sensors.prometheus:Prometheus",
    "promql": "poolwright.sensors.promql:Promql",
    "python": "poolwright.sensors.python:Python",
    "statsd": "poolwright.sensors.statsd:Statsd",
    "uwsgi": "poolwright.sensors.uwsgi:Uwsgi",
}
