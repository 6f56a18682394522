"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from ordinary_user import open_folder
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.storage import Storage

# An example that takes long on a busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """The phantom of the profile ``tiny``, prepared once for all tests."""
    prepared = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("storage"))))
    prepared.prepare(tiny_config())
    return prepared


@pytest.fixture
def open_place():
    """A folder that every user reaches."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def real_data():
    """The folder with the openly licensed data sets, or a skip."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("CXR_RAY_DATA", default))
    if not folder.is_dir():
        pytest.skip("the openly licensed data sets are not here; set CXR_RAY_DATA to their folder")
    return folder
