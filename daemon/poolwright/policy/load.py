"""Policies: found by name, read from YAML, made into what the core obeys."""

import os
from collections.abc import Collection
from pathlib import Path

from poolwright.core import policy as core_policy
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.signals import RESPONSE_NAMES
from poolwright.policy.bind import bind, field_specs, suggestion
from poolwright.policy.schema import PolicyFile, SloRules
from poolwright.policy.tree import Document, read_document

# A response can be seen when a sensor gives all signals of one of these sets (`core.derive`).
_SEEN_THROUGH: dict[str, tuple[frozenset[str], ...]] = {
    "throughput_rps": (frozenset({"throughput_rps"}),),
    "jitter_s": (frozenset({"latency_s"}), frozenset({"service_time_s"})),
    "latency_p50_s": (frozenset({"latency_s"}), frozenset({"service_time_s"})),
    "latency_p95_s": (frozenset({"latency_s"}), frozenset({"service_time_s"})),
    "latency_p99_s": (frozenset({"latency_s"}), frozenset({"service_time_s"})),
    "power_w": (frozenset({"power_w"}),),
    "cpu_cores": (frozenset({"cpu_cores"}),),
    "memory_bytes": (frozenset({"memory_bytes"}),),
    "error_ratio": (frozenset({"errors_rps", "throughput_rps"}),),
}


def load_policy(path: Path) -> core_policy.Policy:
    """The policy in a YAML file.

    Raises PolicyError with every problem of the file, each as `FILE:LINE:COL: message`, and
    PlantFault when it cannot be read.
    """
    return bind_policy(read_document(path), path.parent)


def bind_policy(document: Document, base: Path) -> core_policy.Policy:
    """The policy in a document already read; PolicyError as `load_policy`."""
    written = bind(document.root, PolicyFile, document.problems, base)
    document.problems.check()
    assert written is not None, "what cannot be bound is a problem"
    return _policy(written, document.sha256)


def find_policy(name_or_path: str, policies_dir: Path | None) -> Path:
    """The file of a policy.

    A text with a slash or ending in .yaml is a path, relative ones to the working directory. A name
    is looked for as NAME.yaml among the operator's (`policies_dir`), then among the shipped ones.
    Raises PolicyError, with a suggestion, when there is none, and PlantFault when the operator's
    folder exists and cannot be listed: the shipped policy of the same name is not what was meant.
    """
    if is_path(name_or_path):
        if not os.path.lexists(name_or_path):
            raise PolicyError(f"policy {name_or_path!r}: there is no such file")
        return Path(name_or_path)
    known: dict[str, Path] = {}
    for folder in (shipped_policies(), policies_dir):
        if folder is not None:
            known |= {path.stem: path for path in yaml_files(folder)}
    if name_or_path not in known:
        raise PolicyError(
            f"policy {name_or_path!r} does not exist{suggestion(name_or_path, known)}"
        )
    return known[name_or_path]


def yaml_files(folder: Path) -> list[Path]:
    """The *.yaml files of a folder, sorted; none when it does not exist.

    Raises PlantFault when it cannot be listed (`Path.glob` would call it empty).
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".yaml")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PlantFault(f"{folder}: cannot be listed: {error.strerror}") from error


def is_path(name_or_path: str) -> bool:
    """Whether a policy is given by its file rather than by its name."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def shipped_policies() -> Path:
    """The folder of the policies that come with poolwright.

    In an installed package it lies within the package; in a source tree it is `policies/`.
    """
    # Not importlib.resources: it costs memory in the daemon, and a wheel is always unpacked.
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "policies"


def unseen_slos(policy: core_policy.Policy, signals: Collection[str]) -> tuple[str, ...]:
    """The responses of the policy's SLO that cannot be known from `signals` (`core.signals`)."""
    given = frozenset(signals)
    return tuple(
        slo.response
        for slo in policy.slo
        if not any(needed <= given for needed in _SEEN_THROUGH[slo.response])
    )


def _policy(written: PolicyFile, sha256: str) -> core_policy.Policy:
    return core_policy.Policy(
        name=written.name,
        knobs=_knobs(written),
        objective=tuple(
            sorted((RESPONSE_NAMES[name], weight) for name, weight in written.objective.items())
        ),
        slo=_slo(written.slo),
        guard=core_policy.GuardRule(
            memory_ratio=written.guard.memory.below,
            cpu_ratio=written.guard.cpu.below,
            breach_ticks=written.guard.breach.ticks,
            breach_of_ticks=written.guard.breach.of,
            blind_s=written.guard.blind,
            cooldown_s=written.guard.cooldown,
        ),
        explore=core_policy.ExploreRule(
            probes_per_hour=written.explore.probes_per_hour,
            budget_ratio=written.explore.budget,
            epsilon=written.explore.epsilon,
            patience=written.explore.patience,
            converged_every=written.explore.converged_every,
            window_s=written.explore.window,
            window_jitter=written.explore.window_jitter,
            warmup_windows=written.explore.warmup,
        ),
        mode=written.mode,
        on_other_hand=written.on_other_hand,
        exit=written.exit,
        cadence_s=written.cadence,
        seed=written.seed,
        sha256=sha256,
    )


def _knobs(written: PolicyFile) -> tuple[core_policy.Knob, ...]:
    return tuple(
        core_policy.Knob(
            name=name,
            lower=rule.min,
            upper=rule.max,
            step=rule.step,
            slew_per_move=rule.slew,
            settle_s=rule.settle,
            drain_s=rule.drain,
            dwell_s=rule.dwell,
            baseline=rule.baseline,
            scale=rule.scale,
        )
        for name, rule in sorted(written.knobs.items())
    )


def _slo(written: SloRules) -> tuple[core_policy.Slo, ...]:
    found = []
    for spec in field_specs(SloRules):
        rule = getattr(written, spec.name)
        if rule is not None:
            response = RESPONSE_NAMES[spec.name]
            found.append(
                core_policy.Slo(
                    response=response, below=float(rule.below), confidence=rule.confidence
                )
            )
    return tuple(sorted(found, key=lambda slo: slo.response))
