"""Draws docs/phases.md from the table in the code."""

from pathlib import Path

from poolwright.core.phase import mermaid

TEXT = f"""# Phases

Drawn from `TRANSITIONS` in `daemon/poolwright/core/phase.py` by `make docs`;
a test keeps them equal. An event that has no arrow in a phase changes nothing there.

```mermaid
{mermaid()}
```

| phase | what poolwright does in it |
|---|---|
| warmup | watches the baseline; moves nothing until enough windows have been seen |
| explore | fits after every window, tries what promises most, follows the schedule |
| converged | follows the schedule; one window in `converged_every` may be a probe |
| cooldown | a guard tripped: follows the schedule, tries nothing, for `cooldown` |
| blind | what the guard needs cannot be seen: holds, then goes to the last safe setting |
| manual | another hand moved the level: stands back until `resume` |
| paused | an operator said so |
| stood_down | tuning was shown not to help: holds the baseline until `resume` or drift |
"""

if __name__ == "__main__":
    Path(__file__).with_name("phases.md").write_text(TEXT)
