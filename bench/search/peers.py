"""Black-box optimisers as their real packages, one ask and one tell a window.

They see the same noisy cost that regret is measured in, penalties included, and search the whole
box of the knobs. The operator's default is their first point, five random ones follow (where a
package draws its own first design, that many). What differs from a package's defaults is said at
the class. Recommended is the best observation unless said otherwise.
"""

import collections
import collections.abc
import logging
import math
import random
from importlib.util import find_spec

import numpy as np

from search.methods import BestSeen, Levels
from search.world import Seen, World

STARTUP = 5


class Skopt(BestSeen):
    """scikit-optimize's Optimizer, GP and EI, otherwise its defaults (it avoids duplicates)."""

    settings: dict = {}  # noqa: RUF012

    def __init__(self, world: World) -> None:
        """An integer dimension a knob."""
        super().__init__(world)
        from skopt import Optimizer
        from skopt.space import Integer

        self.space = [Integer(low, high) for _, low, high in self.plant.spans]
        self.optimizer = Optimizer(
            self.space,
            base_estimator="GP",
            acq_func="EI",
            n_initial_points=STARTUP + 1,
            initial_point_generator="random",
            random_state=world.seed,
            **self.settings,
        )

    def cost(self, seen: Seen) -> float:
        """What it is told."""
        return seen.cost

    def learn(self, held: Levels, seen: Seen) -> None:
        """Tell."""
        self.optimizer.tell(list(held), self.cost(seen))

    def propose(self) -> Levels:
        """Ask."""
        return tuple(int(level) for level in self.optimizer.ask())


class SkoptTuned(Skopt):
    """The same, better used: it may repeat, sees the logarithm, keeps one model, and recommends
    the best posterior mean of what it visited.
    """

    settings = {"avoid_duplicates": False, "model_queue_size": 1}  # noqa: RUF012

    def cost(self, seen: Seen) -> float:
        """The logarithm: the cost has a long tail."""
        return math.log(seen.cost)

    def recommend(self) -> Levels:
        """The best posterior mean among the settings visited."""
        if not self.optimizer.models:
            return super().recommend()
        visited = sorted({levels for levels, _ in self.seen})
        points = self.optimizer.space.transform([list(levels) for levels in visited])
        mean = self.optimizer.models[-1].predict(points)
        return visited[int(np.argmin(mean))]


class Hyperopt(BestSeen):
    """hyperopt's TPE, five random points first (its default is 20 of its own)."""

    def __init__(self, world: World) -> None:
        """One uniform integer a knob."""
        super().__init__(world)
        from hyperopt import Trials, hp
        from hyperopt.base import Domain

        space = {name: hp.uniformint(name, low, high) for name, low, high in self.plant.spans}
        self.domain = Domain(lambda _: 0.0, space)
        self.trials = Trials()
        self.open = None

    def learn(self, held: Levels, seen: Seen) -> None:
        """Finish the open trial; the first one is the operator's default."""
        from hyperopt import JOB_STATE_DONE
        from hyperopt.fmin import generate_trials_to_calculate

        if self.open is None:
            point = dict(zip(self.plant.names, held, strict=True))
            self.trials = generate_trials_to_calculate([point])
            self.trials.refresh()
            self.open = self.trials._dynamic_trials[-1]  # noqa: SLF001
        self.open["state"] = JOB_STATE_DONE
        self.open["result"] = {"loss": seen.cost, "status": "ok"}
        self.trials.refresh()

    def propose(self) -> Levels:
        """Ask."""
        from hyperopt import tpe

        ids = self.trials.new_trial_ids(1)
        self.trials.refresh()
        seed = int(self.rng.integers(2**31))
        docs = tpe.suggest(ids, self.domain, self.trials, seed, n_startup_jobs=STARTUP + 1)
        self.trials.insert_trial_docs(docs)
        self.trials.refresh()
        self.open = self.trials._dynamic_trials[-1]  # noqa: SLF001
        return tuple(int(self.open["misc"]["vals"][name][0]) for name in self.plant.names)


