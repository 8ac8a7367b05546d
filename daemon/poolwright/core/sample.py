"""One tick's derived numbers: from the Readings of a Tick to the quantities that rules speak of."""

from dataclasses import dataclass

from poolwright.core.sketch import Sketch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one tick says. None: not known in this tick (and never to be read as zero or as good).

    `load_rps` is offered load: completions plus growth of the queue. `latency` is what clients
    felt; `latency_estimated` says that it was composed from service time and queue delay.
    `missing` names the signals that a sensor should have given and did not.
    """

    tick: int
    dt_s: float
    load_rps: float | None = None
    throughput_rps: float | None = None
    errors_rps: float | None = None
    latency: Sketch | None = None
    latency_estimated: bool = False
    service_time: Sketch | None = None
    queue_length: float | None = None
    queue_delay_s: float | None = None
    in_flight: float | None = None  # busy workers: counted, else by Little's law
    cpu_cores: float | None = None
    memory_bytes: float | None = None
    memory_limit_bytes: float | None = None
    host_memory_used_bytes: float | None = None
    host_cpu_ratio: float | None = None
    foreign_cpu_ratio: float | None = None
    psi_cpu_ratio: float | None = None
    psi_memory_ratio: float | None = None
    psi_io_ratio: float | None = None
    connections: float | None = None
    connections_limit: float | None = None
    power_w: float | None = None
    power_std_w: float | None = None
    power_source: str = ""
    missing: tuple[str, ...] = ()
