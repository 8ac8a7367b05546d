"""Control laws, from their published formulas; no line of their code is here.

A law is told, once a sample, what `n` workers showed, and answers how many there should be. It is
the same law in both benches: in `search/` a sample is a window of 30 s of a closed form, in
`tracking.py` it is as long as in the law's own product (`SPAN_S`) and comes from real queues.

A limiter of admissions sees what it admitted: its round-trip time is the time in a worker and its
in-flight count the busy workers; nothing behind the pool rejects requests, so there are no drops
but AIMD's own timeout.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What `span_s` seconds showed. `service` and `quantile` are of the time in a worker."""

    span_s: float
    settled: bool  # the level did not change as it began
    done: float  # requests completed
    throughput: float  # requests completed a second
    service: float  # mean [s]; 0 when nothing was completed
    quantile: Callable[[float], float]
    busy: float  # workers, mean
    in_flight: float  # workers busy at once, the most
    queue: float  # requests that wait for a worker, at the end
    reserved: float  # requests that wait or are served, at the end
    cpu: float  # cores of the pool
    foreign: float  # share of the host's cores that others use
    cores: float


class Law:
    """A law of one level. `level` is real; what is held is its rounding down."""

    SPAN_S: ClassVar[float]  # from sample to sample, in its own product
    LOOK_S: ClassVar[float]  # from look to look at what changes within a sample

    def __init__(
        self,
        start: int,
        least: int,
        most: int,
        rng: np.random.Generator,
        *,
        slo_s: float = math.inf,
        span_s: float | None = None,
    ) -> None:
        """Begin at `start`. `span_s`: what a sample counts as, where that is not `SPAN_S`."""
        self.level = float(start)
        self.least, self.most, self.rng, self.slo_s = least, most, rng, slo_s
        self.span_s = self.SPAN_S if span_s is None else span_s
        self.begin()

    def begin(self) -> None:
        """Nothing has been seen."""

    def ready(self, n: int, sample: Sample) -> bool:
        """Whether this is a sample; if not it has to grow further."""
        return sample.done >= 1.0

    def take(self, n: int, sample: Sample) -> int:
        """Let the law speak, within bounds: the level from now on."""
        self.level = min(float(self.most), max(float(self.least), self.next(n, sample)))
        return int(self.level)

    def next(self, n: int, sample: Sample) -> float:
        """The law: the next level, from what `n` workers showed."""
        raise NotImplementedError


class Netflix(Law):
    """concurrency-limits, behind its WindowedLimit: windows of 1 s, those with fewer than ten
    requests are dropped, mean round-trip time and the most in flight.
    """

    SPAN_S, LOOK_S = 1.0, 0.5

    def take(self, n: int, sample: Sample) -> int:
        """Drop a window with few requests."""
        return int(self.level) if sample.done < 10.0 else super().take(n, sample)


class Aimd(Netflix):
    """Netflix AIMDLimit: times 0.9 on a timeout (here: the SLO), else one more when half used."""

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        if sample.service > self.slo_s:
            return math.floor(0.9 * n)
        return n + 1 if 2 * sample.in_flight >= n else n


class Vegas(Netflix):
    """Netflix VegasLimit, defaults: alpha 3, beta 6, threshold 1, each times log10 of the limit."""

    def begin(self) -> None:
        """No baseline yet."""
        self.base, self.count = 0.0, 0
        self.jitter = self.rng.uniform(0.5, 1.0)

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.count += 1
        if self.jitter * 30.0 * n <= self.count:
            self.base, self.count = sample.service, 0
            self.jitter = self.rng.uniform(0.5, 1.0)
            return n
        if not self.base or sample.service < self.base:
            self.base = sample.service
            return n
        log = max(1, int(math.log10(max(n, 1))))
        queue = math.ceil(n * (1.0 - self.base / sample.service))
        if 2.0 * sample.in_flight < n:
            return n
        if queue <= log:
            return n + 6 * log
        if queue < 3 * log:
            return n + log
        return n - log if queue > 6 * log else n


