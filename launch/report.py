"""Build a study's page again, from its folder alone."""

import argparse

from terminal import DONE, run_script, script_parser

EXAMPLE = """example:
  python launch/report.py runs/studies/paper12
  python launch/report.py s3://bucket/runs/studies/paper12"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument("study", metavar="STUDY_DIR", help="a folder or URI of STORAGE/studies")
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.sweep.places import bring_study, find_place
    from cxr_ray.sweep.study import Study

    place = find_place(options.study)
    study = Study.read(place.folder)
    if not place.storage.home.is_shared:
        bring_study(place.storage, study)
    from cxr_ray.report.page import rebuild_page

    page = rebuild_page(place.folder)
    print(f"report: {page}")
    if not place.storage.home.is_shared:
        print(f"published: {place.publish()}")
    return DONE


if __name__ == "__main__":
    run_script(main, build_parser())
