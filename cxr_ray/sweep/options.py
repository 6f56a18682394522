"""What a sweep may be asked to do, and what is refused before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_ray.errors import InputError
from cxr_ray.sweep.resources import MOST_PROCESSES, TrialResources, check_number

TRACKERS = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
MOST_SEEDS, MOST_TRIALS = 1_000, 100_000


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked to do; the names are those of the command line."""

    grid: Path | None = None
    search: Path | None = None
    data: str = "phantom"
    reports: str | None = None
    demographics: str | None = None
    profile: str = "demo"
    overrides: Sequence[str] = ()
    seeds: int = 1
    storage: str = "runs"
    study: str | None = None
    mlflow_uri: str | None = None
    address: str | None = None
    resources: TrialResources = field(default_factory=TrialResources)
    max_concurrent: int | None = None
    only: Sequence[str] = ()
    trials: int | None = None
    time_budget: float | None = None
    keep: int | None = None
    fresh: bool = False
    command: str = ""
    git_commit: str | None = None


def check_options(options: SweepOptions) -> None:
    """Refuse numbers out of range, and flags that make no sense together.

    Raises
    ------
    InputError
        Names the flag.
    """
    if options.max_concurrent is not None:
        check_number("--max-concurrent", options.max_concurrent, 1, MOST_PROCESSES)
    check_tracker(options.mlflow_uri)
    check_number("--seeds", options.seeds, 1, MOST_SEEDS)
    if options.search is None:
        _check_grid_options(options)
    else:
        _check_search_options(options)


def check_tracker(uri: str | None) -> None:
    """Refuse a tracking address of a kind that MLflow does not know.

    Raises
    ------
    InputError
        Names the kinds that it knows.
    """
    if uri is not None and uri.partition(":")[0].partition("+")[0] not in TRACKERS:
        raise InputError(
            f"--mlflow-uri {uri}: should begin with one of {', '.join(TRACKERS)}, as in "
            "http://127.0.0.1:5000"
        )


def _check_search_options(options: SweepOptions) -> None:
    """Refuse what makes no sense with a search."""
    if options.only or options.seeds > 1:
        flag = "--only" if options.only else "--seeds"
        raise InputError(
            f"{flag}: a search trains each of its trials once; repeat what it finds with --grid "
            "STUDY_DIR/best.yaml --seeds 5"
        )
    for flag, value in (("--trials", options.trials), ("--keep", options.keep)):
        if value is not None:
            check_number(flag, value, 1, MOST_TRIALS)


def _check_grid_options(options: SweepOptions) -> None:
    """Refuse what only a search reads."""
    for flag, value in (
        ("--trials", options.trials),
        ("--time-budget", options.time_budget),
        ("--keep", options.keep),
    ):
        if value is not None:
            raise InputError(
                f"{flag}: a grid trains all its experiments and keeps them; it goes with --search"
            )
