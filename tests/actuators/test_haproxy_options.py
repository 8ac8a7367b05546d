"""What a haproxy actuator may be told, and weights as HAProxy rounds them."""

import pytest

from poolwright.actuators.haproxy import Haproxy, _exact
from poolwright.core.errors import PolicyError


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "`socket` or `url`"),
        ({"url": "http://h/s;csv"}, "give `agent`, or `socket`"),
        ({"url": "http://h/s;csv", "agent": "h:1", "moves": ("weight",)}, "initial weight"),
        ({"socket": "/s", "servers": ()}, "at least one"),
        ({"socket": "/s", "servers": ("a", "a")}, "once"),
        ({"socket": "/s", "servers": ("a b",)}, "no name in HAProxy"),
        ({"socket": "/s", "backend": "a;b"}, "no name in HAProxy"),
        ({"socket": "/s", "moves": ()}, "at least one"),
        ({"socket": "/s", "moves": ("weight", "weight")}, "once"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        Haproxy.Options(**{"backend": "app", "servers": ("s1",)} | options)


def test_every_weight_is_exact_or_refused_and_never_zero():
    for initial in range(1, 257):
        for weight in range(1, 257):
            share = _exact(weight, {initial})
            if share is None:
                assert initial > 100
            else:
                assert min(256, initial * share // 100) == weight  # server_parse_weight...()
    assert _exact(50, {100, 10}) is None
    assert _exact(5, {0}) is None
    assert _exact(7, {100}) == 7
