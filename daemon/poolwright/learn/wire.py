"""The line protocol of the learner process: one FitRequest in, one Reply out, JSON by msgspec.

Light: the control process imports this and must not import numpy.
"""

import msgspec

from poolwright.core.model import FitRequest, Plan


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Plan, or why there is none."""

    plan: Plan | None = None
    error: str = ""


_ENCODER = msgspec.json.Encoder()
_REQUESTS = msgspec.json.Decoder(FitRequest)
_REPLIES = msgspec.json.Decoder(Reply)


def encode(message: FitRequest | Reply) -> bytes:
    """One line, newline included."""
    return _ENCODER.encode(message) + b"\n"


def decode_request(line: bytes) -> FitRequest:
    """Raises ValueError (msgspec's errors are) when the line is not a FitRequest."""
    return _REQUESTS.decode(line)


def decode_reply(line: bytes) -> Reply:
    """Raises ValueError when the line is not a Reply with exactly one of plan and error."""
    reply = _REPLIES.decode(line)
    if (reply.plan is None) == (not reply.error):
        raise ValueError("a reply carries either a plan or an error")
    return reply
