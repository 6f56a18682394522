"""Fixtures for all tests."""

import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.storage import Storage


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """The phantom of the profile ``tiny``, prepared once for all tests."""
    prepared = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("storage"))))
    prepared.prepare(tiny_config())
    return prepared
