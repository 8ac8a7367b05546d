"""What every actuator promises (ports.Actuator), on the real thing."""

import asyncio
import dataclasses

import pytest
from plant import Plant, kind_of

from poolwright.actuators import ACTUATORS
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, Setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def simulated():
    """What simulations move keeps the same promises."""
    from poolwright.sim.faults import Faults
    from poolwright.sim.load import Constant
    from poolwright.sim.plant import Plant as SimPlant
    from poolwright.sim.shape import PlantShape
    from poolwright.sim.world import Service

    service = Service("web", SimPlant(PlantShape(), 2, 0), Constant(), Faults((), 0))
    return Plant(
        make=service.actuator,
        count=lambda: service.plant.workers,
        end=lambda: setattr(service, "down", True),
        name="sim service web",
    )


@pytest.fixture(params=[*sorted(ACTUATORS), "simulated"])
def plant(request):
    """One plant of each kind in the table, and a simulated one: a fixture of the kind's name."""
    return request.getfixturevalue(request.param)


def at(made, level):
    (knob,) = made.knobs
    return Setting(levels=((knob, level),))


@pytest.mark.parametrize("name", sorted(ACTUATORS))
def test_options_are_a_frozen_dataclass_whose_fields_are_documented(name):
    options = kind_of(name).Options
    assert dataclasses.is_dataclass(options)
    assert options.__dataclass_params__.frozen
    for field in dataclasses.fields(options):
        assert field.metadata.get("doc"), field.name


async def test_reading_moves_nothing_and_gives_the_real_level(plant):
    made = plant.make()
    seen = [await made.read() for _ in range(3)]
    assert {applied.setting for applied in seen} == {at(made, 2)}
    assert len({applied.epoch for applied in seen}) == 1
    assert seen[0].epoch
    assert plant.count() == 2
    assert plant.name in made.endpoint


async def test_applying_twice_is_applying_once_and_is_read_back(plant):
    made = plant.make()
    for tick in (1, 2):
        outcome = await made.apply(at(made, 4), tick)
        assert (outcome.status, outcome.decision_tick) == (ActuationStatus.APPLIED, tick)
        assert outcome.took_s >= 0.0
        assert (await made.read()).setting == at(made, 4)
        assert plant.count() == 4
    assert (await plant.make().read()).setting == at(made, 4)
    assert (await made.apply(at(made, 2), 3)).status is ActuationStatus.APPLIED
    assert plant.count() == 2


async def test_a_move_keeps_the_epoch(plant):
    made = plant.make()
    before = await made.read()
    await made.apply(at(made, 3), 1)
    assert (await made.read()).epoch == before.epoch


async def test_cancelled_between_steps_the_next_move_goes_on_from_there(plant):
    made = plant.make()
    await made.read()
    move = asyncio.create_task(made.apply(at(made, plant.most), 1))
    while plant.count() < 3:
        await asyncio.sleep(0.002)
        assert plant.atomic or not move.done()
    assert move.cancel() or plant.atomic
    await asyncio.wait([move])
    assert plant.atomic or move.cancelled()
    for level in (plant.most, 2):
        assert (await made.apply(at(made, level), 2)).status is ActuationStatus.APPLIED
        assert plant.count() == level


async def test_a_move_takes_over_from_one_that_is_being_cancelled(plant):
    """As the engine does it: cancel, and start the next without waiting."""
    made = plant.make()
    await made.read()
    first = asyncio.create_task(made.apply(at(made, plant.most), 1))
    await asyncio.sleep(0.05)
    first.cancel()
    second = await made.apply(at(made, 3), 2)
    assert second.status is ActuationStatus.APPLIED, second.detail
    assert plant.count() == 3
    assert plant.atomic or first.cancelled()


async def test_reads_during_a_move_see_levels_in_between(plant):
    made = plant.make()
    await made.read()
    move = asyncio.create_task(made.apply(at(made, 5), 1))
    levels = []
    while not move.done():
        (_, level), *_ = (await made.read()).setting.levels
        levels.append(level)
        await asyncio.sleep(0.005)
    assert levels
    assert all(2 <= level <= 5 for level in levels)
    assert levels == sorted(levels)


async def test_less_than_one_is_refused(plant):
    made = plant.make()
    outcome = await made.apply(at(made, 0), 1)
    assert outcome.status is ActuationStatus.REFUSED
    assert plant.name in outcome.detail
    assert plant.count() == 2


async def test_a_dead_plant_is_a_fault_that_names_it(plant):
    made = plant.make()
    await made.read()
    plant.end()
    with pytest.raises(PlantFault) as fault:
        await made.read()
    assert plant.name in str(fault.value)


async def test_close_moves_nothing_and_may_be_called_twice(plant):
    made = plant.make()
    await made.read()
    await made.close()
    await made.close()
    assert plant.count() == 2