class Optuna(BestSeen):
    """Optuna; a subclass names the sampler."""

    def __init__(self, world: World) -> None:
        """One integer a knob; the operator's default is enqueued."""
        super().__init__(world)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(sampler=self.sampler(world.seed))
        self.study.enqueue_trial(dict(zip(self.plant.names, self.plant.start, strict=True)))
        self.trial = self.study.ask()
        self._suggest()

    def sampler(self, seed: int):
        """The sampler."""
        raise NotImplementedError

    def _suggest(self) -> Levels:
        return tuple(self.trial.suggest_int(*span) for span in self.plant.spans)

    def learn(self, held: Levels, seen: Seen) -> None:
        """Tell."""
        self.trial.set_user_attr("broken", self.broken(seen))
        self.study.tell(self.trial, self.cost(seen))

    def cost(self, seen: Seen) -> float:
        """What it is told."""
        return seen.cost

    def broken(self, seen: Seen) -> list[float]:
        """Constraints, at most 0 when kept."""
        plant = self.plant
        return [math.log(seen.p95 / plant.slo_s), seen.memory / plant.memory_limit - 1.0]

    def propose(self) -> Levels:
        """Ask."""
        self.trial = self.study.ask()
        return self._suggest()


class OptunaTPE(Optuna):
    """TPESampler, five random points first."""

    def sampler(self, seed: int):
        """The sampler."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=STARTUP + 1)


class OptunaGP(Optuna):
    """GPSampler (torch), told that the objective is noisy (its default)."""

    def sampler(self, seed: int):
        """The sampler."""
        import torch
        from optuna.samplers import GPSampler

        torch.set_num_threads(1)
        return GPSampler(seed=seed, n_startup_trials=STARTUP + 1, deterministic_objective=False)


class OptunaGPConstrained(OptunaGP):
    """GPSampler that models the SLO and the memory limit as constraints, and the bare cost."""

    def sampler(self, seed: int):
        """The sampler."""
        import torch
        from optuna.samplers import GPSampler

        torch.set_num_threads(1)
        return GPSampler(
            seed=seed,
            n_startup_trials=STARTUP + 1,
            deterministic_objective=False,
            constraints_func=lambda trial: trial.user_attrs["broken"],
        )

    def cost(self, seen: Seen) -> float:
        """Without penalties."""
        return seen.cost - float(self.plant.penalty_of(seen.p95, seen.memory))


class OpenTuner(BestSeen):
    """OpenTuner 0.8.8 with its default ensemble (AUC bandit), through TuningRunManager.

    It has no notion of noise and does not measure a point again.
    """

    def __init__(self, world: World) -> None:
        """One IntegerParameter a knob; the operator's default is the seed configuration."""
        super().__init__(world)
        import opentuner
        from opentuner.api import TuningRunManager
        from opentuner.measurement.interface import DefaultMeasurementInterface
        from opentuner.search.manipulator import ConfigurationManipulator, IntegerParameter

        random.seed(world.seed)
        np.random.seed(world.seed)  # noqa: NPY002  its techniques use the global generators
        manipulator = ConfigurationManipulator()
        for span in self.plant.spans:
            manipulator.add_parameter(IntegerParameter(*span))
        args = opentuner.default_argparser().parse_args(["--database", "sqlite:///:memory:"])
        start = dict(zip(self.plant.names, self.plant.start, strict=True))
        logging.getLogger("opentuner").setLevel(logging.CRITICAL)
        interface = DefaultMeasurementInterface(
            args=args, manipulator=manipulator, project_name="bench", program_name="bench"
        )
        interface.seed_configurations = lambda: [start]
        self.tuner = TuningRunManager(interface, args)
        self.asked = self.tuner.get_next_desired_result()

    def learn(self, held: Levels, seen: Seen) -> None:
        """Report, if it was asked for (it may have run out of things to ask)."""
        from opentuner.resultsdb.models import Result

        if self.asked is not None:
            self.tuner.report_result(self.asked, Result(time=seen.cost))

    def propose(self) -> Levels:
        """Its next desired result; the best one when it has none."""
        for _ in range(20):
            self.asked = self.tuner.get_next_desired_result()
            if self.asked is not None:
                data = self.asked.configuration.data
                return tuple(int(data[name]) for name in self.plant.names)
        return self.recommend()


