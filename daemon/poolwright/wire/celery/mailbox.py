"""A Celery worker's remote control, as `celery inspect` speaks it, and the length of its queues.

kombu's own `Mailbox.call` is not used to ask: it publishes with endless retries, and takes a late
answer to an earlier question for its own.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kombu import Connection, Consumer, Producer
from kombu.exceptions import ChannelError, KombuError
from kombu.pidbox import Mailbox as Pidbox

from poolwright.core.errors import PlantFault
from poolwright.wire.celery.messages import Place
from poolwright.wire.secret import read_secret

_CONNECT_S = 1.0
_SOCKET_S = 2.0
_ACCEPT = ["json"]
_FORBIDDEN = {  # of redis and of amqp, which are not both installed
    *("AuthenticationError", "AuthorizationError", "NoPermissionError"),
    *("AccessRefused", "NotAllowed"),
}
_ALLOW = (
    "name a password_file and, in the url, a user who may do what a Celery client does (the "
    "worker's own will do)"
)
_KEPT_ERROR = 300  # characters of what a broker or a worker says


class Silent(PlantFault):
    """The worker did not answer."""


class Denied(Exception):
    """The worker answered that it will not, or the broker that we may not."""


def connect(place: Place) -> tuple[Connection, str]:
    """A connection that is not open yet, and the password in it. Raises PlantFault."""
    password = "" if place.password_file is None else read_secret(place.password_file)
    options: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_max": 0}
    if place.broker.startswith("redis"):
        options |= {"socket_timeout": _SOCKET_S, "socket_connect_timeout": _CONNECT_S}
    else:
        options |= {"read_timeout": _SOCKET_S, "write_timeout": _SOCKET_S}
    made = Connection(place.broker, connect_timeout=_CONNECT_S, transport_options=options)
    if password:
        made.password = password
    return made, password


def errors_of(connection: Connection) -> tuple[type[BaseException], ...]:
    """Whatever a broken broker may raise through kombu."""
    return (
        *connection.connection_errors,
        *connection.channel_errors,
        KombuError,
        OSError,
        ValueError,  # not JSON
    )


def masked(text: str, password: str) -> str:
    """`text`, short, on one line and without the password."""
    line = " ".join((text.replace(password, "***") if password else text).split())
    return line if len(line) <= _KEPT_ERROR else line[:_KEPT_ERROR] + "..."


def _forbidden(error: BaseException | None) -> bool:
    """Whether that is what the broker says to one who may not; kombu wraps it in its own."""
    while error is not None:
        if any(kind.__name__ in _FORBIDDEN for kind in type(error).__mro__):
            return True
        error = error.__cause__
    return False


class Mailbox:
    """One worker over one connection, opened when needed and again when broken."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: Connection | None = None
        self._password = ""
        self._box: Any = None

    def call(self, command: str, patience_s: float, **arguments: Any) -> Any:
        """The worker's answer. Raises Silent, PlantFault naming the broker, or Denied."""
        with self._broker() as connection:
            answers = self._exchange(connection, command, patience_s, arguments)
        if not answers:
            raise Silent(
                f"celery worker {self._place.node}: no answer through {self._place.broker} within "
                f"{patience_s:g} s: is it there, and worker_enable_remote_control on?"
            )
        answer = answers[0].get(self._place.node) if isinstance(answers[0], dict) else None
        if isinstance(answer, dict) and "error" in answer:
            raise Denied(masked(str(answer["error"]), self._password))
        return answer

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Messages waiting in each queue of the broker. Raises PlantFault."""
        found = {}
        with self._broker() as connection:
            redis = connection.transport.driver_type == "redis"
            for name in names:
                # Of amqp, a queue that is not there closes the channel in which one asks for it.
                channel = connection.default_channel if redis else connection.channel()
                try:
                    found[name] = int(channel.queue_declare(name, passive=True).message_count)
                except ChannelError:
                    if not redis:
                        raise
                    found[name] = 0  # an empty list is no list in redis
                finally:
                    if not redis:
                        channel.close()
        return found

    def keep(self, name: str, note: dict[str, Any] | None) -> None:
        """Leave a note on the broker in place of the last one; None: leave none."""
        with self._broker() as connection:
            box = connection.SimpleQueue(name)
            box.clear()
            if note is not None:
                box.put(note, serializer="json", retry=False)
            box.close()
            if note is None:
                box.queue(connection.default_channel).delete()

    def kept(self, name: str) -> Any:
        """The note that was left, None when there is none. It stays."""
        with self._broker() as connection:
            if self.sizes([name])[name] == 0:
                return None
            box = connection.SimpleQueue(name)
            try:
                message = box.get(block=False)
                message.requeue()
            except box.Empty:
                return None
            finally:
                box.close()
            return message.payload

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        connection, self._connection, self._box = self._connection, None, None
        if connection is not None:
            connection.release()

    @contextmanager
    def _broker(self) -> Iterator[Connection]:
        """An open connection. What breaks it is a PlantFault that names the broker."""
        connection = self._open()
        errors = errors_of(connection)
        try:
            yield connection
        except errors as error:
            with suppress(*errors):
                self.close()
            said = masked(str(error) or type(error).__name__, self._password)
            if _forbidden(error):
                raise Denied(f"{self._place.broker}: {said}; {_ALLOW}") from error
            raise PlantFault(f"{self._place.broker}: {said}") from error

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection, self._password = connect(self._place)
            self._box = Pidbox(
                "celery", type="fanout", accept=_ACCEPT, serializer="json", reply_queue_ttl=300.0
            )(self._connection)
        return self._connection

    def _exchange(
        self, connection: Connection, command: str, patience_s: float, arguments: dict[str, Any]
    ) -> list[Any]:
        """What came in answer: one or nothing."""
        ticket = uuid4().hex
        found: list[Any] = []

        def take(body: Any, message: Any) -> None:
            if message.headers.get("ticket") == ticket:  # else: too late, and to another question
                found.append(body)

        channel, box = connection.default_channel, self._box
        consumer = Consumer(
            channel, [box.reply_queue], accept=_ACCEPT, no_ack=True, callbacks=[take]
        )
        until = time.monotonic() + patience_s
        try:
            with consumer:
                self._send(channel, command, arguments, ticket, patience_s)
                while not found and (left := until - time.monotonic()) > 0:
                    try:
                        connection.drain_events(timeout=left)
                    except TimeoutError:
                        break
        finally:
            channel.after_reply_message_received(box.reply_queue.name)
        return found

    def _send(
        self, channel: Any, command: str, arguments: dict[str, Any], ticket: str, patience_s: float
    ) -> None:
        box = self._box
        Producer(channel, auto_declare=False).publish(
            {
                "method": command,
                "arguments": arguments,
                "destination": [self._place.node],
                "pattern": None,
                "matcher": None,
                "ticket": ticket,
                "reply_to": {"exchange": box.reply_exchange.name, "routing_key": box.oid},
            },
            exchange=box.exchange.name,
            declare=[box.exchange],
            headers={"clock": box.clock.forward(), "expires": time.time() + patience_s},
            serializer="json",
            retry=False,
        )
