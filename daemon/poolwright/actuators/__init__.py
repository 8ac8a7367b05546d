"""What is moved: one file an actuator, one line here. Classes are imported only when configured."""

ACTUATORS: dict[str, str] = {
    "gunicorn": "poolwright.actuators.gunicorn:Gunicorn",
    "python": "poolwright.actuators.python:Python",
}
