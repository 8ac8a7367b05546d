"""What is seen: one file a sensor, one line here. Classes are imported only when configured."""

SENSORS: dict[str, str] = {
    "access_log": "poolwright.sensors.access_log:AccessLog",
    "celery": "poolwright.sensors.celery:Celery",
    "host": "poolwright.sensors.host:Host",
    "listen_queue": "poolwright.sensors.listen_queue:ListenQueue",
    "power": "poolwright.sensors.power:Power",
    "process_tree": "poolwright.sensors.process_tree:ProcessTree",
    "prometheus": "poolwright.sensors.prometheus:Prometheus",
    "statsd": "poolwright.sensors.statsd:Statsd",
}
