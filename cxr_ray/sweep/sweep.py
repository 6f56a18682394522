"""A whole sweep: plan, prepare, train what is missing, score, track, and tabulate."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cxr_ray.config.layers import Layer, load_profile, parse_assignments
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import fetch_for_audit, is_prepared, named_counts, read_manifest
from cxr_ray.data.sources import config_of
from cxr_ray.errors import InputError
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.auditing import SweepAudit
from cxr_ray.sweep.course import Course, GridCourse, drop_leftovers
from cxr_ray.sweep.execution import Execution, Listener, RayStart
from cxr_ray.sweep.explaining import explain_study
from cxr_ray.sweep.grid import Grid, expand, load_grid, load_search
from cxr_ray.sweep.options import SweepOptions, check_options
from cxr_ray.sweep.plan import Plan, leave_out_unreachable, make_plan
from cxr_ray.sweep.resources import count_slots, local_resources
from cxr_ray.sweep.search_plan import SearchPlan, plan_search
from cxr_ray.sweep.space import Space
from cxr_ray.sweep.study import (
    STUDY_FILE,
    Study,
    check_name,
    check_study,
    open_study,
    read_ended,
)
from cxr_ray.sweep.tabulation import tabulate
from cxr_ray.tracking.background import BackgroundTracker

# Weights of a search: the best so many, beside those of trial 0.
KEPT = 3


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended."""

    study: Study
    where: str
    """The study's folder as every machine knows it."""
    text: str
    failed: dict[str, str]
    interrupted: int
    mlflow_uri: str
    tracked: bool


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep before anything is written: its grid or space, storage, plan and study name."""

    subject: Grid | Space
    storage: Storage
    plan: Plan
    study_name: str
    search: SearchPlan | None = None

    @property
    def axes(self) -> dict[str, list[str]]:
        """The axes of a grid with their levels; a space has none."""
        if isinstance(self.subject, Space):
            return {}
        return {axis: list(levels) for axis, levels in self.subject.axes.items()}

    @property
    def compare(self) -> Mapping[str, str]:
        """The level of each axis that others are compared with."""
        return {} if isinstance(self.subject, Space) else self.subject.compare


def plan_sweep(options: SweepOptions, *, create: bool = True) -> PlannedSweep:
    """Check everything that can be checked before a resource is taken.

    Raises
    ------
    InputError
        For bad input of any kind.
    """
    check_options(options)
    storage = Storage.open(options.storage, create=create)
    if options.mlflow_uri is None and not storage.home.is_shared:
        raise InputError(
            f"--storage {options.storage}: a database cannot lie in an object store; give "
            "--mlflow-uri, of a server or as in sqlite:////home/me/mlflow.db"
        )
    profile, overrides = load_profile(options.profile), parse_assignments(options.overrides)
    overrides = Layer("--set", {**config_of(options.data), **overrides.values})
    where = storage, options.data, options.reports
    subject: Grid | Space
    search = None
    if options.search is not None:
        subject = load_search(options.search)
        search = plan_search(subject, profile, overrides, *where, options.demographics)
        plan = search.plan
    else:
        assert options.grid is not None
        subject = load_grid(options.grid)
        experiments = expand(subject, profile, overrides, only=options.only, seeds=options.seeds)
        given = Layer("--set", {**subject.base.values, **overrides.values})
        plan = make_plan(experiments, *where, given, options.demographics)
    default = subject.name
    if plan.source_name != "phantom":
        default += f"-{plan.source_name}"
    name = default if options.study is None else options.study
    storage.home.fetch(storage.studies / check_name(name), STUDY_FILE)
    check_study(storage, name, plan, options.profile)
    return PlannedSweep(subject, storage, plan, name, search)


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
    ray = RayStart(options.address, storage, listener)
    _prepare_missing(planned, ray, driver, listener)
    manifests = {
        member.keys.cohort: read_manifest(storage, member.keys.cohort)
        for member in planned.plan.selected
    }
    plan = leave_out_unreachable(planned.plan, manifests)
    audit = SweepAudit(storage, plan)
    course: Course
    if planned.search is None:
        course = GridCourse(storage, plan)
    else:
        from cxr_ray.sweep.search_course import SearchCourse

        course = SearchCourse(
            planned.search,
            storage,
            planned.study_name,
            manifests[plan.members[0].keys.cohort],
            driver=driver,
            trials=options.trials,
            time_budget=options.time_budget,
            keep=KEPT if options.keep is None else options.keep,
        )
    with course:
        drop_leftovers(storage, driver)
        if options.fresh:
            course.forget(driver)
        study = open_study(
            storage,
            planned.study_name,
            plan,
            profile=options.profile,
            grid_name=planned.subject.name,
            grid_text=planned.subject.text,
            title=planned.subject.title,
            axes=planned.axes,
            compare=planned.compare,
            data=options.data,
            command=options.command,
            git_commit=options.git_commit,
            members=course.members,
        )
        storage.home.publish_file(study.folder / STUDY_FILE)
        for sentence in (*study.changes, *course.remarks):
            listener.warn(sentence)
        asked, missing = course.counts()
        counted = [_count(manifest) for manifest in manifests.values()]
        listener.planned(asked, missing, plan.left_out, counted)
        return _run_course(
            course, study, plan, manifests, options, ray, audit, listener, storage, driver
        )


def _run_course(
    course: Course,
    study: Study,
    plan: Plan,
    manifests: dict[str, dict[str, Any]],
    options: SweepOptions,
    ray: RayStart,
    audit: SweepAudit,
    listener: Listener,
    storage: Storage,
    driver: str,
) -> SweepOutcome:
    """Train, score, tabulate and track the course's trials."""
    from cxr_ray.sweep.remarks import (
        remark_on_alpha,
        remark_on_batch_norm,
        remark_on_cuda_switches,
        remark_on_folds,
    )

    remarks = remark_on_alpha(plan, manifests, search=options.search is not None)
    remarks += remark_on_batch_norm(plan, options.resources)
    remarks += remark_on_cuda_switches(plan, options.resources) + remark_on_folds(manifests)
    for remark in remarks:
        listener.warn(remark)
    uri = options.mlflow_uri or f"sqlite:///{storage.root / 'mlflow.db'}"
    artifacts = None if options.mlflow_uri else storage.root / "mlartifacts"
    from cxr_ray.report.members import experiment_ids

    with ray, BackgroundTracker(uri, artifacts, study.record) as tracking:
        execution = Execution(
            storage,
            study,
            ray,
            audit,
            tracking,
            listener,
            cohorts=list(manifests),
            need=options.resources,
            driver=driver,
            max_concurrent=options.max_concurrent,
            git_commit=options.git_commit,
            imports=course.imports,
        )
        asked, missing = course.counts()
        course.run(execution)
        ray.stop()
        tracking.connect()  # its process starts beside what follows
        began, failed = time.monotonic(), execution.failed
        listener.phase("scoring")
        from cxr_ray.report.page import write_page
        from cxr_ray.report.study_audit import write_study_audit
        from cxr_ray.report.study_tables import write_study_tables
        from cxr_ray.sweep.remarks import (
            remark_on_arithmetic,
            remark_on_empty_texts,
            remark_on_lost_workers,
        )

        described = {each["experiment_id"]: each for each in course.record(study)}
        done = study.done(storage)
        trained = replace(plan, members=tuple(course.members)) if course.members else plan
        tables = tabulate(storage, study)
        fits = {fit for identity in done for fit in experiment_ids(described[identity])}
        remarks += remark_on_arithmetic(storage, trained, sorted(fits))
        remarks += remark_on_lost_workers(storage, trained, sorted(fits))
        remarks += remark_on_empty_texts(storage, plan)
        remarks.append(
            write_study_audit(study.folder, storage.trials, study.record, audit.result())
        )
        found = course.write(study)
        for sentence in explain_study(storage, study):
            listener.warn(sentence)
        text = write_study_tables(study.folder, storage.trials, study.record, tables, remarks)
        write_page(storage, study.folder, study.record, tables)
        for identity in done:  # scored by this study's recipe
            storage.home.publish(storage.trials / identity, RESULT_FILE)
        storage.home.publish(study.folder, STUDY_FILE)
        listener.phase("logging to MLflow")
        tracking.try_again()
        for identity in done:
            tracking.log_trial(described[identity], storage.trials / identity)
        ended = read_ended(study.folder)
        for member in course.members:
            if member.id in ended and not storage.is_finished(member.id, course.parts):
                tracking.log_ended(study.describe(member), ended[member.id])
        tracking.finish(study.published(), complete=course.left(failed) == 0 and not failed)
    if tracking.problem is not None:
        listener.warn(
            f"MLflow at {uri} is incomplete ({tracking.problem}); nothing else is lost, and the "
            "same command logs what is missing"
        )
    whole = missing == asked and not course.left({}) and options.search is None
    if whole and options.address is None:
        from cxr_ray.sweep.price import StudyPrice

        need = options.resources, options.max_concurrent
        price = StudyPrice(storage, plan.selected, manifests, *need)
        price.keep_closing(time.monotonic() - began)
    return SweepOutcome(
        study=study,
        where=storage.home.described(study.folder),
        text="\n\n".join([*found, text]),
        failed=failed,
        interrupted=course.left(failed),
        mlflow_uri=uri,
        tracked=tracking.problem is None,
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


def _prepare_missing(planned: PlannedSweep, ray: RayStart, driver: str, listener: Listener) -> None:
    """Prepare what the plan's members read."""
    for group in planned.plan.by_cohort():
        lacking = [m for m in group if not is_prepared(planned.storage, m.keys)]
        if not lacking:
            continue
        from cxr_ray.data.fan_out import ray_tasks

        ray()
        prepare(
            planned.storage,
            lacking[0].source,
            [(m.config, m.keys) for m in lacking],
            fan_out=ray_tasks(planned.storage),
            progress=listener.preparing,
            driver=driver,
        )
    for member in planned.plan.selected:
        fetch_for_audit(planned.storage, member.keys)
