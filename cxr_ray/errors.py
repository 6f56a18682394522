"""The errors that a user can put right."""

import difflib
import errno
import sys
from collections.abc import Iterable

# What a user has to put right before anything can be read or written there.
_REFUSED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not become so large here",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "symbolic links lead round in a circle",
}


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


def shortened(text: str, most: int = 200) -> str:
    """Cut what a sentence repeats of its input."""
    return text if len(text) <= most else f"{text[:most]}…"


def refusal_of(error: BaseException) -> InputError | None:
    """Say in one sentence what a file system refuses until a user puts it right, or None."""
    number = error.errno if isinstance(error, OSError) else None
    if number not in _REFUSED or not isinstance(error, OSError):
        return None
    where = f"{shortened(str(error.filename), 300)}: " if error.filename else ""
    return InputError(f"{where}{_REFUSED[number]} ({error.strerror})")


def store_errors() -> tuple[type[BaseException], ...]:
    """Return what a store raises when it cannot be reached or refuses."""
    found: list[type[BaseException]] = [OSError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("gcsfs.retry", "HttpError"),
    ):
        # A module that another thread is importing has no such name yet.
        error = getattr(sys.modules.get(module), name, None)
        if error is not None:
            found.append(error)
    return tuple(found)
