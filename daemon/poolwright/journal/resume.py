"""What a new run may start from, read from whatever the last run left, in order or not."""

import sqlite3

from poolwright.core.model import Decision, Evidence, Kept, Phase, Plan, Resume, Setting
from poolwright.journal import record

EVIDENCE_MAX = 96  # as many as the core keeps
BUDGET = ("probes_left", "probe_seconds_left", "slo_seconds_left")  # names in Decision.evidence


def observed_ids(db: sqlite3.Connection, pool: str) -> list[int]:
    """The decisions whose observations a resume gives, ascending: the newest of each setting, then
    the newest of all, at most `EVIDENCE_MAX`.
    """
    newest_of_each = db.execute(
        "SELECT max(id) FROM decisions WHERE pool = ? AND observed IS NOT NULL"
        " GROUP BY observed ORDER BY 1 DESC LIMIT ?",
        (pool, EVIDENCE_MAX),
    )
    found = {int(row[0]) for row in newest_of_each}
    newest = db.execute(
        "SELECT id FROM decisions WHERE pool = ? AND observed IS NOT NULL ORDER BY id DESC LIMIT ?",
        (pool, EVIDENCE_MAX),
    )
    for (decision,) in newest:
        if len(found) >= EVIDENCE_MAX:
            break
        found.add(int(decision))
    return sorted(found)


def last_resume(db: sqlite3.Connection, pool: str) -> Resume | None:
    """What is known of `pool`; None when nothing is.

    A record that cannot be read is left out, and `notes` says so: a restart must not fail on it.
    """
    row = db.execute(
        "SELECT baseline, last_safe, weights, kept FROM pools WHERE pool = ?", (pool,)
    ).fetchone()
    if row is None:
        return None
    notes = _last_run_notes(db, pool)
    baseline, last_safe = (
        None if text is None else record.decode(text, Setting) for text in row[:2]
    )
    return Resume(
        baseline=baseline,
        last_safe=last_safe,
        evidence=_evidence(db, pool, record.decode(row[2], dict[str, float]), notes),
        plan=_newest_plan(db, pool, notes),
        kept=_kept(row[3], notes),
        budget=_budget(db, pool, notes),
        notes=tuple(notes),
    )


def _kept(text: str | None, notes: list[str]) -> Kept:
    """What was settled; when that cannot be read, it may have been `pause`."""
    if text is None:
        return Kept()
    try:
        return record.decode(text, Kept)
    except record.UnknownRecord as error:
        notes.append(f"paused until `resume`: what an operator had asked is unreadable: {error}")
        return Kept(phase=Phase.PAUSED)


def _budget(
    db: sqlite3.Connection, pool: str, notes: list[str]
) -> tuple[float, float, float] | None:
    """What the newest decision says is left, so that dying buys nothing new.

    None: the journal does not say (version 1 did not). Unreadable: nothing is left.
    """
    run, dictionary, resume = db.execute(
        "SELECT id, dictionary, resume FROM runs WHERE pool = ? ORDER BY id DESC LIMIT 1", (pool,)
    ).fetchone()
    batch = db.execute(
        "SELECT blob FROM batches WHERE run = ? ORDER BY seq DESC LIMIT 1", (run,)
    ).fetchone()
    try:
        if batch is None:  # it died before it wrote anything
            return record.unsqueeze(resume, Resume).budget
        last = record.decode_line(record.unpack(batch[0], dictionary)[-1])
    except record.UnknownRecord as error:
        notes.append(f"the budgets begin empty: what was left is unreadable: {error}")
        return (0.0, 0.0, 0.0)
    numbers = dict(last.decision.evidence)
    probes, seconds, slo = (numbers.get(name) for name in BUDGET)
    if probes is None or seconds is None or slo is None:
        return None
    return probes, seconds, slo


def _evidence(
    db: sqlite3.Connection, pool: str, weights: dict[str, float], notes: list[str]
) -> tuple[Evidence, ...]:
    """The newest observations, oldest first, with the weights that the last fit gave them.

    One that the last fit had merged with others counts like the least of those that it knew.
    """
    least = min((1.0, *weights.values()))
    evidence: list[Evidence] = []
    for decision in observed_ids(db, pool):
        row = db.execute("SELECT body FROM decisions WHERE id = ?", (decision,)).fetchone()
        try:
            seen = record.unsqueeze(row[0], Decision).observation
        except record.UnknownRecord as error:
            notes.append(f"the observation of decision {decision} was left out: {error}")
            continue
        if seen is None:
            notes.append(f"decision {decision} was left out: its observation is missing")
            continue
        weight = weights.get(record.observation_key(seen), least)
        evidence.append(Evidence(observation=seen, weight=weight))
    return tuple(evidence)


def _newest_plan(db: sqlite3.Connection, pool: str, notes: list[str]) -> Plan | None:
    row = db.execute(
        "SELECT blob FROM plans WHERE pool = ? ORDER BY id DESC LIMIT 1", (pool,)
    ).fetchone()
    if row is None:
        return None
    try:
        return record.decode_plan(row[0])
    except record.UnknownRecord as error:
        notes.append(f"the last plan was left out: {error}")
        return None


def _last_run_notes(db: sqlite3.Connection, pool: str) -> list[str]:
    """In words: how the last run ended, and whether its last batch is whole."""
    row = db.execute(
        "SELECT id, ended_wall_ns, end_reason, head_seq, head_hash FROM runs WHERE pool = ?"
        " ORDER BY id DESC LIMIT 1",
        (pool,),
    ).fetchone()
    if row is None:
        return []
    run, ended, reason, head_seq, head_hash = row
    batch = db.execute(
        "SELECT last_tick, hash FROM batches WHERE run = ? AND seq = ?", (run, head_seq - 1)
    ).fetchone()
    last = "no tick" if batch is None else f"tick {batch[0]}"
    if ended is None:
        notes = [f"run {run} did not end in order; the last thing it wrote is {last}"]
    else:
        notes = [f"run {run} ended: {reason}"]
    if head_seq and (batch is None or batch[1] != head_hash):
        notes.append(f"the journal of run {run} is damaged at its end; `journal verify` says where")
    return notes
