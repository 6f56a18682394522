"""A whole sweep: plan, prepare, train what is missing, score, track, and tabulate."""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.layers import Layer, load_profile, parse_assignments
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import is_prepared, named_counts, read_manifest
from cxr_ray.data.sources import config_of
from cxr_ray.errors import InputError
from cxr_ray.lease import acquire_lease
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.auditing import SweepAudit
from cxr_ray.sweep.grid import Grid, expand, load_grid
from cxr_ray.sweep.plan import Plan, leave_out_unreachable, make_plan
from cxr_ray.sweep.resources import TrialResources, count_slots, local_resources
from cxr_ray.sweep.study import Study, check_study, open_study

if TYPE_CHECKING:
    from cxr_ray.report.leaderboard import StudyTables
    from cxr_ray.sweep.runner import TrialEvent

TABLES_KEY_FILE = ".tables_key"
TRACKERS = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked to do; the names are those of the command line."""

    grid: Path
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
    fresh: bool = False
    command: str = ""
    git_commit: str | None = None


class Listener(Protocol):
    """Is told how a sweep goes, and draws it."""

    def planned(self, plan: Plan, missing: int, cohorts: Sequence[str]) -> None:
        """Tell the plan, how many of its trials are missing, and each cohort in a line."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Tell that a step of the preparation went on."""

    def trial(self, event: "TrialEvent") -> None:
        """Tell that something happened to a trial."""

    def phase(self, what: str) -> None:
        """Tell that a phase without steps began."""

    def warn(self, sentence: str) -> None:
        """Tell what is not as it should be while the sweep goes on."""


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended."""

    study: Study
    text: str
    failed: dict[str, str]
    interrupted: int
    mlflow_uri: str
    tracked: bool


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep before anything is written: its grid, storage, plan and study name."""

    grid: Grid
    storage: Storage
    plan: Plan
    study_name: str


def plan_sweep(options: SweepOptions, *, create: bool = True) -> PlannedSweep:
    """Check everything that can be checked before a resource is taken.

    Raises
    ------
    InputError
        For bad input of any kind.
    """
    if options.max_concurrent is not None and options.max_concurrent < 1:
        raise InputError(f"--max-concurrent {options.max_concurrent}: should be at least 1")
    _check_tracker(options.mlflow_uri)
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: should be at least 1")
    grid = load_grid(options.grid)
    profile, overrides = load_profile(options.profile), parse_assignments(options.overrides)
    overrides = Layer("--set", {**config_of(options.data), **overrides.values})
    experiments = expand(grid, profile, overrides, only=options.only, seeds=options.seeds)
    storage = Storage.open(options.storage, create=create)
    given = Layer("--set", {**grid.base.values, **overrides.values})
    plan = make_plan(
        experiments, storage, options.data, options.reports, given, options.demographics
    )
    default = grid.name if plan.source_name == "phantom" else f"{grid.name}-{plan.source_name}"
    name = default if options.study is None else options.study
    check_study(storage, name, plan, options.profile)
    return PlannedSweep(grid, storage, plan, name)


