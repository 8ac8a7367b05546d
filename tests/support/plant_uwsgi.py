"""A real uWSGI for the contract tests."""

import pytest
from plant import Plant, kind_of
from uwsgi_service import UwsgiService


@pytest.fixture
def uwsgi(tmp_path):
    """Two workers of at most eight."""
    with UwsgiService(tmp_path, workers=2) as service:
        kind = kind_of("uwsgi")
        options = kind.Options(fifo=str(service.fifo), stats=service.stats)
        yield Plant(
            make=lambda: kind(options, "web"),
            count=lambda: len(service.children()),
            end=service.kill,
            name=service.stats,
            most=6,
        )
