"""The price of a planned sweep, from measured steps: those kept in the storage, or measured now."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.damage import TRIAL, read_json
from cxr_ray.errors import InputError
from cxr_ray.pricing.bill import PricedTrial, format_duration, makespan, share_text
from cxr_ray.pricing.prices import (
    Machine,
    ModelPrice,
    PriceList,
    fixed_key,
    lengths_to_measure,
    model_key,
    statistics_key,
    this_machine,
)
from cxr_ray.pricing.workload import NO_TEXT, Workload, find_workload
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.resources import TrialResources, count_slots, local_resources

START_UP = "start-up"


@dataclass(frozen=True)
class _Request:
    """Something to measure, as plain values: a model at lengths, or the statistics of a trial."""

    key: str
    config: ExperimentConfig
    lengths: tuple[int, ...] = ()
    statistics_of: Workload | None = None


class StudyPrice:
    """The trials of a study with their prices as far as these are known.

    Parameters
    ----------
    members
        The trials; a search's are as many times its first one.
    counted
        Manifests by cohort key.

    Raises
    ------
    InputError
        If not even one trial fits on this machine.
    """

    def __init__(
        self,
        storage: Storage,
        members: Sequence[Member],
        counted: Mapping[str, Mapping[str, Any]],
        need: TrialResources,
        max_concurrent: int | None,
    ) -> None:
        self._storage, self._members, self._need = storage, members, need
        self.slots = count_slots(need, local_resources(), max_concurrent)
        self.machine = this_machine(
            self.slots * need.workers, need.cpus_per_worker, need.gpus_per_worker
        )
        self._prices = PriceList(storage)
        self._counted, self._works = counted, dict[str, Workload]()

    @property
    def any_model_known(self) -> bool:
        """Whether the price of any model was kept, which needs no look at the data."""
        workers = self._need.workers
        keys = {model_key(member.config, self.machine, workers) for member in self._members}
        return any(self._prices.model(key) is not None for key in keys)

    def measure(self) -> None:
        """Measure what is missing, on a local Ray with all slots busy, and keep it."""
        missing = self._missing()
        if missing:
            processes = self.machine.processes
            self._prices.add(
                measure_on_ray(missing, self._storage, self._need, processes, self.machine)
            )

    def missing(self) -> list[str]:
        """Name the models of which some price is missing."""
        keys = {request.key for request in self._missing()}
        return sorted({m.experiment.model_name for m in self._members if keys & set(self._keys(m))})

    def trials(self) -> list[PricedTrial]:
        """Return every trial with its price, as long as it may take, or took."""
        found = []
        for member in self._members:
            config, epochs = member.config, _epochs_run(self._storage, member)
            of_model, of_statistics = self._keys(member)
            price = self._prices.model(of_model)
            assert price is not None
            found.append(
                PricedTrial(
                    config,
                    self._work(member),
                    price,
                    self._prices.seconds(of_statistics) or 0.0,
                    epochs=config.train.max_epochs if epochs is None else epochs,
                    finished=epochs is not None,
                    workers=self._need.workers,
                )
            )
        return found

    @property
    def start_up(self) -> float:
        """Seconds until a sweep's first step, without preparation."""
        return self._prices.seconds(fixed_key(START_UP, self.machine)) or 0.0

    @property
    def closing(self) -> float | None:
        """Seconds from the last trial's end to the sweep's, where a sweep like this one ran."""
        return self._prices.seconds(self._closing_key())

    def wall(self, seconds: Iterable[float]) -> float:
        """Return the seconds of a sweep whose trials take ``seconds``, without preparation."""
        return self.start_up + makespan(seconds, self.slots) + (self.closing or 0.0)

    def keep_closing(self, seconds: float) -> None:
        """Keep what a sweep that trained all of these trials took for its tables and MLflow."""
        self._prices.add({self._closing_key(): seconds})

    def _closing_key(self) -> str:
        tested = [each["parts"] for _, each in sorted(self._counted.items())]
        evaluation = self._members[0].config.evaluation.model_dump(mode="json")
        of = [len(self._members), tested, evaluation, EVALUATION_VERSION]
        return fixed_key(f"closing {digest(of)}", self.machine)

    def _keys(self, member: Member) -> tuple[str, str]:
        work = self._work(member)
        return (
            model_key(member.config, self.machine, self._need.workers),
            statistics_key(member.config, work.counts, self.machine),
        )

    def _work(self, member: Member) -> Workload:
        """Find a member's workload; fits and seeds of one model have the first one's."""
        config = member.config
        data = config.data.model_dump(mode="json", exclude={"split": {"repeat", "fold"}})
        text = config.text.model_dump(mode="json")
        read = [data, text, config.train.batch, list(config.fusion.modalities)]
        key = digest([member.keys.cohort, *read])
        if key not in self._works:
            counted = self._counted[member.keys.cohort]
            self._works[key] = find_workload(self._storage, config, member.keys, counted)
        return self._works[key]

    def _missing(self) -> list[_Request]:
        """List what is not measured: every model once, with all lengths that its trials have."""
        lengths: dict[str, set[int]] = {}
        configs: dict[str, ExperimentConfig] = {}
        statistics: dict[str, _Request] = {}
        for member in self._members:
            work, (of_model, of_statistics) = self._work(member), self._keys(member)
            configs.setdefault(of_model, member.config)
            wanted = lengths_to_measure(list(work.lengths), member.config.text.max_tokens)
            lengths.setdefault(of_model, set()).update(wanted)
            # A fit of a cross-validation is scored with the others of its model.
            scored_alone = member.config.data.split.kind != "kfold"
            if scored_alone and self._prices.seconds(of_statistics) is None:
                statistics[of_statistics] = _Request(
                    of_statistics, member.config, statistics_of=work
                )
        models = []
        for key, wanted_lengths in lengths.items():
            known = self._prices.model(key) or ModelPrice()
            left = tuple(sorted(wanted_lengths - set(known.train)))
            if left:
                models.append(_Request(key, configs[key], left))
        return [*models, *statistics.values()]