def run_sweep(options: SweepOptions, listener: Listener) -> SweepOutcome:
    """Run a sweep to its end; what is there already is neither trained nor scored again.

    Raises
    ------
    InputError
        For bad input of any kind; nothing that was computed is lost.
    """
    planned = plan_sweep(options)
    storage, driver = planned.storage, uuid.uuid4().hex
    for member in planned.plan.selected:
        member.trained_id  # noqa: B018 - refuses absent weights before anything is prepared
    if options.address is None:
        # What can never fit is refused before anything is prepared.
        count_slots(options.resources, local_resources(), options.max_concurrent)
    ray_started = _prepare_missing(planned, options, driver, listener)
    manifests = {
        member.keys.cohort: read_manifest(storage, member.keys.cohort)
        for member in planned.plan.selected
    }
    plan = leave_out_unreachable(planned.plan, manifests)
    audit = SweepAudit(storage, plan)
    study = open_study(
        storage,
        planned.study_name,
        plan,
        profile=options.profile,
        grid_name=planned.grid.name,
        grid_text=planned.grid.text,
        title=planned.grid.title,
        axes={axis: list(levels) for axis, levels in planned.grid.axes.items()},
        compare=planned.grid.compare,
        data=options.data,
        command=options.command,
        git_commit=options.git_commit,
    )
    members = {each["experiment_id"]: each for each in study.record["members"]}
    selected = [member.trained_id for member in plan.selected]
    if options.fresh:
        _forget(storage, selected, driver)
    missing = [i for i in selected if not (storage.trials / i / "result.json").exists()]
    for sentence in study.changes:
        listener.warn(sentence)
    listener.planned(plan, len(missing), [_count(manifest) for manifest in manifests.values()])
    from cxr_ray.sweep.remarks import remark_on_alpha, remark_on_batch_norm, remark_on_folds

    remarks = remark_on_alpha(plan, manifests) + remark_on_batch_norm(plan, options.resources)
    remarks += remark_on_folds(manifests)
    for remark in remarks:
        listener.warn(remark)

    uri = options.mlflow_uri or f"sqlite:///{storage.root / 'mlflow.db'}"
    artifacts = None if options.mlflow_uri else storage.root / "mlartifacts"
    failed: dict[str, str] = {}
    from cxr_ray.report.members import experiment_ids
    from cxr_ray.report.out_of_fold import gather_fits
    from cxr_ray.tracking.background import BackgroundTracker

    with BackgroundTracker(uri, artifacts, study.record) as tracking:
        if missing:
            from cxr_ray.sweep.runner import run_members

            if not ray_started:
                _start_ray(options, storage, listener)
            if options.address is not None:
                from cxr_ray.sweep.preflight import check_nodes

                gpus = options.resources.gpus_per_worker > 0
                check_nodes(storage, list(manifests), gpus=gpus)

            def follow(event: "TrialEvent") -> None:
                audit.start()
                listener.trial(event)
                if event.kind == "finished":
                    identity = event.member.trained_id
                    member = study.member_of(identity)
                    if (storage.trials / identity / "result.json").exists():
                        study.forget_failed(identity)
                        if gather_fits(storage.trials, member):
                            tracking.log_trial(member, storage.trials / member["experiment_id"])

            failed = run_members(
                storage,
                plan.selected,
                options.resources,
                driver=driver,
                max_concurrent=options.max_concurrent,
                git_commit=options.git_commit,
                on_event=follow,
            )
            for identity, reason in failed.items():
                study.write_failed(identity, reason)
        listener.phase("scoring")
        from cxr_ray.report.page import write_page
        from cxr_ray.report.study_audit import write_study_audit
        from cxr_ray.report.study_tables import write_study_tables
        from cxr_ray.sweep.remarks import remark_on_arithmetic, remark_on_empty_texts

        done = [i for i, member in members.items() if gather_fits(storage.trials, member)]
        trained = {fit for identity in done for fit in experiment_ids(members[identity])}
        tables = _tabulate(storage, study, plan, done)
        remarks += remark_on_arithmetic(storage, plan, sorted(trained))
        remarks += remark_on_empty_texts(storage, plan)
        remarks.append(
            write_study_audit(study.folder, storage.trials, study.record, audit.result())
        )
        text = write_study_tables(study.folder, storage.trials, study.record, tables, remarks)
        write_page(storage, study.folder, study.record, tables)
        listener.phase("logging to MLflow")
        tracking.try_again()
        for identity in done:
            tracking.log_trial(members[identity], storage.trials / identity)
        for identity, reason in failed.items():
            tracking.log_failed(study.member_of(identity), reason)
        finished = {i for i in selected if (storage.trials / i / "result.json").exists()}
        complete = finished == set(selected)
        tracking.finish(_published(study.folder), complete=complete)
    if tracking.problem is not None:
        listener.warn(
            f"MLflow at {uri} is incomplete ({tracking.problem}); nothing else is lost, and the "
            "same command logs what is missing"
        )
    return SweepOutcome(
        study=study,
        text=text,
        failed=failed,
        interrupted=len(set(selected) - finished - set(failed)),
        mlflow_uri=uri,
        tracked=tracking.problem is None,
    )


