"""From one look at the instances of a template to the next: which serve, and what has happened.
Pure.

An instance **serves** when its unit is active with a process. One that is being started, or waits
for systemd's own restart, is *coming*; one that is being stopped is *leaving* and takes nothing
new; one that has failed is none. **The level** is how many serve.

**The epoch** is another when every serving instance was restarted by hand since the last one (a
deploy, all at once or one by one). That systemd replaced a crashed instance is no deploy: its
count of restarts (NRestarts) has grown then.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_RUNS = ("running", "reload", "reload-signal", "reload-notify", "refresh")
_COMES_BACK = ("start", "restart", "reload-or-start", "try-restart")
_TOLD_MOST = 4  # instances spelled out in one sentence
UNLIMITED = 2**64 - 1  # how systemd writes that there is no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One unit as systemd tells it. `job`: what is queued or under way for it, or nothing."""

    number: int
    name: str
    active: str  # ActiveState: active, activating, failed, ...
    sub: str  # SubState: running, exited, auto-restart, stop-sigterm, ...
    job: str = ""
    path: str = ""  # its object on the bus
    invocation: str = ""
    restarts: int = 0  # by systemd; known when the invocation is new
    result: str = ""  # of one that failed: exit-code, signal, timeout, ...

    @property
    def serves(self) -> bool:
        """Whether it is up and nobody has told it to go."""
        return self.is_up and self.sub in _RUNS and self.job != "stop"

    @property
    def is_up(self) -> bool:
        """Whether systemd calls it active."""
        return self.active in ("active", "reloading", "refreshing")

    @property
    def comes(self) -> bool:
        """Whether it will serve if nothing goes wrong."""
        if self.is_up or self.job == "stop":
            return False
        return self.active == "activating" or self.job in _COMES_BACK

    @property
    def leaves(self) -> bool:
        """Whether it is on its way down."""
        return not self.comes and (
            self.active == "deactivating" or (self.is_up and self.job == "stop")
        )

    @property
    def has_failed(self) -> bool:
        """Whether it is down and systemd will not start it again by itself."""
        return self.active == "failed" and not self.comes

    def __str__(self) -> str:
        """For people: `worker@3 is activating (auto-restart)`."""
        return f"{self.name.removesuffix('.service')} is {self.active} ({self.sub})"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a look means, given the ones before it. Instances are in the order of their numbers."""

    serving: tuple[Instance, ...]
    coming: tuple[Instance, ...]
    leaving: tuple[Instance, ...]
    failed: tuple[Instance, ...]
    epoch: str
    news: tuple[str, ...]

    @property
    def there(self) -> tuple[Instance, ...]:
        """Those that serve, or will."""
        return tuple(sorted((*self.serving, *self.coming), key=lambda i: i.number))


class Watch:
    """Remembers the last look."""

    def __init__(self) -> None:
        """Start without a past."""
        self.generation = 0
        self._known: dict[int, str] = {}  # number -> the invocation last seen
        self._renewed: set[int] = set()  # restarted by hand in this epoch
        self._expected: frozenset[int] | None = None  # what our own moves led to
        self._ours: set[int] = set()  # stopped by us: however they ended, they did as told
        self._first = ""

    def is_new(self, number: int, invocation: str) -> bool:
        """Whether the instance was started since the last look, and not for the first time."""
        return self._known.get(number, invocation) != invocation

    def starts(self, number: int) -> None:
        """We start an instance: whatever it was before, it is a new one."""
        self._known.pop(number, None)
        self._ours.discard(number)

    def stops(self, number: int) -> None:
        """We stop an instance."""
        self._known.pop(number, None)
        self._ours.add(number)

    def expects_anything(self) -> None:
        """A move came to nothing: what is found after it was not another hand."""
        self._expected = None

    def see(self, found: Iterable[Instance], *, moving: bool) -> View:
        """Take a look into account. `moving`: we are starting and stopping ourselves."""
        found = sorted(found, key=lambda i: i.number)
        serving = tuple(i for i in found if i.serves)
        failed = tuple(i for i in found if i.has_failed and i.number not in self._ours)
        coming = tuple(i for i in found if i.comes)
        news = self._incarnations(serving)
        numbers = frozenset(i.number for i in serving)
        if not moving:
            self._ours -= numbers  # a move was broken off before it stopped them
        if moving or self._expected is None:
            self._expected = numbers or None
        else:
            there = numbers | {i.number for i in (*coming, *failed)}
            news += _hands(sorted(numbers - self._expected), "started")
            news += _hands(sorted(self._expected - there), "stopped")
        if failed:
            told = ", ".join(f"{i.number} ({i.result or i.sub})" for i in failed[:_TOLD_MOST])
            more = f" and {len(failed) - _TOLD_MOST} more" if len(failed) > _TOLD_MOST else ""
            news.append(f"failed, and not counted: {told}{more}")
        empty = [str(i) for i in found if i.is_up and not i.serves and not i.leaves]
        news += [f"{one}: without a process it is not counted" for one in empty[:_TOLD_MOST]]
        return View(
            serving=serving,
            coming=coming,
            leaving=tuple(i for i in found if i.leaves),
            failed=failed,
            epoch=f"{self._first}:{self.generation}",
            news=tuple(news),
        )

    def _incarnations(self, serving: tuple[Instance, ...]) -> list[str]:
        """Who was restarted, and by whom."""
        news: list[str] = []
        if not self._first and serving:
            self._first = serving[0].invocation[:12] or "first"
        for one in serving:
            number, before = one.number, self._known.get(one.number)
            self._known[number] = one.invocation
            if before == one.invocation:
                continue
            if before is None:
                if self._renewed:
                    self._renewed.add(number)  # it is as new as those
            elif one.restarts > 0:
                news.append(
                    f"{number} ended and systemd restarted it ({one.restarts} times so far)"
                )
            else:
                self._renewed.add(number)
        numbers = {one.number for one in serving}
        if self._renewed and numbers and numbers <= self._renewed:
            self.generation += 1
            self._renewed.clear()
            self._known = {one.number: one.invocation for one in serving}
            self._expected = None
            return [f"all {len(numbers)} instances were restarted"]
        return news


def _hands(numbers: list[int], what: str) -> list[str]:
    if not numbers:
        return []
    told = ", ".join(map(str, numbers[:_TOLD_MOST]))
    more = f" and {len(numbers) - _TOLD_MOST} more" if len(numbers) > _TOLD_MOST else ""
    return [f"{told}{more} {what} by another hand"]


def limits_text(limits: Iterable[tuple[int, int]]) -> str:
    """What each instance may use, from (CPU in us a second, memory in bytes); empty without one."""
    limits = tuple(limits)
    cpu = _range([us for us, _ in limits], 1e6)
    memory = _range([size for _, size in limits], 2**20)
    parts = [f"CPU {cpu} cores"] if cpu else []
    parts += [f"memory {memory} MiB"] if memory else []
    return f"limits of each: {', '.join(parts)}" if parts else ""


def _range(amounts: list[int], unit: float) -> str:
    """`0.5`, or `0.5 to 2`, or `0.5 to unlimited`; empty when nothing limits."""
    if not amounts or min(amounts) >= UNLIMITED:
        return ""
    low, high = (f"{n / unit:.6g}" for n in (min(amounts), max(amounts)))
    high = "unlimited" if max(amounts) >= UNLIMITED else high
    return low if low == high else f"{low} to {high}"
