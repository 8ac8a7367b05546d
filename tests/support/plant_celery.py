"""A real Celery worker for the contract tests."""

import pytest
from celery_service import CeleryService
from plant import Plant, kind_of


@pytest.fixture
async def celery(tmp_path):
    """Two processes, moved through a redis."""
    kind = kind_of("celery")
    made = []
    with CeleryService(tmp_path) as service:
        options = kind.Options(broker=service.url, node=service.node)

        def make():
            made.append(kind(options, "jobs"))
            return made[-1]

        yield Plant(
            make=make,
            count=lambda: len(service.children()),
            end=service.kill,
            name=service.node,
        )
        for one in made:
            await one.close()
