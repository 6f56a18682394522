"""What the launch scripts share: exit codes, the check of the code, and progress on a terminal."""

import argparse
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_ray.sweep.handout import TrialEvent
    from cxr_ray.sweep.plan import LeftOut

CHECKOUT = Path(__file__).resolve().parent.parent
SEARCH_SPACES = CHECKOUT / "search_spaces"
DONE, FAILED, REFUSED = 0, 1, 2


def script_parser(description: str | None, example: str) -> argparse.ArgumentParser:
    """Make a parser whose help ends with an example, laid out as it is written."""
    return argparse.ArgumentParser(
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_script(main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> None:
    """Parse, run and exit: 0 done, 2 bad input or refused, 1 a failure inside."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args()
    try:
        from cxr_ray.errors import InputError, TrialError, refusal_of, store_errors
    except ModuleNotFoundError:
        print(
            "cxr_ray is not installed: run `pip install -c constraints.txt .` in the checkout",
            file=sys.stderr,
        )
        sys.exit(REFUSED)
    _warn_of_other_code()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        code = main(options)
    except KeyboardInterrupt:
        if options.debug:
            traceback.print_exc()
        print("\ninterrupted; the same command continues", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:  # the last place: without --debug nobody sees a traceback
        if options.debug:
            traceback.print_exc()
        refused = error if isinstance(error, InputError) else refusal_of(error)
        said = str(refused or error)
        if isinstance(error, store_errors()):
            said += "; what was finished is kept, and the same command continues"
        elif refused is None and not isinstance(error, TrialError):
            said = f"a fault inside, {type(error).__name__}: {said[:300]}; --debug shows where"
        print(f"error: {said}", file=sys.stderr)
        sys.exit(FAILED if refused is None else REFUSED)
    sys.exit(code)


def _interrupt(number: int, frame: object) -> None:
    """End in order at the first Ctrl-C; the second ends the process, whatever it does then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def git_commit() -> str | None:
    """Return the checkout's commit, marked where files differ from it."""
    git = ["git", "-C", str(CHECKOUT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def without_password(text: str) -> str:
    """Take the user's part out of every address in a text."""
    return re.sub(r"://[^/\s@:]*(:\S*)?@", "://", text)


def _warn_of_other_code() -> None:
    import cxr_ray

    source, installed = CHECKOUT / "cxr_ray", Path(cxr_ray.__file__).parent
    here = [path for path in source.rglob("*") if path.suffix in (".py", ".yaml", ".j2", ".csv")]
    if installed == source or all(
        _is_alike(path, installed / path.relative_to(source)) for path in here
    ):
        return
    version = (source / "__init__.py").read_text().partition('__version__ = "')[2].partition('"')[0]
    other = f" ({cxr_ray.__version__}, here {version})" * (version != cxr_ray.__version__)
    print(
        f"warning: the installed cxr_ray is not the code of this checkout{other}; run "
        "`pip install -c constraints.txt .` here again, or with -e once and for all",
        file=sys.stderr,
    )


def _is_alike(path: Path, other: Path) -> bool:
    try:
        return other.is_file() and path.read_bytes() == other.read_bytes()
    except PermissionError:  # nothing is known of it, so nothing is said
        return True


class TerminalProgress:
    """Draws a sweep's progress: one live line on a terminal, a line a finished trial elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()
        self._missing = self._finished = self._failed = 0
        self._running: dict[str, str] = {}
        self._best: dict[str, str] = {}
        self._step = ""
        self._trains = False

    def planned(
        self, asked: int, missing: int, left_out: Sequence["LeftOut"], cohorts: Sequence[str]
    ) -> None:
        """Say what will be trained, on how many records, and what is left out."""
        for cohort in cohorts:
            self._line(cohort)
        self._missing = missing
        self._line(f"experiments: {asked - missing} there already, {missing} to train")
        reasons: dict[str, list[str]] = {}
        for each in left_out:
            reasons.setdefault(each.reason, []).append(each.name)
        for reason, names in reasons.items():
            self._line(f"left out, since {reason}: {', '.join(names)}")

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show a step of the preparation."""
        if self._live:
            self._draw(f"{what}: {done}/{total}")
        elif what != self._step:
            self._line(what)
        self._step = what

    def phase(self, what: str) -> None:
        """Show a phase that has no steps."""
        self.preparing(what, 0, 1) if not self._live else self._draw(what)

    def trial(self, event: "TrialEvent") -> None:
        """Follow the trials."""
        name = event.member.name
        if event.kind == "started":
            self._running[name] = name
        elif event.kind == "epoch":
            figures, monitor = event.figures, event.member.config.train.monitor
            shown = f"{monitor.replace('_', ' ')} {figures[monitor]:.3f}"
            if figures["best_epoch"] == figures["epoch"]:
                self._best[name] = shown
            if not self._trains and "seconds" in figures:
                self._trains = True
                since = time.monotonic() - self._began - figures["seconds"]
                self._line(f"training since {since:.1f} s")
            self._running[name] = (
                f"{name} epoch {figures['epoch'] + 1} {shown} AUROC {figures['val_auroc']:.3f}"
            )
        else:
            self._running.pop(name, None)
            best = self._best.pop(name, None)
            self._finished += event.kind == "finished"
            self._failed += event.kind in ("failed", "pruned")
            reason = event.figures.get("reason", "").removeprefix(f"{event.kind} ")
            reason = f": {reason}" if reason else ""
            if event.kind == "finished" and best is not None:
                reason = f": {best}"
            done = self._finished + self._failed
            self._missing = max(self._missing, done)
            self._line(f"{event.kind} {done}/{self._missing} {name}{reason}")
        if self._live:
            self._draw(
                f"{self._finished + self._failed}/{self._missing} done{self._time_left()} | "
                + " | ".join(self._running.values())
            )

    def warn(self, sentence: str) -> None:
        """Say what is not as it should be."""
        self._line(f"warning: {without_password(sentence)}")

    def close(self) -> None:
        """Clear the live line."""
        if self._live:
            self._draw("")

    def _time_left(self) -> str:
        done = self._finished + self._failed
        if not done:
            return ""
        left = (time.monotonic() - self._began) / done * (self._missing - done)
        return f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"

    def _line(self, text: str) -> None:
        if self._live:
            self._draw("")
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=sys.stderr, flush=True)

    def _draw(self, text: str) -> None:
        import shutil

        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)


def add_data_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the arguments that say which data and where results lie."""
    data = parser.add_argument_group("data and storage")
    data.add_argument(
        "--data",
        default="phantom",
        metavar="KIND[:PATH]",
        help="phantom, mimic:DIR, openi:DIR or table:FILE.yaml[@DIR] (default: phantom)",
    )
    data.add_argument("--reports", metavar="PATH", help="folder or zip of reports, for mimic")
    data.add_argument(
        "--demographics",
        metavar="PATH",
        help="MIMIC-IV's patients.csv.gz or admissions.csv.gz, or their folder, for mimic:"
        " adds figures by sex, age and race",
    )
    data.add_argument(
        "--profile",
        default="demo",
        metavar="NAME|FILE",
        help="demo, tiny, paper, or a YAML file (default: demo)",
    )
    data.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override config fields; repeatable, and several at once",
    )
    data.add_argument(
        "--storage",
        default="runs",
        metavar="DIR|URI",
        help="where results go: a folder, or s3://, gs://, … with a mirror on every machine"
        " (default: ./runs)",
    )
    return data
