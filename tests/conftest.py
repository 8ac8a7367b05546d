"""What tests of several folders share."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

from gunicorn_service import GunicornService

# As in the learner process, and before numpy is imported: on matrices so small more threads of BLAS
# only wait for one another, and eat a core each.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# The same examples every time; HYPOTHESIS_PROFILE=explore looks for new ones and prints how to
# repeat a failure. No deadline: a busy machine is not a bug.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_finish(session):
    """What is there now stays to the end: it need not be searched for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as in the daemon


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
