"""Testing trained models on another source, and showing it in the studies that hold them."""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cxr_ray.config.layers import parse_assignments
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.data.fan_out import FanOut, run_as_ray_tasks, run_here
from cxr_ray.data.packing import Progress
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import is_prepared, read_flow, read_manifest
from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.external_plan import (
    ExternalOptions,
    ExternalTest,
    OtherSource,
    allowed_overrides,
    plan_test,
    storage_of,
    trials_of,
)
from cxr_ray.sweep.options import check_tracker
from cxr_ray.sweep.places import bring_study
from cxr_ray.sweep.study import STUDY_FILE, Study
from cxr_ray.sweep.tabulation import tabulate

FEW_CHUNKS = 8


@dataclass(frozen=True)
class ExternalOutcome:
    """How an external test ended.

    Attributes
    ----------
    name : str
        What the test set is called.
    text : str
        The figures as a table, with the flow of each external cohort before them.
    skipped : dict of str to str
        The reason of each model that was not tested, by name.
    warnings : tuple of str
    pages : tuple of Path
        The rebuilt page of every study that holds a tested model.
    """

    name: str
    text: str
    skipped: dict[str, str]
    warnings: tuple[str, ...]
    pages: tuple[Path, ...]


def run_external(
    options: ExternalOptions, progress: Progress, fan_out: FanOut | None = None
) -> ExternalOutcome:
    """Test a trial, or all finished trials of a study, on every record of another source.

    Parameters
    ----------
    fan_out
        Prepares chunks; by default here where there are few, else as Ray tasks.

    Raises
    ------
    InputError
        For bad input of any kind, or where no model can be tested.
    """
    check_tracker(options.mlflow_uri)
    storage = storage_of(options)
    overrides = allowed_overrides(parse_assignments(options.overrides))
    trials = trials_of(storage, options.folder)
    opened = OtherSource(storage, options, overrides)
    tests: list[ExternalTest] = []
    skipped: dict[str, str] = {}
    for trial, label in trials.items():
        found = plan_test(storage, trial, label, opened)
        if isinstance(found, str):
            skipped[label] = found
        else:
            tests.append(found)
    if not tests:
        reasons = "; ".join(sorted(set(skipped.values()))) or "the study has no finished trial"
        raise InputError(f"{options.folder} can not be tested on --data {options.data}: {reasons}")
    name = _name(options.name or _default_name(tests[0]))
    missing = [test for test in tests if not _is_there(test, name)]
    if missing:
        with _kept_packs(storage):
            _prepare_cohorts(storage, missing, fan_out or _run_few_here, progress)
            _evaluate(storage, missing, name, progress)
    progress("scoring", 0, 1)
    text = _describe(storage, tests, name, _evaluation_of(options.folder, tests[0]))
    studies = _studies_with(storage, {test.trial.name for test in tests}, options.folder)
    pages = tuple(_refresh(storage, study, options.mlflow_uri, progress) for study in studies)
    warnings = dict.fromkeys(test.warning for test in tests if test.warning is not None)
    return ExternalOutcome(name, text, skipped, tuple(warnings), pages)


def _default_name(test: ExternalTest) -> str:
    name = re.sub(r"[^0-9A-Za-z._-]", "_", test.source.name)
    return f"{name}-radiologist" if test.config.cohort.labels == "radiologist" else name


def _name(name: str) -> str:
    """Check that a test set's name is fit for a folder and for a metric's name."""
    if re.fullmatch(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,59}", name) is None:
        raise InputError(
            f"--name {name[:60]!r}: should be at most 60 letters, digits, dots, hyphens and "
            "underscores, as in openi"
        )
    return name


def _is_there(test: ExternalTest, name: str) -> bool:
    """Tell whether a test is finished already.

    Raises
    ------
    InputError
        If another cohort was tested under this name.
    """
    from cxr_ray.report.external import EXTERNAL_FOLDER, external_folders, read_external

    folder = test.trial / EXTERNAL_FOLDER / name
    if folder not in external_folders(test.trial):
        return False
    if read_external(folder)["keys"] != asdict(test.keys):
        raise InputError(
            f"{test.label} was tested on another cohort under the name {name}; give this one a "
            "name of its own with --name"
        )
    return True


@contextlib.contextmanager
def _kept_packs(storage: Storage) -> Iterator[None]:
    """Hold a lease of our own: no result names the cohort's user before the first test ends."""
    from cxr_ray.report.external import EXTERNAL_LEASE

    driver = uuid.uuid4().hex
    folder = storage.running / f"{EXTERNAL_LEASE}{driver}"
    lease = storage.leases.acquire(folder, driver)
    assert lease is not None  # nobody else has this folder's name
    try:
        with Heartbeat(storage.leases) as heartbeat:
            heartbeat.add(folder)
            yield
    finally:
        storage.leases.release(folder, lease)
        storage.home.discard(folder)


