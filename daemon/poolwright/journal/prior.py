"""What one host has learned of a pool, as a file for another: evidence that travels.

A JSON file: `poolwright prior POOL` writes it, the key `prior` of a pool in a configuration names
it. Levels mean what the knobs' names say, and values what their units say, so both are written and
must agree.
"""

from pathlib import Path

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Evidence
from poolwright.core.policy import Policy
from poolwright.core.signals import RESPONSES, quantile_of

FORMAT = "poolwright-prior"
VERSION = 1
_LARGEST = 4 * 2**20


class PriorFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The file: `units` of every response in `evidence`, oldest first."""

    format: str
    version: int
    pool: str
    policy: str
    knobs: tuple[str, ...]
    units: dict[str, str]
    evidence: tuple[Evidence, ...]


def encode_prior(pool: str, policy: Policy, evidence: tuple[Evidence, ...]) -> bytes:
    """The bytes of the file."""
    names = {name for item in evidence for name, _ in item.observation.responses}
    made = PriorFile(
        format=FORMAT,
        version=VERSION,
        pool=pool,
        policy=policy.name,
        knobs=tuple(sorted(knob.name for knob in policy.knobs)),
        units={name: unit for name in sorted(names) if (unit := _unit(name))},
        evidence=evidence,
    )
    return msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"


def read_prior(path: Path, policy: Policy) -> tuple[Evidence, ...]:
    """The evidence in a file, for a pool under `policy`.

    Raises PlantFault when it cannot be read, and PolicyError when it is not such a file, is of a
    later release, of other knobs or in other units.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise PlantFault(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > _LARGEST:
        raise PolicyError(f"{path}: larger than {_LARGEST} bytes, which no prior is")
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if (head.format, head.version) != (FORMAT, VERSION):
            written = f"{head.format or 'an unnamed format'} {head.version}"
            raise PolicyError(f"{path}: {written}, not {FORMAT} {VERSION}")
        found = msgspec.json.decode(raw, type=PriorFile)
    except (msgspec.DecodeError, ValueError) as error:
        raise PolicyError(f"{path}: no prior of poolwright: {error}") from error
    _agree(path, found, policy)
    return found.evidence


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


def _agree(path: Path, found: PriorFile, policy: Policy) -> None:
    knobs = tuple(sorted(knob.name for knob in policy.knobs))
    if found.knobs != knobs:
        theirs, ours = ", ".join(found.knobs) or "none", ", ".join(knobs)
        raise PolicyError(f"{path}: learned of the knobs {theirs}; policy {policy.name} has {ours}")
    for name, unit in found.units.items():
        ours = _unit(name)
        if ours and unit != ours:
            raise PolicyError(f"{path}: {name} is in {unit}, and in {ours} here")
    for item in found.evidence:
        levels = tuple(name for name, _ in item.observation.setting.levels)
        if levels != knobs:
            raise PolicyError(
                f"{path}: a window at {item.observation.setting}, which is no setting"
            )


def _unit(response: str) -> str:
    """The unit of a response; empty for one that an own model brings."""
    return RESPONSES.get(response, "s" if quantile_of(response) else "")
