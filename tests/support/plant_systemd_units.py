"""Real instances of a template under a real systemd, for the contract tests. Needs root."""

import asyncio

import pytest
import units_machine
from plant import Plant, kind_of


@pytest.fixture
def systemd_units(request):
    """worker@1.service and worker@2.service."""
    booted = units_machine.machine(request)
    kind = kind_of("systemd_units")
    options = kind.Options(template="worker@.service", bus=units_machine.bus(booted))
    made = []

    def make():
        made.append(kind(options, "web"))
        return made[-1]

    yield Plant(
        make=make,
        count=lambda: len(units_machine.active(booted)),
        end=lambda: booted.run("systemctl", "stop", "worker@*"),
        name="worker@.service",
    )
    for one in made:
        asyncio.run(one.close())
