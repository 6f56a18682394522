"""The errors that a user can put right."""

import difflib
import sys
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or a refused request: one sentence that names the file, field or flag.

    Scripts print the sentence and end with exit code 2.
    """


class TrialError(RuntimeError):
    """Something failed inside: scripts print the sentence and end with exit code 1."""


class TrialStopped(RuntimeError):
    """A trial ended before its time and keeps its checkpoint."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def store_errors() -> tuple[type[BaseException], ...]:
    """Return what a store raises when it cannot be reached or refuses."""
    found: list[type[BaseException]] = [OSError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("gcsfs.retry", "HttpError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)
