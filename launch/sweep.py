"""Train, score and compare all experiments of a grid, or search a space for the best."""

import argparse
import shlex
import sys
from pathlib import Path

from terminal import (
    DONE,
    FAILED,
    SEARCH_SPACES,
    TerminalProgress,
    add_data_arguments,
    git_commit,
    run_script,
    script_parser,
    without_password,
)

EXAMPLE = """examples:
  python launch/sweep.py --grid paper12
  python launch/sweep.py --grid paper12 --data mimic:/data/mimic-cxr-jpg --profile paper --dry-run
  python launch/sweep.py --grid paper12 --only modality=text --seeds 3
  python launch/sweep.py --grid paper12 --set train.lr=5e-4 --study paper12-faster
  python launch/sweep.py --search focal --trials 40

Running the same command again continues it: only what is missing is trained.
exit code: 0 done, 2 bad input or refused, 1 a trial failed or the run was interrupted"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    study = parser.add_argument_group("study")
    which = study.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--grid",
        metavar="NAME|FILE",
        help="a grid of search_spaces/, or a YAML file of one's own; a space gives a coarse grid",
    )
    which.add_argument(
        "--search",
        metavar="NAME|FILE",
        help="a space of search_spaces/, or a YAML file of one's own",
    )
    study.add_argument(
        "--trials", type=int, metavar="N", help="trials of a search, in all (default: 40)"
    )
    study.add_argument(
        "--time-budget",
        type=duration,
        metavar="DURATION",
        help="a search asks for no further trial after it, as in 30m or 2h",
    )
    study.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="weights kept of a search: the N best and trial 0 (default: 3)",
    )
    study.add_argument("--study", metavar="NAME", help="default: the grid's name and the data's")
    study.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="training seeds (default: 1)"
    )
    study.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=LEVEL,…",
        help="train a part of the grid; repeatable",
    )
    study.add_argument("--dry-run", action="store_true", help="print the plan and train nothing")
    study.add_argument(
        "--measure",
        action="store_true",
        help="with --dry-run: time a step of each model here, and keep the prices",
    )
    study.add_argument("--fresh", action="store_true", help="train again what is already there")
    add_data_arguments(parser)
    where = parser.add_argument_group("tracking and resources")
    where.add_argument("--mlflow-uri", metavar="URI", help="default: sqlite in the storage folder")
    where.add_argument("--address", metavar="ADDR", help="Ray cluster (default: a local one)")
    where.add_argument("--workers-per-trial", type=int, default=1, metavar="N")
    where.add_argument("--cpus-per-worker", type=int, default=1, metavar="N")
    where.add_argument("--gpus-per-worker", type=float, default=0.0, metavar="F")
    where.add_argument("--max-concurrent", type=int, metavar="N", help="default: all that fit")
    where.add_argument(
        "--no-elastic",
        action="store_true",
        help="fail a trial that has lost workers, rather than go on with those left",
    )
    where.add_argument(
        "--wait-for-room",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long a lost machine may take to come back (default: 300)",
    )
    return parser


def duration(text: str) -> float:
    """Read a time such as 45s, 30m, 2h or 1d, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} should be like 45s, 30m, 2h or 1d") from None
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} should be above 0")
    return seconds


def main(options: argparse.Namespace) -> int:
    from cxr_ray.errors import InputError
    from cxr_ray.sweep.grid import find_study_file
    from cxr_ray.sweep.options import SweepOptions
    from cxr_ray.sweep.resources import TrialResources
    from cxr_ray.sweep.sweep import run_sweep

    if options.measure and not options.dry_run:
        raise InputError("--measure: it goes with --dry-run, which it gives prices to")
    print(f"profile {options.profile}, data {options.data.partition(':')[0]}", flush=True)
    asked = SweepOptions(
        grid=options.grid and find_study_file("--grid", options.grid, SEARCH_SPACES),
        search=options.search and find_study_file("--search", options.search, SEARCH_SPACES),
        data=options.data,
        reports=options.reports,
        demographics=options.demographics,
        profile=options.profile,
        overrides=options.set,
        seeds=options.seeds,
        storage=options.storage,
        study=options.study,
        mlflow_uri=options.mlflow_uri,
        address=options.address,
        resources=TrialResources(
            options.workers_per_trial,
            options.cpus_per_worker,
            options.gpus_per_worker,
            elastic=not options.no_elastic,
            wait_for_room=options.wait_for_room,
        ),
        max_concurrent=options.max_concurrent,
        trials=options.trials,
        time_budget=options.time_budget,
        keep=options.keep,
        only=[pair for each in options.only for pair in each.split(",")],
        fresh=options.fresh,
        command=without_password(
            shlex.join(["python", f"launch/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        ),
        git_commit=None if options.dry_run else git_commit(),
    )
    if options.dry_run:
        from cxr_ray.sweep.dry_run import describe_plan

        print(describe_plan(asked, measure=options.measure))
        return DONE
    progress = TerminalProgress()
    outcome = run_sweep(asked, progress)
    progress.close()

    print(outcome.text)
    if outcome.interrupted:
        print(f"{outcome.interrupted} trials were interrupted; the same command continues them")
    names = {
        trial["experiment_id"]: trial["name"]
        for member in outcome.study.record["members"]
        for trial in (member, *member.get("fits", ()))
    }
    for identity, reason in outcome.failed.items():
        print(f"failed: {names[identity]}: {reason}")
    if outcome.where != str(outcome.study.folder):
        print(f"published: {outcome.where}")
    print(f"tables: {outcome.study.folder}")
    print(f"report: {outcome.study.folder / 'report.html'}")
    if outcome.tracked:
        print(describe_tracker(outcome.mlflow_uri))
    return FAILED if outcome.failed or outcome.interrupted else DONE


def describe_tracker(uri: str) -> str:
    uri = without_password(uri)
    served = uri.startswith(("http:", "https:", "databricks"))
    return f"MLflow: {uri if served else f'mlflow ui --backend-store-uri {shlex.quote(uri)}'}"


if __name__ == "__main__":
    run_script(main, build_parser())
