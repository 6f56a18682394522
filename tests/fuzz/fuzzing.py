"""Feeding random input to a reader for a set time."""

import os
import time
from dataclasses import dataclass

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import tuples

SECONDS = float(os.environ.get("CXR_RAY_FUZZ_SECONDS", "150"))
EXAMPLES = 400


@dataclass
class Tally:
    """How much was tried."""

    examples: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def __str__(self):
        return (
            f"{self.examples} examples in {self.seconds / 60:.1f} minutes, the slowest"
            f" {self.slowest:.2f} s"
        )


def fuzz(check, *strategies):
    """Call ``check`` with drawn values until the time is over; any error but its own is shrunk."""
    tally, begun = Tally(), time.monotonic()

    def timed(drawn):
        started = time.monotonic()
        check(*drawn)
        tally.examples += 1
        tally.slowest = max(tally.slowest, time.monotonic() - started)

    options = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    start = int(os.environ.get("CXR_RAY_FUZZ_SEED", "0"))
    while time.monotonic() - begun < SECONDS:
        seed(start + tally.examples)(options(given(tuples(*strategies))(timed)))()
    tally.seconds = time.monotonic() - begun
    return tally
