"""What went wrong, for programs: RFC 9457."""

import msgspec

from poolwright.surface.message import REASONS, Response


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """`detail` says what is asked for, in a line."""

    title: str
    status: int
    detail: str


def problem(status: int, detail: str, *headers: tuple[str, str]) -> Response:
    """An answer that is none."""
    said = Problem(title=REASONS[status], status=status, detail=detail)
    return Response(
        status=status,
        body=msgspec.json.encode(said),
        content_type="application/problem+json",
        headers=headers,
    )