def describe_price(price: StudyPrice, *, address: str | None = None) -> list[str]:
    """Say what a study costs, or that it was not measured.

    Parameters
    ----------
    address
        Of a cluster whose slots are not known before it is joined.
    """
    if not price.any_model_known:
        return ["time: not measured; --dry-run --measure does it"]
    if lacking := price.missing():
        return [f"time: not measured for {', '.join(lacking)}; --dry-run --measure does it"]
    machine, trials = price.machine, price.trials()
    beside = f"{machine.processes} at once, --cpus-per-worker {machine.threads}"
    lines = [
        f"time: from steps measured on {machine.gpu or machine.processor}, {beside}, "
        f"torch {machine.torch}"
    ]
    most = [trial.seconds(trial.config.train.max_epochs) for trial in trials]
    said = "as many epochs as there may be, with no early stop"
    lines.append(f"  {said}: {_total(price, trials, most, address)}")
    finished = [trial for trial in trials if trial.finished]
    if finished:
        ran = [trial.epochs for trial in finished]
        epochs = f"{min(ran)} to {max(ran)}" if min(ran) < max(ran) else f"{ran[0]}"
        of = f"as the {len(finished)} finished trials ran, {epochs} epochs"
        took = [trial.seconds() for trial in trials]
        lines.append(f"  {of}: {_total(price, trials, took, address)}")
    lacks = "" if price.closing is not None else ", tables and MLflow, until a sweep has run here"
    lines.append(f"  of the trials' time {share_text(trials)}; not in it: preparation{lacks}")
    if any(trial.work.tokens is None and trial.work.lengths != {NO_TEXT} for trial in trials):
        lines.append("  reports are not tokenised yet: each is priced at text.max_tokens")
    if any(trial.config.data.split.kind == "kfold" for trial in trials):
        lines.append("  the scoring of a cross-validation is not in it")
    if trials[0].workers > 1:
        lines.append("  the exchange of gradients between a trial's workers is not in it")
    weights = sum(trial.disk_bytes for trial in trials)
    running = max(trial.price.checkpoint_bytes for trial in trials) * price.slots
    peak = max(trial.price.peak_bytes for trial in trials)
    lines.append(
        f"disk for trials: {weights / 1e6:.0f} MB, and {running / 1e6:.0f} MB while they run"
    )
    where = "on the device" if machine.gpu else "in memory, beside Ray's own"
    lines.append(f"peak: {machine.processes} x {peak / 1e9:.2f} GB {where}")
    return lines


