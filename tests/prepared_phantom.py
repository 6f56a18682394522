"""A small phantom, prepared in this process, and what tests read of it."""

import uuid
from dataclasses import asdict, dataclass

from cxr_ray.config.identity import DataKeys, cohort_key, data_keys, experiment_id
from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.data.arm import open_arm
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import is_prepared
from cxr_ray.data.sources import open_source
from cxr_ray.storage import Storage
from cxr_ray.training.job import Job

# The planted corrupt JPEG is one record of some 150: more than the default share of bad ones.
TOLERANT = {"data.max_bad_share": 0.05}


def tiny_config(profile="tiny", **fields):
    """The profile with some fields changed: ``loss__kind="focal"`` sets ``loss.kind``."""
    changed = TOLERANT | {name.replace("__", "."): value for name, value in fields.items()}
    return resolve([load_profile(profile), Layer("test", changed)])


def quiet(*_):
    """Take a progress report and say nothing."""


@dataclass(frozen=True)
class PreparedPhantom:
    """A storage with a phantom in it; what a config reads is prepared when it is asked for."""

    storage: Storage

    def source(self, config):
        """The phantom's source."""
        return open_source("phantom", config, self.storage.prepared)

    def keys(self, config) -> DataKeys:
        """The keys of what a config reads."""
        source = self.source(config)
        rules, required = source.rules(config.cohort), source.required(config.data)
        return data_keys(cohort_key(source.fingerprint(), rules, required, config), config)

    def prepare(self, config, *, source=None, fan_out=run_here) -> DataKeys:
        """Prepare what is missing of what a config reads."""
        keys = self.keys(config)
        if not is_prepared(self.storage, keys):
            prepare(
                self.storage,
                source or self.source(config),
                [(config, keys)],
                fan_out=fan_out,
                progress=quiet,
                driver=uuid.uuid4().hex,
            )
        return keys

    def arm(self, config):
        """What one model reads."""
        return open_arm(self.storage, config, self.prepare(config))

    def job(self, config, driver="test") -> Job:
        """A job under a lease of its own."""
        keys = self.prepare(config)
        identity = experiment_id(config, keys)
        lease = self.storage.leases.acquire(self.storage.running / identity, driver)
        return Job(
            storage=self.storage.location,
            experiment_id=identity,
            attempt=lease.attempt,
            config=config.model_dump(mode="json"),
            keys=asdict(keys),
        )
