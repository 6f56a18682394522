"""Select a cohort, and decode and tokenise it once for the sweeps to come."""

import argparse

from terminal import DONE, TerminalProgress, add_data_arguments, run_script, script_parser

EXAMPLE = """examples:
  python launch/prepare.py
  python launch/prepare.py --data mimic:/data/mimic-cxr-jpg --cohort-only
  python launch/prepare.py --data mimic:/data/mimic-cxr-jpg --reports reports.zip --profile paper"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    add_data_arguments(parser)
    parser.add_argument(
        "--cohort-only",
        action="store_true",
        help="write the cohort and its selection flow; needs neither images nor reports",
    )
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.sweep.preparation import prepare_cohort

    progress = TerminalProgress()
    prepared = prepare_cohort(
        storage=options.storage,
        data=options.data,
        reports=options.reports,
        demographics=options.demographics,
        profile=options.profile,
        overrides=options.set,
        cohort_only=options.cohort_only,
        progress=progress.preparing,
    )
    progress.close()
    print(prepared.describe())
    return DONE


if __name__ == "__main__":
    run_script(main, build_parser())
