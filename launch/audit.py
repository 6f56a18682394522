"""Check a cohort for leaks: between its parts, from text to label, and by metadata."""

import argparse

from terminal import DONE, REFUSED, TerminalProgress, add_data_arguments, run_script, script_parser

EXAMPLE = """examples:
  python launch/audit.py
  python launch/audit.py --data mimic:/data/mimic-cxr-jpg --reports reports.zip --profile paper
  python launch/audit.py --data openi:/data/indiana --set cohort.positive=relaxed

exit code: 2 where a patient is in two parts, else 0; docs/audit.md says what each finding means"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    add_data_arguments(parser)
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.config.layers import Layer, load_profile, parse_assignments, resolve
    from cxr_ray.data.prepared import MANIFEST
    from cxr_ray.data.sources import config_of, open_source
    from cxr_ray.report.audit import audit_cohort, write_audit
    from cxr_ray.storage import Storage
    from cxr_ray.sweep.preparation import prepare_cohort

    progress = TerminalProgress()
    prepared = prepare_cohort(
        storage=options.storage,
        data=options.data,
        reports=options.reports,
        demographics=options.demographics,
        profile=options.profile,
        overrides=options.set,
        cohort_only=False,
        progress=progress.preparing,
    )
    progress.phase("looking for leaks")
    config = resolve(
        [
            load_profile(options.profile),
            Layer("--data", config_of(options.data)),
            parse_assignments(options.set),
        ]
    )
    source = open_source(
        options.data, config, prepared.folder.parent, options.reports, options.demographics
    )
    audit = audit_cohort(
        prepared.folder, sections=config.text.sections, mask=config.text.mask, source=source
    )
    written = write_audit(audit, prepared.folder)
    progress.close()
    print(prepared.describe())
    print(audit.describe())
    storage = Storage.open(options.storage, create=False)
    storage.home.publish(prepared.folder, MANIFEST, deep=False)
    print(f"audit: {storage.home.described(written)}")
    return REFUSED if audit.stops else DONE


if __name__ == "__main__":
    run_script(main, build_parser())
