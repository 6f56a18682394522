"""Say what lies in a storage and who uses it, and free what nobody does."""

import argparse
from typing import TYPE_CHECKING

from terminal import DONE, FAILED, run_script, script_parser

if TYPE_CHECKING:
    from cxr_ray.cleaning import Found

EXAMPLE = """examples:
  python launch/clean.py --storage runs
  python launch/clean.py --storage runs --yes
  python launch/clean.py --storage runs --also packs frozen --yes

Without --yes nothing is removed; what a study holds, or somebody works on, never is.
docs/cleaning.md says what each word of --also frees."""
CHOICES = ("unfinished", "trials", "packs", "frozen")


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument(
        "--storage", default="runs", metavar="DIR", help="a storage folder (default: ./runs)"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        action="extend",
        default=[],
        choices=CHOICES,
        metavar="WHAT",
        help="beside leftovers: unfinished (what a broken-off command would go on from), trials "
        "(of no study), packs (that no trial reads), frozen (caches of frozen stages)",
    )
    parser.add_argument("--yes", action="store_true", help="remove it; without, only say what")
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.errors import InputError
    from cxr_ray.storage import Storage

    if "://" in options.storage and not options.storage.startswith("file://"):
        raise InputError(
            f"--storage {options.storage}: only folders are cleaned; remove objects with the "
            "store's own tools"
        )
    storage = Storage.open(options.storage, create=False)
    if not storage.studies.is_dir() or not storage.prepared.is_dir():
        raise InputError(
            f"--storage {options.storage}: no storage of a sweep, which has the folders prepared "
            "and studies"
        )
    from cxr_ray.cleaning import LEFTOVERS, free, survey

    found = survey(storage)
    chosen = [each for each in found if each.free in (LEFTOVERS, *options.also)]
    part = ""
    for each in found:
        name = each.path.relative_to(storage.root)
        if name.parts[0] != part:
            part = name.parts[0]
            whole = sum(o.size for o in found if o.path.relative_to(storage.root).parts[0] == part)
            print(f"{part}  {_bytes(whole)}")
        mark = "x" if each in chosen else " "
        print(f" {mark} {_bytes(each.size):>9}  {name}: {each.said}")
    print(f"\n{_bytes(_total(found))} in all; marked with x: {_bytes(_total(chosen))}")
    for choice in CHOICES:
        more = [each for each in found if each.free == choice and each not in chosen]
        if more:
            print(f"--also {choice} would free {_bytes(_total(more))} more ({len(more)})")
    if not options.yes:
        print("nothing was removed; --yes removes what is marked")
        return DONE
    gone, taken = free(storage, chosen)
    print(f"freed {_bytes(_total(gone))} ({len(gone)} of {len(chosen)})")
    for each in taken:
        print(f"kept, since somebody has begun to work on it: {each.path}")
    return FAILED if taken else DONE


def _total(found: "list[Found]") -> int:
    return sum(each.size for each in found)


def _bytes(size: int) -> str:
    for unit, whole in (("GB", 1e9), ("MB", 1e6)):
        if size >= whole:
            return f"{size / whole:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


if __name__ == "__main__":
    run_script(main, build_parser())
