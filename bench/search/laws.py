"""Control laws, from their published formulas; no line of their code is here.

One window is one sample of a law, and the law sets the number of workers; further knobs stay at
the operator's default. A limiter of admissions sees what it admitted: its round-trip time is the
time in a worker and its in-flight count the busy workers; nothing behind the pool rejects requests,
so there are no drops but AIMD's own timeout. Every law begins at the operator's default. None of
them knows of memory, so each has the maximum that an operator would write who knew the memory of
every size.
"""

import math
from collections import deque

import numpy as np

from search.methods import Levels, Windowed
from search.world import Seen, World


class Law(Windowed):
    """A law of one level. `level` is real; what is held is its rounding."""

    def __init__(self, world: World) -> None:
        """Begin at the operator's default."""
        super().__init__(world)
        self.least, self.most = self.plant.spans[0][1], self.plant.memory_top
        self.level = float(self.now[0])

    def learn(self, held: Levels, seen: Seen) -> None:
        """Let the law speak, within bounds."""
        self.level = min(float(self.most), max(float(self.least), self.next(held[0], seen)))

    def next(self, n: int, seen: Seen) -> float:
        """The law: the next level, from what `n` workers showed."""
        raise NotImplementedError

    def propose(self) -> Levels:
        """The level."""
        return (int(self.level), *self.now[1:])


class Aimd(Law):
    """Netflix AIMDLimit: times 0.9 on a timeout (here: the SLO), else one more when half used."""

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        if seen.service > self.plant.slo_s:
            return math.floor(0.9 * n)
        return n + 1 if 2 * seen.busy >= n else n


class Vegas(Law):
    """Netflix VegasLimit, defaults: alpha 3, beta 6, threshold 1, each times log10 of the limit."""

    def __init__(self, world: World) -> None:
        """No baseline yet."""
        super().__init__(world)
        self.base, self.count = 0.0, 0
        self.jitter = self.rng.uniform(0.5, 1.0)

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        self.count += 1
        if self.jitter * 30.0 * n <= self.count:
            self.base, self.count = seen.service, 0
            self.jitter = self.rng.uniform(0.5, 1.0)
            return n
        if not self.base or seen.service < self.base:
            self.base = seen.service
            return n
        log = max(1, int(math.log10(max(n, 1))))
        queue = math.ceil(n * (1.0 - self.base / seen.service))
        if 2.0 * seen.busy < n:
            return n
        if queue <= log:
            return n + 6 * log
        if queue < 3 * log:
            return n + log
        return n - log if queue > 6 * log else n


class Gradient2(Law):
    """Netflix Gradient2Limit, defaults (long window 600, tolerance 1.5, queue 4, smoothing 0.2)."""

    def __init__(self, world: World) -> None:
        """No long mean yet."""
        super().__init__(world)
        self.long, self.count = 0.0, 0

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        short = seen.service
        self.count += 1
        if self.count <= 10:
            self.long += (short - self.long) / self.count
        else:
            self.long += (short - self.long) * 2.0 / 601.0
        if self.long / short > 2.0:
            self.long *= 0.95
        if seen.busy < self.level / 2.0:
            return self.level
        gradient = min(1.0, max(0.5, 1.5 * self.long / short))
        return 0.8 * self.level + 0.2 * (self.level * gradient + 4.0)


class Envoy(Law):
    """Envoy's gradient controller: minRTT measured at 3 workers, buffer 25 %, headroom sqrt(L).

    Its docs' ratio of intervals (60 s against 0.1 s) is kept: a new measurement every 600 windows,
    or when the limit was at its least for five windows in a row.
    """

    def __init__(self, world: World) -> None:
        """The first measurement begins after the first window."""
        super().__init__(world)
        self.base: float | None = None
        self.saved = self.level
        self.measuring, self.low, self.count = False, 0, 0

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        self.count += 1
        if self.measuring:
            self.base, self.measuring, self.count = seen.service_p50, False, 0
            return self.saved
        if self.base is None or self.low >= 5 or self.count >= 600:
            self.saved, self.measuring, self.low = self.level, True, 0
            return 3.0
        gradient = min(2.0, max(0.5, 1.25 * self.base / seen.service_p50))
        level = self.level * gradient
        level = max(3.0, math.floor(level + math.sqrt(level)))
        self.low = self.low + 1 if level == 3.0 else 0
        return level


