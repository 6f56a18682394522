"""Checking every node of a cluster before a trial is sent there.

What is wrong with one node shows otherwise hours later, as trials that fail one by one.
"""

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ray.errors import InputError
from cxr_ray.storage import Storage

ANSWER_SECONDS = 120.0
PACKAGES = (
    "ray", "torch", "torchvision", "transformers", "numpy", "pandas", "safetensors", "tokenizers",
    "pydantic",
)  # fmt: skip
_CODE = "cxr_ray"
_CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


@dataclass(frozen=True)
class NodeReport:
    """What a node found of itself.

    Attributes
    ----------
    versions
        Installed version by package; of cxr_ray a digest of its code; None where it is absent.
    greeting
        What the driver wrote into the storage, as read there; None if it is not.
    write_error
        Why nothing can be read or written there.
    data
        Digest of each cohort's manifest and the sizes of its arrays; None where it is not seen.
    cuda_devices
        Number of devices that torch sees; None where no GPU was asked for.
    """

    versions: Mapping[str, str | None]
    greeting: str | None
    write_error: str | None
    data: Mapping[str, str | None]
    cuda_devices: int | None


def check_nodes(
    storage: Storage, cohorts: Sequence[str] = (), *, gpus: bool = False
) -> dict[str, NodeReport]:
    """Look at every living node of the Ray cluster that was joined.

    Parameters
    ----------
    cohorts
        Keys of prepared cohorts whose data every node must see alike.
    gpus
        Whether trials use GPUs.

    Returns
    -------
    Each node's report by its name.

    Raises
    ------
    InputError
        If a node does not answer, lacks a package or has another version of it, does not share the
        storage folder or this data, or sees fewer GPUs than it offers. Names the node and the fix.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = _observer()
    name = f".preflight-{uuid.uuid4().hex}"
    meeting = storage.root / name
    meeting.mkdir()
    client = _CLIENTS.get(storage.location.partition("://")[0])
    packages = PACKAGES if client is None else (*PACKAGES, client)
    try:
        greeting = uuid.uuid4().hex
        (meeting / "driver").write_text(greeting)
        storage.home.publish_file(meeting / "driver")
        asked = (storage.location, name, packages, tuple(cohorts), gpus)
        here = NodeReport(**look(*asked, "here"))
        nodes = {_name(node): node for node in ray.nodes() if node["Alive"]}
        remote = ray.remote(num_cpus=0, max_retries=0)(look)
        answers = {
            name: remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(*asked, node["NodeID"])
            for name, node in nodes.items()
        }
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=ANSWER_SECONDS)
        reports, problems = {}, []
        for name, answer in answers.items():
            try:
                reports[name] = NodeReport(**ray.get(answer, timeout=0))
            except ray.exceptions.GetTimeoutError:
                problems.append(f"node {name} did not answer in {ANSWER_SECONDS:g} s")
                continue
            except ray.exceptions.RayError as error:
                if nodes[name]["NodeID"] not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}:
                    continue  # it has left meanwhile, as nodes of an autoscaled cluster do
                problems.append(f"node {name} could not look at itself: {str(error).strip()}")
                continue
            offered = nodes[name]["Resources"].get("GPU", 0.0)
            written = storage.home.has(meeting / nodes[name]["NodeID"])
            found = judge_node(here, reports[name], greeting, written=written, gpus=offered)
            problems += [f"node {name}: {problem}" for problem in found]
    finally:
        storage.home.discard(meeting)
    if problems:
        raise InputError("; ".join(problems))
    return reports


def judge_node(
    here: NodeReport, there: NodeReport, greeting: str, *, written: bool, gpus: float
) -> list[str]:
    """Say in a sentence each what is wrong with a node.

    Parameters
    ----------
    here
        The driver's own report.
    there
        The node's.
    greeting
        What the driver wrote into the storage.
    written
        Whether the driver sees what the node wrote there.
    gpus
        The devices that the node offers to Ray.
    """
    problems = []
    for package, version in here.versions.items():
        other = there.versions.get(package)
        if other is None:
            problems.append(f"{package} is not installed; install it there as it is here")
        elif other != version:
            what = "other code of cxr_ray" if package == _CODE else f"{package} {other}"
            problems.append(f"it has {what}, and the driver {version}; install the same there")
    if there.greeting != greeting:
        reason = there.write_error or "no such file"
        problems.append(
            f"it does not see the storage ({reason}); mount a folder there under the same path, or "
            "give it the store's credentials"
        )
    elif there.write_error is not None or not written:
        reason = there.write_error or "the driver does not see what it writes"
        problems.append(f"it cannot write to the storage ({reason}); give it the right to")
    else:
        problems += [
            f"prepared/{cohort} has other content there; mount the driver's folder"
            for cohort, content in here.data.items()
            if there.data.get(cohort) != content
        ]
    if there.cuda_devices is not None and there.cuda_devices < gpus:
        problems.append(
            f"torch sees {there.cuda_devices} GPUs of the {gpus:g} it offers; check its driver"
        )
    return problems


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def _observer() -> Callable[..., dict[str, Any]]:
    """Return the function that looks at a node.

    A local function travels whole: it must run where cxr_ray is missing.
    """

    def look(
        storage: str,
        meeting: str,
        packages: Sequence[str],
        cohorts: Sequence[str],
        gpus: bool,
        node: str,
    ) -> dict[str, Any]:
        import importlib.metadata
        import importlib.util

        versions: dict[str, str | None] = {}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = None
        code = importlib.util.find_spec("cxr_ray")
        versions["cxr_ray"] = None
        if code is not None and code.origin is not None:
            total = hashlib.sha256()
            folder = Path(code.origin).parent
            for path in sorted(folder.rglob("*.py")):
                total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
            versions["cxr_ray"] = total.hexdigest()[:12]
        greeting = write_error = None
        data: dict[str, str | None] = dict.fromkeys(cohorts)
        try:
            import fsspec

            if "://" in storage and code is not None:
                from cxr_ray.storage import Storage

                Storage.open(storage, create=False)  # also makes this machine's mirror
            system, root = fsspec.core.url_to_fs(storage, use_listings_cache=False)
            greeting = system.cat_file(f"{root}/{meeting}/driver").decode()
            system.pipe_file(f"{root}/{meeting}/{node}", socket.gethostname().encode())
        except (OSError, ImportError, ValueError, RuntimeError) as error:
            errno = getattr(error, "errno", None)
            write_error = os.strerror(errno) if errno else str(error) or type(error).__name__
        for cohort in cohorts if greeting else ():
            try:
                manifest = system.cat_file(f"{root}/prepared/{cohort}/manifest.json")
                names = sorted(json.loads(manifest)["sha256"])
                sizes = [system.size(f"{root}/prepared/{cohort}/{name}") for name in names]
                whole = manifest + json.dumps(sizes).encode()
                data[cohort] = hashlib.sha256(whole).hexdigest()
            except OSError:
                data[cohort] = None
        cuda_devices = None
        if gpus:
            import torch

            cuda_devices = torch.cuda.device_count()
        return {
            "versions": versions,
            "greeting": greeting,
            "write_error": write_error,
            "data": data,
            "cuda_devices": cuda_devices,
        }

    return look
