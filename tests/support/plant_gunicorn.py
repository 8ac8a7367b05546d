"""A real gunicorn for the contract tests."""

import pytest
from plant import Plant, kind_of


@pytest.fixture
def gunicorn(gunicorn_service):
    """Two workers, moved through the control socket."""
    service = gunicorn_service(workers=2)
    kind = kind_of("gunicorn")
    options = kind.Options(pidfile=str(service.pidfile), control=str(service.control))
    return Plant(
        make=lambda: kind(options, "web"),
        count=lambda: len(service.children()),
        end=service.kill,
        name=str(service.pidfile),
    )