class SafeOpt(BestSeen):
    """SafeOpt 0.16 on the integer lattice in octaves, with the SLO and the memory limit as safety
    constraints and the operator's default as its safe seed.

    Python 3.11 and numpy 2 no longer have collections.Sequence and numpy.float, which it imports:
    both names are given back before the import; nothing of it is changed. Its kernels are fixed
    (Matern-5/2, one octave, unit variance of scaled responses), and it is told the true noise.
    """

    MOST = 600  # settings; the lattice is thinned to that, as its expanders are quadratic

    def __init__(self, world: World) -> None:
        """The grid; models are made after the first window."""
        super().__init__(world)
        collections.Sequence = collections.abc.Sequence
        np.float = float  # noqa: NPY001
        step = max(1, math.ceil((len(self.plant.lattice) / self.MOST) ** (1 / len(self.now))))
        kept = ((self.plant.lattice - np.array(self.now)) % step == 0).all(axis=1)
        self.grid = np.log2(self.plant.lattice[kept])
        self.tuner = None
        self.first = 0.0

    def responses(self, seen: Seen) -> np.ndarray:
        """Objective and constraints (safe above 0), each of unit size."""
        plant = self.plant
        bare = seen.cost - float(plant.penalty_of(seen.p95, seen.memory))
        self.first = self.first or bare
        gain = -math.log(bare / self.first) / 0.3
        slack = math.log(plant.slo_s / seen.p95) / 0.5
        return np.array([[gain, slack, (1.0 - seen.memory / plant.memory_limit) / 0.3]])

    def learn(self, held: Levels, seen: Seen) -> None:
        """Add a point to the three models."""
        at, values = np.log2(np.array([held])), self.responses(seen)
        if self.tuner is not None:
            self.tuner.add_new_data_point(at, values)
            return
        import GPy
        import safeopt

        noise = self.world.cell.noise
        variances = ((noise / 0.3) ** 2, (noise / 0.5) ** 2, (0.01 / 0.3) ** 2)
        models = []
        for column, variance in enumerate(variances):
            kernel = GPy.kern.Matern52(len(held), variance=1.0, lengthscale=1.0, ARD=True)
            value = values[:, column : column + 1]
            models.append(GPy.models.GPRegression(at, value, kernel, noise_var=variance))
        self.tuner = safeopt.SafeOpt(models, self.grid, fmin=[-np.inf, 0.0, 0.0], beta=2.0)

    def propose(self) -> Levels:
        """Its next point; the operator's default when it says that nothing is safe."""
        try:
            point = self.tuner.optimize()
        except OSError:
            return self.plant.start
        return tuple(round(2.0**x) for x in point)

    def recommend(self) -> Levels:
        """Its best lower bound within its safe set."""
        if self.tuner is None or not self.tuner.S.any():
            return self.plant.start
        return tuple(round(2.0**x) for x in self.tuner.get_maximum()[0])


_PEERS = {
    "scikit-optimize EI, defaults": ("skopt", Skopt),
    "scikit-optimize EI, tuned": ("skopt", SkoptTuned),
    "hyperopt TPE": ("hyperopt", Hyperopt),
    "Optuna TPE": ("optuna", OptunaTPE),
    "Optuna GP": ("torch", OptunaGP),
    "Optuna GP, constraints": ("torch", OptunaGPConstrained),
    "OpenTuner": ("opentuner", OpenTuner),
    "SafeOpt": ("safeopt", SafeOpt),
}
PEERS = {name: made for name, (package, made) in _PEERS.items() if find_spec(package)}
MISSING = {name: package for name, (package, _) in _PEERS.items() if not find_spec(package)}
