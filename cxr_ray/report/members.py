"""A study's members and the experiments that they were trained as."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_ray.config.identity import digest


def cross_validation_id(fits: Sequence[str]) -> str:
    """Id of a cross-validated model, from the experiment ids of its fits."""
    return digest({"fits": sorted(fits)})


def experiment_ids(member: Mapping[str, Any]) -> list[str]:
    """List the experiments that a member of ``study.json`` was trained as: one, or its fits."""
    return [fit["experiment_id"] for fit in member.get("fits", ())] or [member["experiment_id"]]
