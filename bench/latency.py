"""Is poolwright's p99 what clients felt? Measured, and estimated without X-Request-Start.

The demo's service under the demo's load, at each worker count of `--levels`: the p99 of the load
generator (from the intended moment of sending) beside what poolwright says from X-Request-Start,
and beside what it would say without it: gunicorn's service times, the kernel's accept queue and
Little's law.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from poolwright.core.derive import Deriver
from poolwright.core.model import Tick
from poolwright.core.sketch import merged
from poolwright.demo.stand import Rig, Stand
from poolwright.sensors.access_log import AccessLog
from poolwright.sensors.listen_queue import ListenQueue


async def measure(workers, seconds, rps, settle=4):
    """(generator, measured, estimated) sketches of latency at one worker count."""
    rig = Rig(workers=workers, rps=rps, seconds=seconds + settle + 1)
    felt, measured, estimated = [], [], []
    with_start, without = Deriver(), Deriver()
    with tempfile.TemporaryDirectory(prefix="poolwright-latency-") as name:
        async with Stand(Path(name), rig) as stand:
            sensors = (
                AccessLog(AccessLog.Options(listen=stand.syslog), "bench"),
                ListenQueue(ListenQueue.Options(listen=(f"127.0.0.1:{stand.port}",)), "bench"),
            )
            for sensor in sensors:
                await sensor.start()
            try:
                await stand.add_load(())
                index = 0
                async for second in stand.seconds():
                    now = time.monotonic_ns()
                    seen = (*await sensors[0].read(now), *await sensors[1].read(now))
                    hidden = tuple(r for r in seen if r.signal != "latency_s")
                    a, b = (
                        d.derive(Tick(index=index, mono_ns=now, wall_ns=0, readings=readings))
                        for d, readings in ((with_start, seen), (without, hidden))
                    )
                    index += 1
                    if index > settle:
                        felt.append(second.report.latency)
                        measured.append(a.latency)
                        estimated.append(b.latency)
                    if index == settle + seconds:
                        break
            finally:
                for sensor in sensors:
                    await sensor.close()
    return [merged(s for s in found if s is not None) for found in (felt, measured, estimated)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", default="4,5,6,8,12")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rps", type=float, default=80.0)
    args = parser.parse_args()
    print("workers  generator p99  measured          estimated")
    for level in map(int, args.levels.split(",")):
        felt, measured, estimated = asyncio.run(measure(level, args.seconds, args.rps))
        truth = felt.quantile(0.99)
        cells = "".join(
            f"{1000 * s.quantile(0.99):7.0f} ms {s.quantile(0.99) / truth - 1:+6.1%}   "
            for s in (measured, estimated)
        )
        print(f"{level:7d}  {1000 * truth:10.0f} ms  {cells}", flush=True)


if __name__ == "__main__":
    main()
