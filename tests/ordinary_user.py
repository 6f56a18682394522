"""Doing something without the superuser's rights, where the tests run as the superuser."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def ordinary_user():
    """Go on as a user who may only do what permissions say."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def open_folder():
    """Make a folder that every user reaches, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="cxr-ray-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
