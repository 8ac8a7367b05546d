"""OpenTuner in a Python of its own: lines of JSON in, lines of JSON out (see `peers.OpenTuner`)."""

import json
import logging
import os
import random
import sys
import tempfile

import numpy as np
import opentuner
from opentuner.api import TuningRunManager
from opentuner.measurement.interface import DefaultMeasurementInterface
from opentuner.resultsdb.models import Result
from opentuner.search.manipulator import (
    ConfigurationManipulator,
    IntegerParameter,
    LogIntegerParameter,
)


def start(told: dict, folder: str) -> TuningRunManager:
    """A tuning run over the box; what was told first becomes its seed configuration."""
    random.seed(told["seed"])
    np.random.seed(told["seed"])  # noqa: NPY002  as OpenTuner draws
    box = ConfigurationManipulator()
    for name, low, high, log in told["space"]:
        box.add_parameter((LogIntegerParameter if log else IntegerParameter)(name, low, high))
    args = opentuner.default_argparser().parse_args(
        ["--no-dups", "--database", os.path.join(folder, "runs.db")]  # noqa: PTH118
    )
    seeds = [dict(zip(box_names(told), told["first"], strict=True))] if "first" in told else []

    class Interface(DefaultMeasurementInterface):
        def seed_configurations(self):
            return seeds

    face = Interface(
        args=args, manipulator=box, project_name="b", program_name="b", program_version="1"
    )
    return TuningRunManager(face, args)


def box_names(told: dict) -> list[str]:
    """Names in order."""
    return [name for name, *_ in told["space"]]


def main() -> None:
    """Answer until the other side closes."""
    out = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr
    logging.disable(logging.CRITICAL)
    told = json.loads(sys.stdin.readline())
    out.write("{}\n")
    out.flush()
    run, wanted = None, None
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            said, answer = json.loads(line), {}
            if "ask" in said:
                run = run or start(told, folder)
                wanted = run.get_next_desired_result()
                while wanted is None:
                    wanted = run.get_next_desired_result()
                data = wanted.configuration.data
                answer = {"levels": [int(data[name]) for name in box_names(told)]}
            elif run is None:
                told["first"] = said["levels"]
                run = start(told, folder)
                wanted = run.get_next_desired_result()
                run.report_result(wanted, Result(time=said["cost"]))
            else:
                run.report_result(wanted, Result(time=said["cost"]))
            out.write(json.dumps(answer) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