class Gradient2(Netflix):
    """Netflix Gradient2Limit, defaults (long window 600, tolerance 1.5, queue 4, smoothing 0.2)."""

    def begin(self) -> None:
        """No long mean yet."""
        self.long, self.count = 0.0, 0

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        short = sample.service
        self.count += 1
        if self.count <= 10:
            self.long += (short - self.long) / self.count
        else:
            self.long += (short - self.long) * 2.0 / 601.0
        if self.long / short > 2.0:
            self.long *= 0.95
        if sample.in_flight < self.level / 2.0:
            return self.level
        gradient = min(1.0, max(0.5, 1.5 * self.long / short))
        return 0.8 * self.level + 0.2 * (self.level * gradient + 4.0)


class Envoy(Law):
    """Envoy's gradient controller: minRTT measured at 3 workers, buffer 25 %, headroom sqrt(L).

    Its docs' intervals, 0.1 s for the limit and 60 s for minRTT, or when the limit was at its least
    for five updates in a row. What was begun before a measurement does not count, and it takes 50
    requests.
    """

    SPAN_S, LOOK_S = 0.1, 0.1
    EVERY_S, REQUESTS = 60.0, 50.0

    def begin(self) -> None:
        """The first measurement begins after the first sample."""
        self.base: float | None = None
        self.saved = self.level
        self.measuring, self.low, self.count = False, 0, 0

    def ready(self, n: int, sample: Sample) -> bool:
        """A measurement needs its requests; what came before it is to be forgotten."""
        if self.measuring:
            return not sample.settled or sample.done >= self.REQUESTS
        return super().ready(n, sample)

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.count += 1
        if self.measuring and not sample.settled:
            return 3.0
        if self.measuring:
            self.base, self.measuring, self.count = sample.quantile(0.5), False, 0
            return self.saved
        if self.base is None or self.low >= 5 or self.count >= self.EVERY_S / self.span_s:
            self.saved, self.measuring, self.low = self.level, True, 0
            return 3.0
        gradient = min(2.0, max(0.5, 1.25 * self.base / sample.quantile(0.5)))
        level = self.level * gradient
        level = max(3.0, math.floor(level + math.sqrt(level)))
        self.low = self.low + 1 if level == 3.0 else 0
        return level


class Failsafe(Law):
    """failsafe-go's AdaptiveLimiter: Vegas' queue on smoothed p90, and correlations.

    A window has a second, and 50 requests however long they take.
    """

    SPAN_S, LOOK_S = 1.0, 0.5
    REQUESTS = 50.0

    def begin(self) -> None:
        """Empty windows."""
        self.recent: deque[float] = deque(maxlen=5)
        self.smooth = self.base = 0.0
        self.count = 0
        self.pairs: deque[tuple[float, float, float]] = deque(maxlen=50)

    def ready(self, n: int, sample: Sample) -> bool:
        """Enough requests."""
        return sample.done >= self.REQUESTS

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

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.count += 1
        self.recent.append(sample.quantile(0.9))
        middle = float(np.median(self.recent))
        first = self.count == 1
        self.smooth = middle if first else self.smooth + (middle - self.smooth) * 2.0 / 6.0
        self.base = self.smooth if first else self.base + (self.smooth - self.base) * 2.0 / 11.0
        queue = math.ceil(n * (1.0 - self.base / self.smooth))
        self.pairs.append((sample.in_flight, sample.in_flight / self.smooth, self.smooth))
        served, spread = self._correlation(1)
        slower, _ = self._correlation(2)
        log = 1 if n < 100 else max(2, int(math.log10(n)))
        full = sample.in_flight >= 0.9 * n
        falls = full and (
            served < 0.0 or (served < 0.3 and slower > 0.5) or (spread < 0.2 and slower > 0.5)
        )
        level = float(n)
        if queue > 6 * log or falls:
            level = n - log
        elif queue < 3 * log:
            level = n + log
        return n - log if level > 5.0 * max(sample.in_flight, 1.0) else level


