"""What a study comes to: its trials' prices laid onto slots, and the disk that they take."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.pricing.prices import ModelPrice
from cxr_ray.pricing.workload import Workload

# Pictures, scores, predictions and text files of a trial, of some thousand records.
FOLDER_BYTES = 300_000


@dataclass(frozen=True)
class PricedTrial:
    """A trial with what it takes, in seconds and bytes.

    Attributes
    ----------
    statistics
        Seconds to score its predictions and features.
    epochs
        At most, or as it ran where it has finished.
    finished
        Whether ``epochs`` are those that it ran.
    """

    config: ExperimentConfig
    work: Workload
    price: ModelPrice
    statistics: float
    epochs: int
    finished: bool
    workers: int

    def seconds(self, epochs: int | None = None) -> float:
        """Price the trial with its statistics, for its own or another number of epochs."""
        ran = self.epochs if epochs is None else epochs
        return self.price.trial(self.work, ran, self.workers) + self.statistics

    def shares(self) -> dict[str, float]:
        """Split the seconds by what they go to."""
        price, work = self.price, self.work
        train = self.epochs * price.seconds(price.train, work.train) / self.workers
        checkpoints = self.epochs * price.checkpoint
        rest = self.seconds() - train - checkpoints - self.statistics - price.setup
        return {
            "opening data and model": price.setup,
            "training": train,
            "forward passes": rest,
            "checkpoints": checkpoints,
            "statistics": self.statistics,
        }

    @property
    def disk_bytes(self) -> int:
        """Bytes of the finished trial's folder."""
        counts, config = self.work.counts, self.config
        widths = {"image": config.image.features, "text": config.text.features}
        features = sum(widths[each] for each in config.fusion.modalities)
        return self.price.weights_bytes + 4 * features * (counts.val + counts.test) + FOLDER_BYTES


def makespan(seconds: Iterable[float], slots: int) -> float:
    """Return when the last trial ends, the longest begun first.

    Examples
    --------
    >>> makespan([3.0, 1.0, 2.0, 2.0], slots=2)
    4.0
    """
    busy = [0.0] * slots
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)


def share_text(trials: Sequence[PricedTrial]) -> str:
    """Say what share of the trials' time goes where."""
    total = sum(trial.seconds() for trial in trials)
    shares: dict[str, float] = {}
    for trial in trials:
        for what, seconds in trial.shares().items():
            shares[what] = shares.get(what, 0.0) + seconds
    return ", ".join(f"{what} {seconds / total:.0%}" for what, seconds in shares.items())


def format_duration(seconds: float) -> str:
    """Write seconds as people read them.

    Examples
    --------
    >>> [format_duration(each) for each in (42.4, 102, 7500, 400000)]
    ['42 s', '1 min 42 s', '2 h 05 min', '4 d 15 h']
    """
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole} s"
    if hours < 1:
        return f"{minutes} min {whole % 60:02d} s"
    if days < 2:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"
