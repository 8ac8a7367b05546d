"""A real php-fpm for the contract tests."""

import pytest
from php_fpm_service import PhpFpmService
from plant import Plant, kind_of


@pytest.fixture
def php_fpm():
    """A static pool of two workers."""
    kind = kind_of("php_fpm")
    with PhpFpmService(workers=2, nginx=False) as service:
        options = kind.Options(
            config=str(service.config),
            main_config=str(service.main_config),
            pidfile=str(service.pidfile),
            binary=service.binary,
        )
        yield Plant(
            make=lambda: kind(options, "web"),
            count=lambda: len(service.workers()),
            end=service.fpm.kill,
            name=str(service.pidfile),
            atomic=True,
        )
