"""Test a trained model, or all models of a study, on another source."""

import argparse

from terminal import DONE, TerminalProgress, run_script, script_parser

EXAMPLE = """examples:
  python launch/evaluate.py runs/studies/paper12 --data phantom --set phantom.seed=1
  python launch/evaluate.py runs/studies/paper12-mimic --data openi:/data/indiana
  python launch/evaluate.py runs/studies/paper12-mimic --data mimic:/data/mimic-cxr-jpg \\
      --set cohort.labels=radiologist

Every record is tested, but for patients whom the model was trained on. A finished test is not
repeated. docs/external-test.md says what is carried over from the training.
exit code: 0 done, 2 bad input or no model that can be tested, 1 a failure inside"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument(
        "folder",
        metavar="TRIAL_DIR|STUDY_DIR",
        help="a folder or URI of STORAGE/trials or STORAGE/studies",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="KIND[:PATH]",
        help="phantom, mimic:DIR, openi:DIR or table:FILE.yaml[@DIR]",
    )
    parser.add_argument("--reports", metavar="PATH", help="folder or zip of reports, for mimic")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="the other source's rules: cohort.*, phantom.*, data.require, data.max_bad_share, "
        "data.follow_links",
    )
    parser.add_argument("--name", help="of the test set (default: the source's name)")
    parser.add_argument(
        "--storage", metavar="DIR", help="of the sweep (default: the one that the folder lies in)"
    )
    parser.add_argument(
        "--mlflow-uri", metavar="URI", help="default: sqlite in the storage folder, if it is there"
    )
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.sweep.external import ExternalOptions, run_external
    from cxr_ray.sweep.places import find_place

    place = find_place(options.folder)
    stored = None if place.storage.home.is_shared else place.storage.location
    progress = TerminalProgress()
    outcome = run_external(
        ExternalOptions(
            folder=place.folder,
            data=options.data,
            reports=options.reports,
            overrides=options.set,
            name=options.name,
            storage=options.storage or stored,
            mlflow_uri=options.mlflow_uri,
        ),
        progress.preparing,
    )
    for sentence in outcome.warnings:
        progress.warn(sentence)
    progress.close()
    print(outcome.text)
    reasons: dict[str, list[str]] = {}
    for name, reason in outcome.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f"not tested, since {reason}: {', '.join(names)}")
    for page in outcome.pages:
        print(f"report: {page}")
    return DONE


if __name__ == "__main__":
    run_script(main, build_parser())
