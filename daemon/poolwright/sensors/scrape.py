"""One page over HTTP, believed only when it came whole and is of a type that was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from poolwright.core.errors import PlantFault
from poolwright.wire.http import MOST_HEAD_BYTES, Ask, Head, Url, exchange

__all__ = ["MOST_HEAD_BYTES", "Terms", "Url", "scrape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a page must keep to."""

    accept: Mapping[str, str]  # content type -> what is said of it in Accept
    timeout_s: float  # for everything, from looking up the host to the last byte
    most_bytes: int  # of the page, after decompression


async def scrape(url: Url, terms: Terms, feed: Callable[[bytes], None]) -> str:
    """GET `url` on a new connection and hand the page to `feed` as it comes; its content type.

    What `feed` has got may only be believed once this returns. Raises PlantFault naming the url
    when the page is late, too long, cut, of another type or not there, and what `feed` raises.
    """
    accept = ",".join(kind + more for kind, more in terms.accept.items())

    def judge(head: Head) -> None:
        head.unmoved(url)
        if head.status != 200:
            raise PlantFault(f"{url.text}: answered {head.status} {head.reason}".rstrip())
        kind = _kind(head)
        if kind not in terms.accept:
            wanted = " nor ".join(terms.accept)
            raise PlantFault(f"{url.text}: is {kind or 'of no named type'}, neither {wanted}")

    ask = Ask(headers=(("Accept", accept),))
    head = await exchange(
        url, ask, judge, feed, timeout_s=terms.timeout_s, most_bytes=terms.most_bytes
    )
    return _kind(head)


def _kind(head: Head) -> str:
    return head.header(b"content-type").partition(";")[0].strip().lower()