def _prepare_cohorts(
    storage: Storage, tests: Sequence[ExternalTest], fan_out: FanOut, progress: Progress
) -> None:
    by_cohort: dict[str, list[ExternalTest]] = {}
    for test in tests:
        if not is_prepared(storage, test.keys):
            by_cohort.setdefault(test.keys.cohort, []).append(test)
    for group in by_cohort.values():
        prepare(
            storage,
            group[0].source,
            [(test.config, test.keys) for test in group],
            fan_out=fan_out,
            progress=progress,
            driver=uuid.uuid4().hex,
        )


def _run_few_here(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
    """Run a few chunks in this process, where starting Ray would take longer than they do."""
    waiting = iter(arguments)
    first = list(islice(waiting, FEW_CHUNKS + 1))
    if len(first) <= FEW_CHUNKS:
        return run_here(function, first)
    import ray

    from cxr_ray.sweep.runner import start_ray

    if not ray.is_initialized():
        start_ray(None)
    return run_as_ray_tasks(function, chain(first, waiting))


def _evaluate(
    storage: Storage, tests: Sequence[ExternalTest], name: str, progress: Progress
) -> None:
    from cxr_ray.report.external import EXTERNAL_FILE, EXTERNAL_FOLDER
    from cxr_ray.training.external import best_device, evaluate_trial

    device = best_device()
    for number, test in enumerate(tests):
        progress(f"testing {test.label}", number, len(tests))
        description = {
            "name": name,
            "source": test.source.kind,
            "cohort": test.keys.cohort,
            "keys": asdict(test.keys),
            "manifest": read_manifest(storage, test.keys.cohort),
            "flow": read_flow(storage, test.keys.cohort),
            "warnings": [] if test.warning is None else [test.warning],
        }
        storage.home.fetch(test.trial, RESULT_FILE)  # with its weights
        evaluate_trial(storage, test.trial, name, test.config, test.keys, description, device)
        storage.home.publish(test.trial, f"{EXTERNAL_FOLDER}/{name}/{EXTERNAL_FILE}")


def _evaluation_of(folder: Path, test: ExternalTest) -> EvaluationConfig:
    """Give the recipe by which figures are printed: the study's, else the trial's."""
    if (folder / STUDY_FILE).is_file():
        return EvaluationConfig.model_validate(Study.read(folder).record["evaluation"])
    return test.config.evaluation


def _describe(
    storage: Storage, tests: Sequence[ExternalTest], name: str, config: EvaluationConfig
) -> str:
    """Lay out the flow of each external cohort, then the figures."""
    import pandas as pd

    from cxr_ray.report.external import EXTERNAL_FOLDER, PREFIX, score_external
    from cxr_ray.report.external_section import external_table, print_external
    from cxr_ray.report.scoring import score_folder
    from cxr_ray.sweep.preparation import format_flow

    rows = []
    for test in tests:
        identity = {"experiment_id": test.trial.name}
        rows.append(
            {
                **identity,
                "test_set": "full",
                **score_folder(test.trial, config)["test_sets"]["full"],
            }
        )
        found = score_external(test.trial / EXTERNAL_FOLDER / name, config)["figures"]
        rows.append({**identity, "test_set": f"{PREFIX}{name}", **found})
    names = {test.trial.name: test.label for test in tests}
    cohorts = dict.fromkeys(test.keys.cohort for test in tests)
    flows = [format_flow(read_flow(storage, cohort)) for cohort in cohorts]
    return "\n\n".join(
        [*flows, print_external(external_table(pd.DataFrame(rows)), names).to_text()]
    )


def _studies_with(storage: Storage, trials: set[str], folder: Path) -> list[Study]:
    """Return the study asked for, or those that hold the trial asked for."""
    if (folder / STUDY_FILE).is_file():
        return [Study.read(folder.absolute())]
    studies = [Study.read(path.parent) for path in sorted(storage.studies.glob(f"*/{STUDY_FILE}"))]
    return [
        study
        for study in studies
        if trials & {member["experiment_id"] for member in study.record["members"]}
    ]


def _refresh(storage: Storage, study: Study, uri: str | None, progress: Progress) -> Path:
    """Bring a study's tables, page and tracked runs up to date."""
    from cxr_ray.report.page import write_page

    bring_study(storage, study)
    tables = tabulate(storage, study)
    page = write_page(storage, study.folder, study.record, tables)
    storage.home.publish(study.folder, STUDY_FILE)
    database = storage.root / "mlflow.db"
    if uri is not None or database.exists():
        from cxr_ray.tracking.background import BackgroundTracker

        progress("logging to MLflow", 0, 1)
        artifacts = None if uri else storage.root / "mlartifacts"
        members = {each["experiment_id"]: each for each in study.record["members"]}
        with BackgroundTracker(uri or f"sqlite:///{database}", artifacts, study.record) as tracking:
            for identity in study.done(storage):
                tracking.log_trial(members[identity], storage.trials / identity)
            tracking.finish(study.published(), complete=not study.ended())
    return page
