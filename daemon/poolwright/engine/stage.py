"""The only place where scenarios, policies and the simulated world meet.

What is heavy comes in from above: the plant and the learner's one function (`Made`), so that the
control process stays light.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poolwright.core.errors import PolicyError
from poolwright.core.model import Command, CommandKind, Decision, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.engine.simulate import Moment, Order, Simulation, Witness
from poolwright.engine.virtual import PlanMaker
from poolwright.policy.bind import bind, suggestion
from poolwright.policy.config import SharedBudget
from poolwright.policy.load import bind_policy, find_policy, is_path, load_policy, yaml_files
from poolwright.policy.tree import Document, Problems, Scalar, read_document
from poolwright.sim.faults import Faults
from poolwright.sim.report import Report, Tally
from poolwright.sim.scenario import CommandPart, PoolPart, ReloadPart, Scenario, Written
from poolwright.sim.shape import PlantShape
from poolwright.sim.world import KNOB, Plant, Service, SimClock, World

PlantMaker = Callable[[PlantShape, int, int], Plant]  # shape, workers, seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How plants and plans are made."""

    plant: PlantMaker
    plan: PlanMaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A scenario that is ready to run: `simulation.run()`, then `report()`."""

    scenario: Scenario
    seed: int
    simulation: Simulation
    policies: dict[str, Policy]
    tallies: dict[str, Tally]
    checked: list[int]

    def report(self) -> Report:
        """What it came to."""
        simulation = self.simulation
        return Report(
            scenario=self.scenario.name,
            seed=self.seed,
            duration_s=self.scenario.duration,
            lives=simulation.lives,
            failed_starts=simulation.failed_starts,
            refusals=tuple(simulation.refusals),
            decisions_checked=sum(self.checked),
            faults=tuple(sorted(simulation.world.faults.injected.items())),
            pools=tuple(tally.report() for tally in self.tallies.values()),
        )


def load_scenario(path: Path) -> Scenario:
    """The scenario in a YAML file.

    Raises PolicyError with every problem of the file, each as `FILE:LINE:COL: message`, and
    PlantFault when it cannot be read. Its policies are looked at by `stage`.
    """
    return bind_scenario(read_document(path), path.parent)


def bind_scenario(document: Document, base: Path) -> Scenario:
    """The scenario in a document already read; PolicyError as `load_scenario`."""
    scenario = bind(document.root, Scenario, document.problems, base.absolute())
    document.problems.check()
    assert scenario is not None, "what cannot be bound is a problem"
    return scenario


def find_scenario(name_or_path: str) -> Path:
    """The file of a scenario: a path, or the name of a shipped one. PolicyError: there is none."""
    if is_path(name_or_path):
        if not Path(name_or_path).is_file():
            raise PolicyError(f"scenario {name_or_path!r}: there is no such file")
        return Path(name_or_path)
    known = {path.stem: path for path in yaml_files(shipped_scenarios())}
    if name_or_path not in known:
        raise PolicyError(
            f"scenario {name_or_path!r} does not exist{suggestion(name_or_path, known)}"
        )
    return known[name_or_path]


def shipped_scenarios() -> Path:
    """The folder of the scenarios that come with poolwright; as `policy.load.shipped_policies`."""
    packaged = Path(__file__).parents[1] / "sim" / "scenarios"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "scenarios"


def stage(
    scenario: Scenario, seed: int, made: Made, journal: Path, witnesses: Sequence[Witness] = ()
) -> Stage:
    """Put a scenario on the stage. Raises PolicyError for its policies, with places.

    `witnesses` see every decision; one that raises ends the run.
    """
    parts = scenario.services()
    policies = _policies(scenario)
    cadence_s = next(iter(policies.values())).cadence_s
    faults = Faults(scenario.faults, seed)
    world = World(
        [
            Service(part.name, made.plant(part.plant, part.workers, seed + n), part.load, faults)
            for n, part in enumerate(parts)
        ],
        faults,
        SimClock(),
    )
    tallies = {
        name: Tally(pool=name, policy=policy, duration_s=scenario.duration)
        for name, policy in policies.items()
    }
    checked = [0]

    def tell(tick: Tick, decision: Decision, moment: Moment) -> None:
        truth = moment.truth
        tallies[truth.pool].decided(tick, decision, truth.at_s, truth.dt_s)
        for witness in witnesses:
            witness(tick, decision, moment)
            checked[0] += 1

    simulation = Simulation(
        world=world,
        policies=policies,
        make_plan=made.plan,
        journal=journal,
        cadence_s=cadence_s,
        duration_s=scenario.duration,
        learner_s=(scenario.learner.start, scenario.learner.fit),
        budget=_budget(scenario.budget),
        orders=_orders(scenario, cadence_s),
        witnesses=(tell,),
        onlookers=(lambda truth: tallies[truth.pool].saw(truth),),
    )
    return Stage(
        scenario=scenario,
        seed=seed,
        simulation=simulation,
        policies=policies,
        tallies=tallies,
        checked=checked,
    )


def _policies(scenario: Scenario) -> dict[str, Policy]:
    """The policy of each service, at one cadence. PolicyError with all that is wrong in all."""
    found: dict[str, Policy] = {}
    problems: list[str] = []
    for part in scenario.services():
        try:
            found[part.name] = _fitting(_policy(part.policy), part)
        except PolicyError as error:
            problems.append(str(error))
    if problems:
        raise PolicyError("\n".join(problems))
    cadence_s = scenario.cadence or min(policy.cadence_s for policy in found.values())
    return {name: replace(policy, cadence_s=cadence_s) for name, policy in found.items()}


def _fitting(policy: Policy, part: PoolPart) -> Policy:
    if [knob.name for knob in policy.knobs] != [KNOB]:
        names = ", ".join(knob.name for knob in policy.knobs)
        raise PolicyError(
            f"pool {part.name}: the simulated service has the knob {KNOB}, "
            f"policy {policy.name} has {names}"
        )
    return policy


def _policy(written: Written) -> Policy:
    """The policy that a scenario names or contains."""
    node = written.node
    if isinstance(node, Scalar):
        name = str(written.base / node.text) if is_path(node.text) else node.text
        try:
            return load_policy(find_policy(name, None))
        except PolicyError as error:
            text = str(error)
            raise PolicyError(text if text.startswith(name) else f"{node.mark}: {text}") from error
    sha256 = hashlib.sha256(repr(node).encode()).hexdigest()
    return bind_policy(Document(root=node, problems=Problems(), sha256=sha256), written.base)


def _budget(written: Written | None) -> SharedBudget:
    if written is None:
        return SharedBudget()
    problems = Problems()
    budget = bind(written.node, SharedBudget, problems, written.base)
    problems.check()
    assert budget is not None, "what cannot be bound is a problem"
    return budget


def _orders(scenario: Scenario, cadence_s: float) -> list[Order]:
    """What operators do, for each pool that is meant."""
    names = [part.name for part in scenario.services()]
    items: list[ReloadPart | CommandPart] = [*scenario.reload, *scenario.commands]
    return [
        Order(at_s=item.at, pool=name, what=_ordered(item, cadence_s))
        for item in items
        for name in names
        if item.pool in ("", name)
    ]


def _ordered(item: ReloadPart | CommandPart, cadence_s: float) -> Command | Policy:
    if isinstance(item, ReloadPart):
        return replace(_policy(item.policy), cadence_s=cadence_s)
    wanted = None if item.workers is None else Setting(levels=((KNOB, item.workers),))
    return Command(kind=CommandKind(item.command), who=item.who, why=item.why, setting=wanted)
