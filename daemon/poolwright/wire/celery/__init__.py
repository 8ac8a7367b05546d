"""Celery's remote control and events, spoken by a child process: kombu is too heavy for the daemon.

`link` is the daemon's end of the pipe, `messages` what goes through it, the rest is the child:
`python -m poolwright.wire.celery`. The actuator and the sensor of one worker share one child, of
about 40 MB. Tested with redis; amqp is spoken by the same means of kombu.
"""
