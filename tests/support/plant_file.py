"""A real PHP-FPM for the contract tests, whose level is in a file."""

import pytest
from generic_services import PhpFpm
from plant import Plant, kind_of


def file_options(fpm, **more):
    """Options that move it."""
    return kind_of("file").Options(
        path=str(fpm.config),
        key="pm.max_children",
        pidfile=str(fpm.pidfile),
        signal="USR2",
        get=(str(fpm.get),),
        get_timeout=5.0,
        **more,
    )


@pytest.fixture
def file(tmp_path):
    """`pm.max_children` of one pool."""
    fpm = PhpFpm(tmp_path)
    fpm.server.start()
    yield Plant(
        make=lambda: kind_of("file")(file_options(fpm), "web"),
        count=fpm.processes,
        end=fpm.server.kill,
        name=str(fpm.config),
        atomic=True,
    )
    fpm.server.kill()
