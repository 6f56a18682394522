"""Build a study's page again, from its folder alone."""

import argparse
from pathlib import Path

from terminal import DONE, run_script, script_parser

EXAMPLE = """example:
  python launch/report.py runs/studies/paper12"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument("study", type=Path, metavar="STUDY_DIR", help="a folder of STORAGE/studies")
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.report.page import rebuild_page

    print(f"report: {rebuild_page(options.study)}")
    return DONE


if __name__ == "__main__":
    run_script(main, build_parser())
