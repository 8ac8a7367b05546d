"""The model of a machine's watts by its CPU use: a curve through four knots. Pure.

The knots are at 0, 10, 50 and 100 % of CPU, straight in between. Of 619 published SPECpower_ssj2008
results (2004-2022; data of green-coding-solutions/spec-power-model 9739f29c), a curve through each
machine's own four knots is off by 1.4 % of peak power on average and by at most 5.6 % in 95 of 100
cases; the median shape between known idle and peak is off by 3.9 and 10.6 %. The 95th percentiles
over 1.96 give the standard errors below. CPU % of the operating system is not quite SPEC's load %,
so a model stays an estimate however good its knots.
"""

from dataclasses import dataclass

KNOTS = (0.0, 0.1, 0.5, 1.0)  # share of CPU busy
# (P - idle) / (peak - idle) at the knots: medians of the 93 results for hardware of 2020-22.
SHAPE = (0.0, 0.16, 0.44, 1.0)
# Wall watts a logical CPU, idle and flat out: means over eight server generations of 2019-25 in
# cloud-carbon-footprint/ccf-coefficients (output/coefficients-aws-use.csv, 2026; Apache-2.0), which
# spread by 30 and 40 %.
IDLE_W_PER_CPU = 0.67
PEAK_W_PER_CPU = 2.82
PRIOR_STD_RATIO = 0.40  # of the watts, when nothing is known of the machine
ENDS_STD_RATIO = 0.06  # of peak: idle and peak known, shape the median's (10.6 / 1.96)
KNOTS_STD_RATIO = 0.03  # of peak: all four known (5.6 / 1.96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Watts at the four knots, with the standard error as shares of the watts and of the peak."""

    watts: tuple[float, float, float, float]
    std_ratio: float
    peak_std_ratio: float
    text: str

    def at(self, share: float) -> tuple[float, float]:
        """Watts and their standard error at a share of CPU, which is bounded to 0..1."""
        u = min(1.0, max(0.0, share))
        i = next(i for i in range(1, len(KNOTS)) if u <= KNOTS[i])
        part = (u - KNOTS[i - 1]) / (KNOTS[i] - KNOTS[i - 1])
        power = self.watts[i - 1] + part * (self.watts[i] - self.watts[i - 1])
        return power, self.std_ratio * power + self.peak_std_ratio * self.watts[-1]


def shaped(idle_w: float, peak_w: float) -> tuple[float, float, float, float]:
    """The median shape between two ends."""
    a, b, c, d = (idle_w + share * (peak_w - idle_w) for share in SHAPE)
    return a, b, c, d


def curve_of(
    cpus: int,
    idle_w: float | None,
    at_10_w: float | None,
    at_50_w: float | None,
    peak_w: float | None,
) -> Curve:
    """The model of a machine with so many logical CPUs, by what is known of it."""
    if idle_w is None or peak_w is None:
        return Curve(
            watts=shaped(IDLE_W_PER_CPU * cpus, PEAK_W_PER_CPU * cpus),
            std_ratio=PRIOR_STD_RATIO,
            peak_std_ratio=0.0,
            text=f"four-knot curve, typical server of {cpus} logical CPUs",
        )
    if at_10_w is None or at_50_w is None:
        return Curve(
            watts=shaped(idle_w, peak_w),
            std_ratio=0.0,
            peak_std_ratio=ENDS_STD_RATIO,
            text="four-knot curve, typical shape between stated ends",
        )
    return Curve(
        watts=(idle_w, at_10_w, at_50_w, peak_w),
        std_ratio=0.0,
        peak_std_ratio=KNOTS_STD_RATIO,
        text="four-knot curve as stated",
    )