class Failsafe(Law):
    """failsafe-go's AdaptiveLimiter: Vegas' queue on smoothed p90, and correlations."""

    def __init__(self, world: World) -> None:
        """Empty windows."""
        super().__init__(world)
        self.recent: deque[float] = deque(maxlen=5)
        self.smooth = self.base = 0.0
        self.count = 0
        self.pairs: deque[tuple[float, float, float]] = deque(maxlen=50)

    def _correlation(self, column: int) -> tuple[float, float]:
        """Of the busy workers with a column, and the column's coefficient of variation."""
        seen = np.array(self.pairs)
        if len(seen) < 10:
            return 0.0, 1.0
        x, y = seen[:, 0], seen[:, column]
        spread = float(y.std() / y.mean())
        if spread < 0.01 or x.std() / x.mean() < 0.01:
            return 0.0, spread
        return float(np.corrcoef(x, y)[0, 1]), spread

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        self.count += 1
        self.recent.append(seen.service_p90)
        middle = float(np.median(self.recent))
        first = self.count == 1
        self.smooth = middle if first else self.smooth + (middle - self.smooth) * 2.0 / 6.0
        self.base = self.smooth if first else self.base + (self.smooth - self.base) * 2.0 / 11.0
        queue = math.ceil(n * (1.0 - self.base / self.smooth))
        self.pairs.append((seen.busy, seen.busy / self.smooth, self.smooth))
        served, spread = self._correlation(1)
        slower, _ = self._correlation(2)
        log = 1 if n < 100 else max(2, int(math.log10(n)))
        full = seen.busy >= 0.9 * n
        falls = full and (
            served < 0.0 or (served < 0.3 and slower > 0.5) or (spread < 0.2 and slower > 0.5)
        )
        level = float(n)
        if queue > 6 * log or falls:
            level = n - log
        elif queue < 3 * log:
            level = n + log
        return n - log if level > 5.0 * max(seen.busy, 1.0) else level


class VectorArc(Law):
    """Vector's adaptive concurrency: one more when the limit is reached and latency is usual, times
    0.9 when it is 2.5 deviations over its moving mean.
    """

    def __init__(self, world: World) -> None:
        """No mean yet."""
        super().__init__(world)
        self.mean, self.variance = 0.0, 0.0

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        rtt = seen.service
        first = self.mean == 0.0
        mean, deviation = (rtt, 0.0) if first else (self.mean, math.sqrt(self.variance))
        level = float(n)
        if not first and rtt >= mean + 2.5 * deviation:
            level = math.floor(0.9 * n)
        elif rtt <= mean and seen.busy >= 0.9 * n:
            level = n + 1
        gap = rtt - mean
        self.mean = mean + 0.4 * gap
        self.variance = 0.6 * (self.variance + 0.4 * gap * gap)
        return level


