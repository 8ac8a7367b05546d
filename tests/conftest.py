"""What tests of several folders share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

from gunicorn_service import GunicornService


@pytest.fixture
def gunicorn_service(tmp_path):
    """Starts real gunicorns: `service = gunicorn_service(workers=3)`; ended with the test."""
    started = []

    def start(**options):
        folder = tmp_path / f"gunicorn{len(started)}"
        folder.mkdir()
        service = GunicornService(folder, **options)
        started.append(service)
        return service.start()

    yield start
    for service in started:
        service.kill()  # a graceful end takes 0.3 s longer
