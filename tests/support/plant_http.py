"""A real Caddy for the contract tests, moved through its admin API."""

import pytest
from generic_services import Caddy
from plant import Plant, kind_of


def http_options(caddy, **more):
    """Options that move it."""
    return kind_of("http").Options(
        url=caddy.url,
        pointer="/max_conns_per_host",
        set_url=f"{caddy.url}/max_conns_per_host",
        method="PATCH",
        timeout=5.0,
        **more,
    )


@pytest.fixture
def http(tmp_path):
    """`max_conns_per_host` of one proxy."""
    caddy = Caddy(tmp_path)
    caddy.server.start()
    yield Plant(
        make=lambda: kind_of("http")(http_options(caddy), "web"),
        count=caddy.most,
        end=caddy.server.kill,
        name=caddy.url,
        atomic=True,
    )
    caddy.server.kill()