class DotNet(Law):
    """The .NET thread pool's hill climbing: a square wave on the level, Goertzel's filter at its
    frequency and at its neighbours, a move along the real part of the ratio less a bias.

    A window is its sample; gain is 4 threads a sample (in .NET: a second).
    """

    WAVE, HISTORY, BIAS, GAIN, SNR = 4, 8, 0.15, 4.0, 3.0

    def __init__(self, world: World) -> None:
        """An empty history."""
        super().__init__(world)
        self.control = self.level
        self.noise: float | None = None
        self.samples: deque[float] = deque(maxlen=self.WAVE * self.HISTORY)
        self.threads: deque[float] = deque(maxlen=self.WAVE * self.HISTORY)
        self.total = 0

    @staticmethod
    def goertzel(values: list[float], period: float) -> complex:
        """The component of a period, per sample."""
        w = 2.0 * math.pi / period
        q1 = q2 = 0.0
        for value in values:
            q1, q2 = 2.0 * math.cos(w) * q1 - q2 + value, q1
        return complex(q1 - q2 * math.cos(w), q2 * math.sin(w)) / len(values)

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        self.samples.append(seen.throughput)
        self.threads.append(float(n))
        self.total += 1
        ratio, confidence, noise = 0j, 0.0, 0.0
        count = min(self.total - 1, self.samples.maxlen or 0) // self.WAVE * self.WAVE
        if count > self.WAVE:
            x, t = list(self.samples)[-count:], list(self.threads)[-count:]
            mean_x, mean_t = sum(x) / count, sum(t) / count
            wave_x = self.goertzel(x, self.WAVE) / mean_x
            wave_t = self.goertzel(t, self.WAVE) / mean_t
            periods = count / self.WAVE
            noise = abs(self.goertzel(x, count / (periods + 1.0)) / mean_x)
            if periods - 1.0 >= 1.0:
                noise = max(noise, abs(self.goertzel(x, count / (periods - 1.0)) / mean_x))
            self.noise = noise if self.noise is None else 0.01 * noise + 0.99 * self.noise
            if abs(wave_t) > 0.0:
                ratio = (wave_x - self.BIAS * wave_t) / wave_t
            worst = max(self.noise, noise)
            confidence = abs(wave_t) / worst / self.SNR if worst > 0.0 else 1.0
        move = min(1.0, max(-1.0, ratio.real)) * min(1.0, max(0.0, confidence))
        move = min(20.0, math.copysign(abs(move) ** 2.0 * self.GAIN, move))
        if move > 0.0 and seen.cpu / seen.cores + seen.foreign > 0.95:
            move = 0.0
        self.control += move
        wave = int(0.5 + self.control * (self.noise or 0.0) * self.SNR * 2.0)
        wave = min(20, max(1, wave))
        self.control = min(self.most - wave, max(float(self.least), self.control))
        return math.floor(self.control + wave * (self.total // 2 % 2))


class Busyness(Law):
    """uWSGI's busyness algorithm: between 25 and 50 % busy, with a penalty for flapping; a backlog
    over 33 adds a worker.
    """

    def __init__(self, world: World) -> None:
        """The usual multiplier."""
        super().__init__(world)
        self.multiplier, self.quiet, self.since_removal = 10, 0, 10**6

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        percent = 100.0 * min(1.0, seen.busy / n)
        self.since_removal += 1
        if percent > 50.0:
            self.quiet = 0
            if self.since_removal <= self.multiplier:
                self.multiplier += 2
            else:
                self.multiplier = max(10, self.multiplier - 1)
            return n + 1
        if seen.queue > 33.0:
            return n + 1
        if percent < 25.0:
            self.quiet += 1
            if self.quiet >= self.multiplier:
                self.quiet, self.since_removal = 0, 0
                return n - 1
        return n


class Celery(Law):
    """Celery's autoscaler: as many as there are requests, down only 30 s after the last growth."""

    def __init__(self, world: World) -> None:
        """It shrinks only if it ever grew."""
        super().__init__(world)
        self.grown: int | None = None
        self.count = 0

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        self.count += 1
        wanted = math.ceil(seen.busy + seen.queue)
        if wanted > n:
            self.grown = self.count
            return wanted
        waited = self.grown is not None and self.count - self.grown > 1
        return wanted if waited else n


class Hpa(Law):
    """Kubernetes' HorizontalPodAutoscaler on busy workers, 80 %; tolerance 0.1, up at most to
    twice or four more in 15 s, down to the largest of the last 300 s.
    """

    def __init__(self, world: World) -> None:
        """No recommendations yet."""
        super().__init__(world)
        self.wanted: deque[int] = deque(maxlen=10)

    def next(self, n: int, seen: Seen) -> float:
        """The law."""
        ratio = min(1.0, seen.busy / n) / 0.8
        wanted = n if abs(ratio - 1.0) <= 0.1 else math.ceil(n * ratio)
        wanted = min(wanted, max(4 * n, n + 8))  # two periods of 15 s
        self.wanted.append(wanted)
        return wanted if wanted >= n else min(n, max(self.wanted))


LAWS = {
    ".NET hill climbing": DotNet,
    "Netflix Vegas": Vegas,
    "Netflix Gradient2": Gradient2,
    "Netflix AIMD": Aimd,
    "Envoy gradient": Envoy,
    "failsafe-go": Failsafe,
    "Vector ARC": VectorArc,
    "uWSGI busyness": Busyness,
    "Celery autoscale": Celery,
    "Kubernetes HPA": Hpa,
}
