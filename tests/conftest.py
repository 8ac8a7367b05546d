"""What tests of several folders share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

from gunicorn_service import GunicornService

# The same examples every time; HYPOTHESIS_PROFILE=explore looks for new ones and prints how to
# repeat a failure. No deadline: a busy machine is not a bug.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


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
