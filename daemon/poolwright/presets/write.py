"""Several new files or none: nothing that exists is ever replaced."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from poolwright.core.errors import PlantFault, PolicyError


def refuse_existing(paths: list[Path]) -> None:
    """Raise PolicyError naming those of `paths` that exist."""
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        exist = "exists" if len(there) == 1 else "exist"
        raise PolicyError(f"{', '.join(there)} {exist}; nothing was written")


def put_in_place(staged: Mapping[Path, Path]) -> None:
    """Give each staged file (key) its final name, in this order; all, or none when one fails.

    A hard link never replaces: whoever made the name in the meantime keeps it. Raises PolicyError
    when one exists, PlantFault when one cannot be written.
    """
    made: list[Path] = []
    try:
        for source, target in staged.items():
            _make_folder(target.parent)
            with source.open("rb") as file:
                os.fsync(file.fileno())
            target.hardlink_to(source)
            made.append(target)
    except (OSError, PlantFault) as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise PolicyError(f"{target} exists; nothing was written") from error
        what = f"{target}: {error.strerror}" if isinstance(error, OSError) else error
        raise PlantFault(f"{what}; nothing was written") from error


def _make_folder(path: Path) -> None:
    """As `mkdir -p`. Raises PlantFault, also where a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise PlantFault(f"{path}: is no folder") from error
