"""Machines that share nothing but a store: each has a mirror of its own."""

import object_folder

from cxr_ray.object_store import SCRATCH_VARIABLE
from cxr_ray.storage import Storage


class Machines:
    """Opens one store as machines do that have no folder in common."""

    def __init__(self, folder, monkeypatch):
        object_folder.register()
        self.folder, self.uri = folder, f"objects://{folder}/store/runs"
        self._monkeypatch = monkeypatch

    def __call__(self, name):
        self._monkeypatch.setenv(SCRATCH_VARIABLE, str(self.folder / name))
        return Storage.open(self.uri)
