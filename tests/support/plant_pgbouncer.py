"""A real PgBouncer for the contract tests."""

import pytest
from pgbouncer_service import PgBouncerService
from plant import Plant, kind_of


@pytest.fixture
def pgbouncer():
    """Pools of two connections, moved over the UNIX socket."""
    kind = kind_of("pgbouncer")
    made = []

    def make():
        options = kind.Options(address=service.address, user="boss")
        made.append(kind(options, "db"))
        return made[-1]

    with PgBouncerService() as service:
        yield Plant(
            make=make,
            count=lambda: service.size,
            end=service.kill,
            name=str(service.socket),
            atomic=True,
        )
        for one in made:
            one._console.close()
