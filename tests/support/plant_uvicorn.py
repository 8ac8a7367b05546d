"""A real uvicorn for the contract tests."""

import pytest
from plant import Plant, kind_of
from uvicorn_service import UvicornService


@pytest.fixture
def uvicorn(tmp_path):
    """Two workers; nobody connects, so shrinking costs nothing."""
    with UvicornService(tmp_path, workers=2) as service:
        kind = kind_of("uvicorn")
        options = kind.Options(pidfile=str(service.pidfile), lossy_shrink=True)
        yield Plant(
            make=lambda: kind(options, "web"),
            count=lambda: len(service.children()),
            end=service.kill,
            name=str(service.pidfile),
            most=6,
        )
