"""The control laws of `bench/laws.py` on the closed forms: one window is one sample.

The law sets the number of workers; further knobs stay at the operator's default, where every law
begins. None of them knows of memory, so each has the maximum that an operator would write who knew
the memory of every size.
"""

from functools import partial

import laws
from search.methods import Levels, Windowed
from search.world import WINDOW_S, Seen, World

# Seconds that a window counts as, where it is not one sample of the law's own product: Kubernetes
# and Celery wait for a time on the clock, uWSGI speaks once a check, .NET's gain is per second.
SPANS = {
    laws.DotNet: 1.0,
    laws.Busyness: laws.Busyness.CHECK_S,
    laws.Celery: WINDOW_S,
    laws.Hpa: WINDOW_S,
}


class Obeyed(Windowed):
    """A law, and a world that does what it says."""

    def __init__(self, world: World, law: type[laws.Law]) -> None:
        """Begin at the operator's default."""
        super().__init__(world)
        self.law = law(
            self.now[0],
            self.plant.spans[0][1],
            self.plant.memory_top,
            self.rng,
            slo_s=self.plant.slo_s,
            span_s=SPANS.get(law),
        )
        self.level = self.now[0]

    def learn(self, held: Levels, seen: Seen) -> None:
        """Let the law speak."""
        self.level = self.law.take(held[0], sample_of(seen, self.law.span_s))

    def propose(self) -> Levels:
        """The level."""
        return (self.level, *self.now[1:])


def sample_of(seen: Seen, span_s: float) -> laws.Sample:
    """A window, as a sample of `span_s`."""
    return laws.Sample(
        span_s=span_s,
        settled=True,
        done=seen.throughput * WINDOW_S,
        throughput=seen.throughput,
        service=seen.service,
        quantile={0.5: seen.service_p50, 0.9: seen.service_p90}.__getitem__,
        busy=seen.busy,
        in_flight=seen.busy,
        queue=seen.queue,
        reserved=seen.busy + seen.queue,
        cpu=seen.cpu,
        foreign=seen.foreign,
        cores=seen.cores,
    )


LAWS = {name: partial(Obeyed, law=law) for name, law in laws.LAWS.items()}