class VectorArc(Law):
    """Vector's adaptive concurrency: one more when the limit is reached and latency is usual, times
    0.9 when it is 2.5 deviations over its moving mean.

    It speaks once a mean round-trip time; 0.1 s is what that is in `tracking.py`. Nine tenths of
    the limit in flight at a look is as much as all of it between two.
    """

    SPAN_S, LOOK_S = 0.1, 0.1

    def begin(self) -> None:
        """No mean yet."""
        self.mean, self.variance = 0.0, 0.0

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        rtt = sample.service
        first = self.mean == 0.0
        mean, deviation = (rtt, 0.0) if first else (self.mean, math.sqrt(self.variance))
        level = float(n)
        if not first and rtt >= mean + 2.5 * deviation:
            level = math.floor(0.9 * n)
        elif rtt <= mean and sample.in_flight >= 0.9 * n:
            level = n + 1
        gap = rtt - mean
        self.mean = mean + 0.4 * gap
        self.variance = 0.6 * (self.variance + 0.4 * gap * gap)
        return level


class DotNet(Law):
    """The .NET thread pool's hill climbing: a square wave on the level, Goertzel's filter at its
    frequency and at its neighbours, a move along the real part of the ratio less a bias.

    A sample takes 10 to 200 ms (here 100), and longer while fewer than n - 1 over 0.15 requests are
    done. Its gain is 4 threads a second.
    """

    SPAN_S, LOOK_S = 0.1, 0.1
    WAVE, HISTORY, BIAS, GAIN, SNR, ERROR = 4, 8, 0.15, 4.0, 3.0, 0.15

    def begin(self) -> None:
        """An empty history."""
        self.control = self.level
        self.noise: float | None = None
        self.samples: deque[float] = deque(maxlen=self.WAVE * self.HISTORY)
        self.threads: deque[float] = deque(maxlen=self.WAVE * self.HISTORY)
        self.total = 0

    def ready(self, n: int, sample: Sample) -> bool:
        """So many requests that those under way make no large error."""
        first = self.total == 0 and sample.done >= 1.0
        return first or n - 1.0 < self.ERROR * sample.done

    @staticmethod
    def goertzel(values: list[float], period: float) -> complex:
        """The component of a period, per sample."""
        w = 2.0 * math.pi / period
        q1 = q2 = 0.0
        for value in values:
            q1, q2 = 2.0 * math.cos(w) * q1 - q2 + value, q1
        return complex(q1 - q2 * math.cos(w), q2 * math.sin(w)) / len(values)

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.samples.append(sample.throughput)
        self.threads.append(float(n))
        self.total += 1
        ratio, confidence = self._ratio()
        move = min(1.0, max(-1.0, ratio)) * min(1.0, max(0.0, confidence))
        move = math.copysign(abs(move) ** 2.0 * self.GAIN * sample.span_s, move)
        move = min(20.0, move)
        if move > 0.0 and sample.cpu / sample.cores + sample.foreign > 0.95:
            move = 0.0
        self.control += move
        wave = int(0.5 + self.control * (self.noise or 0.0) * self.SNR * 2.0)
        wave = min(20, max(1, wave))
        self.control = min(self.most - wave, max(float(self.least), self.control))
        return math.floor(self.control + wave * (self.total // 2 % 2))

    def _ratio(self) -> tuple[float, float]:
        """What the wave did to the throughput, less the bias; and how sure that is."""
        count = min(self.total - 1, self.samples.maxlen or 0) // self.WAVE * self.WAVE
        if count <= self.WAVE:
            return 0.0, 0.0
        x, t = list(self.samples)[-count:], list(self.threads)[-count:]
        mean_x, mean_t = sum(x) / count, sum(t) / count
        wave_x = self.goertzel(x, self.WAVE) / mean_x
        wave_t = self.goertzel(t, self.WAVE) / mean_t
        periods = count / self.WAVE
        noise = abs(self.goertzel(x, count / (periods + 1.0)) / mean_x)
        if periods - 1.0 >= 1.0:
            noise = max(noise, abs(self.goertzel(x, count / (periods - 1.0)) / mean_x))
        self.noise = noise if self.noise is None else 0.01 * noise + 0.99 * self.noise
        ratio = (wave_x - self.BIAS * wave_t) / wave_t if abs(wave_t) > 0.0 else 0j
        worst = max(self.noise, noise)
        return ratio.real, abs(wave_t) / worst / self.SNR if worst > 0.0 else 1.0


class Busyness(Law):
    """uWSGI's busyness algorithm: between 25 and 50 % busy over `CHECK_S`, with a penalty for
    flapping; a backlog over 33 adds a worker in any cycle of the master.

    Not here: the quicker end of workers that a backlog added, and the timer's start anew after
    three cycles within the band.
    """

    SPAN_S, LOOK_S = 1.0, 1.0
    CHECK_S = 3.0

    def begin(self) -> None:
        """The usual multiplier."""
        self.multiplier, self.quiet, self.since_removal = 10, 0, 10**6
        self.shares: list[float] = []

    def ready(self, n: int, sample: Sample) -> bool:
        """The master's clock decides."""
        return True

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.shares.append(min(1.0, sample.busy / n))
        if len(self.shares) * self.span_s < self.CHECK_S:
            return n + 1 if sample.queue > 33.0 else n
        percent = 100.0 * sum(self.shares) / len(self.shares)
        self.shares.clear()
        self.since_removal += 1
        if percent > 50.0:
            self.quiet = 0
            if self.since_removal <= self.multiplier:
                self.multiplier += 2
            else:
                self.multiplier = max(10, self.multiplier - 1)
            return n + 1
        if sample.queue > 33.0:
            return n + 1
        if percent < 25.0:
            self.quiet += 1
            if self.quiet >= self.multiplier:
                self.quiet, self.since_removal = 0, 0
                return n - 1
        return n


class Celery(Law):
    """Celery's autoscaler: as many as there are requests, down only 30 s after the last growth."""

    SPAN_S, LOOK_S = 1.0, 1.0
    KEEP_S = 30.0

    def begin(self) -> None:
        """It shrinks only if it ever grew."""
        self.grown: int | None = None
        self.count = 0

    def ready(self, n: int, sample: Sample) -> bool:
        """A thread looks once a second."""
        return True

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        self.count += 1
        wanted = math.ceil(sample.reserved)
        if wanted > n:
            self.grown = self.count
            return wanted
        waited = self.grown is not None and (self.count - self.grown) * self.span_s > self.KEEP_S
        return wanted if waited else n


class Hpa(Law):
    """Kubernetes' HorizontalPodAutoscaler on busy workers, 80 %; tolerance 0.1, up at most to
    twice or four more in 15 s, down to the largest of the last 300 s.
    """

    SPAN_S, LOOK_S = 15.0, 1.0
    TARGET = 0.8

    def begin(self) -> None:
        """No recommendations yet."""
        self.wanted: deque[int] = deque(maxlen=round(300.0 / self.span_s))

    def ready(self, n: int, sample: Sample) -> bool:
        """The controller's clock decides."""
        return True

    def ratio(self, n: int, sample: Sample) -> float:
        """What is used of a worker, over the target."""
        return min(1.0, sample.busy / n) / self.TARGET

    def next(self, n: int, sample: Sample) -> float:
        """The law."""
        ratio, periods = self.ratio(n, sample), round(self.span_s / 15.0)
        wanted = n if abs(ratio - 1.0) <= 0.1 else math.ceil(n * ratio)
        wanted = min(wanted, max(n * 2**periods, n + 4 * periods))
        self.wanted.append(wanted)
        return wanted if wanted >= n else min(n, max(self.wanted))


class HpaOnCpu(Hpa):
    """The same on CPU, as it is mostly used. `target` is the cores that a worker may use."""

    target = math.nan

    def ratio(self, n: int, sample: Sample) -> float:
        """CPU of a worker, over the target."""
        return sample.cpu / n / self.target


LAWS: dict[str, type[Law]] = {
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