def _check_tracker(uri: str | None) -> None:
    """Refuse a tracking address of a kind that MLflow does not know."""
    if uri is not None and uri.partition(":")[0].partition("+")[0] not in TRACKERS:
        raise InputError(
            f"--mlflow-uri {uri}: should begin with one of {', '.join(TRACKERS)}, as in "
            "http://127.0.0.1:5000"
        )


def _count(manifest: dict[str, Any]) -> str:
    parts = ", ".join(
        f"{part} {counts['n']} ({counts['n_positive']})"
        for part, counts in named_counts(manifest).items()
    )
    return (
        f"{manifest['records']} records of {manifest['patients']} patients, "
        f"{manifest['positive']} positive: {parts}"
    )


def _prepare_missing(
    planned: PlannedSweep, options: SweepOptions, driver: str, listener: Listener
) -> bool:
    """Prepare what the plan's members read; True where Ray had to be started for it."""
    started = False
    for group in planned.plan.by_cohort():
        lacking = [m for m in group if not is_prepared(planned.storage, m.keys)]
        if not lacking:
            continue
        from cxr_ray.data.fan_out import run_as_ray_tasks

        if not started:
            _start_ray(options, planned.storage, listener)
            started = True
        prepare(
            planned.storage,
            lacking[0].source,
            [(m.config, m.keys) for m in lacking],
            fan_out=run_as_ray_tasks,
            progress=listener.preparing,
            driver=driver,
        )
    return started


def _start_ray(options: SweepOptions, storage: Storage, listener: Listener) -> None:
    """Start Ray; a cluster that was joined must share the storage on every node."""
    from cxr_ray.sweep.runner import start_ray

    listener.phase("starting Ray")
    start_ray(options.address)
    if options.address is not None:
        from cxr_ray.sweep.preflight import check_nodes

        listener.phase("checking every node")
        check_nodes(storage)


def _forget(storage: Storage, identities: Sequence[str], driver: str) -> None:
    """Remove finished trials and what was begun of them, but for those that somebody trains now."""
    for identity in identities:
        running = storage.running / identity
        if acquire_lease(running, driver) is not None:
            shutil.rmtree(storage.trials / identity, ignore_errors=True)
            shutil.rmtree(running, ignore_errors=True)


def _tabulate(storage: Storage, study: Study, plan: Plan, done: Sequence[str]) -> "StudyTables":
    """Gather the study's tables, or read them where nothing that they rest on has changed."""
    from cxr_ray.report.leaderboard import LEADERBOARD_FILE, collect_tables, read_tables
    from cxr_ray.report.trial_folder import read_result

    config = plan.members[0].config.evaluation
    key = digest(
        {
            "members": study.record["members"],
            "left_out": study.record["left_out"],
            "axes": study.record["axes"],
            "compare": study.record["compare"],
            "done": [read_result(storage.trials / identity)["attempt"] for identity in done],
            "ended": study.ended(),
            "version": EVALUATION_VERSION,
            "evaluation": config.model_dump(mode="json"),
        }
    )
    path = study.folder / TABLES_KEY_FILE
    if path.exists() and path.read_text() == key and (study.folder / LEADERBOARD_FILE).exists():
        return read_tables(study.folder)
    tables = collect_tables(storage.trials, study.record, study.ended(), config)
    tables.write(study.folder)
    write_whole(path, key)
    return tables


def _published(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix in {".csv", ".md", ".png", ".html"}
    )