def _total(
    price: StudyPrice, trials: Sequence[PricedTrial], seconds: Sequence[float], address: str | None
) -> str:
    workers, gpus = trials[0].workers, price.machine.gpus_per_worker
    hours = sum(seconds) / 3600
    said = f"{hours:.2f} trial-hours, {hours * workers * gpus:.2f} device-hours"
    if address is not None:
        return f"{said}; on a cluster as many slots as it has"
    closing = price.closing
    ends = f", {format_duration(closing)} for tables and MLflow" if closing else ""
    return (
        f"{said}, {format_duration(price.wall(seconds))} on {price.slots} slots "
        f"({format_duration(price.start_up)} of them to start{ends})"
    )


def _epochs_run(storage: Storage, member: Member) -> int | None:
    """Return the epochs of a finished trial."""
    if member.id is None or not storage.is_finished(member.id):
        return None
    return int(read_json(storage.trials / member.id / RESULT_FILE, TRIAL)["epochs"])


def measure_on_ray(
    requests: Sequence[_Request],
    storage: Storage,
    need: TrialResources,
    processes: int,
    machine: Machine,
) -> dict[str, ModelPrice | float]:
    """Measure in as many processes at once as trials would have, each in another order."""
    began = time.time()
    import ray

    from cxr_ray.sweep.runner import start_ray

    start_ray(None)
    # Ray's own folder of a measurement is not worth keeping; the checkpoints' disk is.
    task = ray.remote(num_cpus=need.cpus_per_worker, num_gpus=need.gpus_per_worker, max_retries=0)(
        _measure_here
    )
    plain = [request.__dict__ for request in requests]
    device = "cuda" if need.gpus_per_worker else "cpu"
    given = (str(storage.root), device, need.cpus_per_worker, need.workers)
    turns = [i * len(plain) // processes for i in range(processes)]
    try:
        found = ray.get([task.remote(plain[at:] + plain[:at], *given) for at in turns])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        ray.shutdown()
    ready = max(at for at, _ in found) - began
    prices = [priced for _, priced in found]
    merged = {key: _mean([each[key] for each in prices]) for key in prices[0]}
    return {**merged, fixed_key(START_UP, machine): ready}


def _measure_here(
    requests: Sequence[dict[str, Any]], root: str, device: str, threads: int, workers: int
) -> tuple[float, dict[str, ModelPrice | float]]:
    """Measure in this process; returns also when it was ready to."""
    from cxr_ray.pricing.measure import measure_model, measure_statistics

    ready, folder = time.time(), Path(root)
    found: dict[str, ModelPrice | float] = {}
    for request in (_Request(**each) for each in requests):
        if request.statistics_of is not None:
            found[request.key] = measure_statistics(
                request.config, request.statistics_of.counts, threads=threads, folder=folder
            )
        else:
            found[request.key] = measure_model(
                request.config,
                request.lengths,
                device=device,
                threads=threads,
                workers=workers,
                folder=folder,
            )
    return ready, found


def _mean(prices: Sequence[ModelPrice | float]) -> ModelPrice | float:
    """Average what several processes measured at the same time; memory is the largest."""
    first = prices[0]
    if not isinstance(first, ModelPrice):
        return sum(each for each in prices if not isinstance(each, ModelPrice)) / len(prices)
    models = [each for each in prices if isinstance(each, ModelPrice)]
    values: dict[str, Any] = {}
    for each in fields(ModelPrice):
        found = [getattr(model, each.name) for model in models]
        if isinstance(found[0], dict):
            values[each.name] = {at: sum(f[at] for f in found) / len(found) for at in found[0]}
        elif each.name.endswith("bytes"):
            values[each.name] = max(found)
        else:
            values[each.name] = sum(found) / len(found)
    return ModelPrice(**values)
