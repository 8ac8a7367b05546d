"""A real HAProxy for the contract tests, moved by an operator's script."""

import pytest
from generic_services import Haproxy
from plant import Plant, kind_of


def command_options(haproxy, **more):
    """Options that move it."""
    return kind_of("command").Options(
        get=haproxy.argv("get"),
        set=haproxy.argv("set", "{level}"),
        epoch=haproxy.argv("epoch"),
        get_timeout=5.0,
        **more,
    )


@pytest.fixture
def command(tmp_path):
    """`maxconn` of one server."""
    haproxy = Haproxy(tmp_path)
    haproxy.server.start()
    yield Plant(
        make=lambda: kind_of("command")(command_options(haproxy), "web"),
        count=haproxy.maxconn,
        end=haproxy.server.kill,
        name=str(haproxy.sock),
        atomic=True,
    )
    haproxy.server.kill()
