"""Generic tuners behind one interface: they see a box of integers and one number to lessen.

The packages run as they are. OpenTuner 0.8.8 asks for old libraries (SQLAlchemy below 1.4, numpy
below 2, `fn`), so it runs in a Python of its own, named by POOLWRIGHT_OPENTUNER_PYTHON, and is
spoken to by lines of JSON (`opentuner_server.py`). What is not installed is left out, by name.
"""

import importlib.util
import json
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

Levels = tuple[int, ...]
OPENTUNER = "POOLWRIGHT_OPENTUNER_PYTHON"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A knob: its bounds, and whether a doubling is a step."""

    name: str
    low: int
    high: int
    log: bool = True


class Tuner(Protocol):
    """Asked for a setting, told what it cost. The first `starts` may be drawn at random."""

    def ask(self) -> Levels:
        """The next setting."""

    def tell(self, levels: Levels, cost: float) -> None:
        """What it cost; lower is better."""

    def close(self) -> None:
        """No more will be asked."""


class Random:
    """Uniform, over the logarithm where a doubling is a step."""

    def __init__(self, space: list[Dimension], seed: int, starts: int) -> None:
        self.space, self.rng = space, np.random.default_rng([1, seed])

    def ask(self) -> Levels:
        return tuple(self._one(d) for d in self.space)

    def _one(self, d: Dimension) -> int:
        if not d.log:
            return int(self.rng.integers(d.low, d.high + 1))
        drawn = math.exp(self.rng.uniform(math.log(d.low - 0.499), math.log(d.high + 0.499)))
        return min(d.high, max(d.low, round(drawn)))

    def tell(self, levels: Levels, cost: float) -> None:
        pass

    def close(self) -> None:
        pass


class SkoptGp:
    """scikit-optimize: Matern GP with a length scale for each dimension, EI.

    The logarithm of the cost is modelled, as in the structured model.
    """

    def __init__(self, space: list[Dimension], seed: int, starts: int) -> None:
        from skopt import Optimizer  # noqa: PLC0415
        from skopt.space import Integer  # noqa: PLC0415

        axes = [
            Integer(d.low, d.high, prior="log-uniform" if d.log else "uniform", name=d.name)
            for d in space
        ]
        self.inner = Optimizer(
            axes, base_estimator="GP", n_initial_points=starts, acq_func="EI", random_state=seed
        )

    def ask(self) -> Levels:
        return tuple(int(x) for x in self.inner.ask())

    def tell(self, levels: Levels, cost: float) -> None:
        self.inner.tell(list(levels), math.log(cost))

    def close(self) -> None:
        pass


class OptunaTpe:
    """Optuna's TPE, multivariate."""

    def __init__(self, space: list[Dimension], seed: int, starts: int) -> None:
        import optuna  # noqa: PLC0415

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=starts)
        self.study = optuna.create_study(sampler=sampler)
        self.space, self.trial, self.optuna = space, None, optuna

    def ask(self) -> Levels:
        self.trial = self.study.ask()
        return tuple(self.trial.suggest_int(d.name, d.low, d.high, log=d.log) for d in self.space)

    def tell(self, levels: Levels, cost: float) -> None:
        if self.trial is None:  # the operator's default, which nobody asked for
            params = {d.name: x for d, x in zip(self.space, levels, strict=True)}
            kinds = {
                d.name: self.optuna.distributions.IntDistribution(d.low, d.high, log=d.log)
                for d in self.space
            }
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    params=params, distributions=kinds, value=math.log(cost)
                )
            )
            return
        self.study.tell(self.trial, math.log(cost))
        self.trial = None

    def close(self) -> None:
        pass


class HyperoptTpe:
    """hyperopt's TPE."""

    def __init__(self, space: list[Dimension], seed: int, starts: int) -> None:
        from hyperopt import Trials, base, hp, tpe  # noqa: PLC0415

        self.space, self.trials, self.base, self.tpe = space, Trials(), base, tpe
        self.starts = starts
        self.rng, self.pending = np.random.default_rng([2, seed]), None
        knobs = {}
        for d in space:
            if d.log:
                low, high = math.log(d.low - 0.499), math.log(d.high + 0.499)
                knobs[d.name] = hp.qloguniform(d.name, low, high, 1)
            else:
                knobs[d.name] = hp.quniform(d.name, d.low - 0.499, d.high + 0.499, 1)
        self.domain = base.Domain(lambda _: 0.0, knobs)

    def ask(self) -> Levels:
        seed = int(self.rng.integers(2**31 - 1))
        ids = self.trials.new_trial_ids(1)
        made = self.tpe.suggest(ids, self.domain, self.trials, seed, n_startup_jobs=self.starts)
        self.pending = made[0]
        found = {name: vals[0] for name, vals in self.pending["misc"]["vals"].items()}
        return tuple(min(d.high, max(d.low, round(found[d.name]))) for d in self.space)

    def tell(self, levels: Levels, cost: float) -> None:
        doc, self.pending = self.pending, None
        if doc is None:
            tid = self.trials.new_trial_ids(1)[0]
            names = [d.name for d in self.space]
            misc = {
                "tid": tid,
                "cmd": ("domain_attachment", "FMinIter_Domain"),
                "idxs": {name: [tid] for name in names},
                "vals": {n: [float(x)] for n, x in zip(names, levels, strict=True)},
            }
            doc = self.trials.new_trial_docs([tid], [None], [self.base.SONify({})], [misc])[0]
        doc["state"] = self.base.JOB_STATE_DONE
        doc["result"] = {"status": "ok", "loss": math.log(cost)}
        self.trials.insert_trial_doc(doc)
        self.trials.refresh()

    def close(self) -> None:
        pass


class OpenTuner:
    """OpenTuner's default ensemble (AUC bandit over mutation, evolution and Nelder-Mead)."""

    def __init__(self, space: list[Dimension], seed: int, starts: int) -> None:
        server = Path(__file__).with_name("opentuner_server.py")
        self.process = subprocess.Popen(
            [os.environ[OPENTUNER], str(server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        box = [[d.name, d.low, d.high, d.log] for d in space]
        self._say({"space": box, "seed": seed})

    def _say(self, what: dict) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"OpenTuner ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self) -> Levels:
        return tuple(self._say({"ask": True})["levels"])

    def tell(self, levels: Levels, cost: float) -> None:
        self._say({"levels": levels, "cost": math.log(cost)})

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)


def catalogue() -> dict[str, type]:
    """Those whose package is here."""
    packages: dict[str, tuple[str, type]] = {
        "GP, EI (scikit-optimize)": ("skopt", SkoptGp),
        "TPE (hyperopt)": ("hyperopt", HyperoptTpe),
        "TPE (Optuna)": ("optuna", OptunaTpe),
    }
    found: dict[str, type] = {"random": Random}
    found |= {
        name: made
        for name, (package, made) in packages.items()
        if importlib.util.find_spec(package) is not None
    }
    return found | ({"OpenTuner": OpenTuner} if os.environ.get(OPENTUNER) else {})
