"""A real gunicorn for the contract tests: two processes, each with a pool of one thread."""

import pytest
from client_service import WsgiService
from plant import Plant, kind_of


@pytest.fixture
def python():
    """The sum of two pools."""
    kind = kind_of("python")
    with WsgiService(workers=2, limit=1) as service:
        options = kind.Options(folder=str(service.offer))
        yield Plant(
            make=lambda: kind(options, "web"),
            count=service.total,
            end=service.kill,
            name=str(service.offer),
            atomic=True,
        )
