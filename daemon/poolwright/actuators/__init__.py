"""What is moved: one file an actuator, one line here. Classes are imported only when configured."""

ACTUATORS: dict[str, str] = {
    "celery": "poolwright.actuators.celery:Celery",
    "gunicorn": "poolwright.actuators.gunicorn:Gunicorn",
}
