"""The learner runs with one BLAS thread; so do its tests."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="package")
def one_blas_thread():
    from scipy import linalg  # noqa: F401  its own BLAS must be loaded to be limited

    with threadpool_limits(limits=1):
        yield
