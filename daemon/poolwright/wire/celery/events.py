"""A worker's events, counted in a thread of its own: `celery worker -E`, task_send_sent_event.

Durations are differences of the worker's own stamps, or of our own; never of two clocks.
"""

import threading
import time
from collections import OrderedDict
from typing import Any
from uuid import uuid4

from kombu import Connection, Consumer, Exchange, Queue

from poolwright.core.errors import PlantFault
from poolwright.core.sketch import SketchBuilder
from poolwright.wire.celery.mailbox import connect, errors_of, masked
from poolwright.wire.celery.messages import Place, Seen

_MOST_OPEN = 20_000  # tasks whose beginning is remembered; of more, the oldest are forgotten
_MOST_S = 7 * 86_400.0  # a longer duration is a broken clock's
_PAUSE_S = 1.0


class Tally:
    """Adds up the events of one worker. `take` never raises, whatever it is given."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, float] = OrderedDict()  # uuid: when heard, monotonic
        self._begun: OrderedDict[str, float] = OrderedDict()  # uuid: the worker's stamp
        self.fault = "not connected yet"
        self._clear()

    def _clear(self) -> None:
        self._started = self._succeeded = self._failed = 0
        self._runtime, self._latency = SketchBuilder(), SketchBuilder()

    def seen(self) -> Seen:
        """What was added up since the last call."""
        with self._lock:
            seen = Seen(
                fault=self.fault,
                started=self._started,
                succeeded=self._succeeded,
                failed=self._failed,
                runtime=self._runtime.freeze(),
                latency=self._latency.freeze(),
            )
            self._clear()
        return seen

    def forget(self) -> None:
        """The connection was lost, and with it who knows which events."""
        with self._lock:
            self._sent.clear()
            self._begun.clear()

    def take(self, body: Any, heard_s: float) -> None:
        """One message: an event, or a list of some. `heard_s`: now, monotonic."""
        with self._lock:
            for event in body if isinstance(body, list) else [body]:
                if isinstance(event, dict):
                    self._take(event, heard_s)

    def _take(self, event: dict[str, Any], heard_s: float) -> None:
        uuid, kind = event.get("uuid"), event.get("type")
        if not isinstance(uuid, str) or not isinstance(kind, str):
            return
        if kind == "task-sent":
            _remember(self._sent, uuid, heard_s)
        elif event.get("hostname") != self._node:
            return
        elif kind == "task-started":
            self._started += 1
            _remember(self._begun, uuid, event.get("timestamp"))
        elif kind in {"task-succeeded", "task-failed"}:
            self._ended(uuid, event, heard_s, failed=kind == "task-failed")
        elif kind in {"task-retried", "task-revoked", "task-rejected"}:
            self._begun.pop(uuid, None)

    def _ended(self, uuid: str, event: dict[str, Any], heard_s: float, *, failed: bool) -> None:
        self._failed += failed
        self._succeeded += not failed
        begun, sent = self._begun.pop(uuid, None), self._sent.pop(uuid, None)
        runtime = event.get("runtime")
        if runtime is None and begun is not None and _is_number(event.get("timestamp")):
            runtime = event["timestamp"] - begun
        _add(self._runtime, runtime)
        if sent is not None:
            _add(self._latency, heard_s - sent)


def _remember(table: OrderedDict[str, float], uuid: str, moment: Any) -> None:
    if _is_number(moment):
        table[uuid] = float(moment)
        if len(table) > _MOST_OPEN:
            table.popitem(last=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _add(sketch: SketchBuilder, seconds: Any) -> None:
    if _is_number(seconds) and 0.0 <= seconds <= _MOST_S:
        sketch.add(float(seconds))


def listen(place: Place) -> Tally:
    """Count from now on, in a thread that ends with the process, over a connection of its own."""
    tally = Tally(place.node)
    threading.Thread(target=_listen, args=(place, tally), name="events", daemon=True).start()
    return tally


def _listen(place: Place, tally: Tally) -> None:
    while True:
        password, pause = "", threading.Event()
        try:
            connection, password = connect(place)
            errors = errors_of(connection)
        except PlantFault as fault:
            tally.fault = str(fault)
        else:
            try:
                _drain(connection, tally)
            except errors as error:
                said = masked(str(error) or type(error).__name__, password)
                tally.fault = f"{place.broker}: {said}"
        tally.forget()
        pause.wait(_PAUSE_S)


def _drain(connection: Connection, tally: Tally) -> None:
    """Take events until the connection breaks, which raises."""
    with connection:
        fanout = connection.transport.driver_type == "redis"  # as Celery publishes them there
        queue = Queue(
            f"poolwright.events.{uuid4().hex}",
            exchange=Exchange("celeryev", type="fanout" if fanout else "topic"),
            routing_key="#",
            durable=False,
            auto_delete=True,
            expires=60.0,
            message_ttl=10.0,
        )

        def take(body: Any, _message: Any) -> None:
            tally.take(body, time.monotonic())

        with Consumer(
            connection.default_channel, [queue], accept=["json"], no_ack=True, callbacks=[take]
        ):
            tally.fault = ""
            while True:
                try:
                    connection.drain_events(timeout=1.0)
                except TimeoutError:
                    connection.heartbeat_check()
