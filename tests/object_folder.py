"""A folder that behaves as an object store, under ``objects://``: whole objects, created once."""

import os
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

SITE = "import fsspec\nfsspec.register_implementation('objects', 'object_folder.ObjectFolder')\n"


class ObjectFolder(LocalFileSystem):
    """Objects as files; an object appears whole, and ``create`` succeeds for one."""

    protocol = "objects"

    def pipe_file(self, path, value, mode="overwrite", **_):
        aside = self._aside(path)
        aside.write_bytes(value)
        self._place(aside, path, mode)

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **_):
        aside = self._aside(rpath)
        aside.write_bytes(Path(lpath).read_bytes())
        self._place(aside, rpath, mode)

    def _aside(self, path):
        folder = Path(self._strip_protocol(path)).parent
        folder.mkdir(parents=True, exist_ok=True)
        # outside the storage, as an upload under way is seen by nobody
        return Path(folder.anchor, "tmp", f"object-{uuid.uuid4().hex}")

    def _place(self, aside, path, mode):
        target = self._strip_protocol(path)
        if mode == "create":
            try:
                os.link(aside, target)
            finally:
                aside.unlink()
        else:
            os.replace(aside, target)


def register():
    """Let this process know the store."""
    fsspec.register_implementation("objects", ObjectFolder, clobber=True)


def environment(folder):
    """Give the environment in which every Python process knows the store.

    Parameters
    ----------
    folder
        Where the file that each process runs at its start is written.
    """
    (folder / "sitecustomize.py").write_text(SITE)
    here = str(Path(__file__).parent)
    path = [str(folder), here, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
