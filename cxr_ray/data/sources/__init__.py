"""Where records come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    from cxr_ray.config.schema import ExperimentConfig
    from cxr_ray.data.sources.source import Source

KINDS = ("phantom", "mimic", "openi", "table")


def config_of(spec: str) -> dict[str, Any]:
    """Return the config fields that a ``--data`` argument sets by itself."""
    return {"phantom.leaky": True} if spec == "phantom:leaky" else {}


def open_source(
    spec: str,
    config: ExperimentConfig,
    prepared: Path,
    reports: str | None = None,
    demographics: str | None = None,
) -> Source:
    """Open the source that ``--data`` names.

    Parameters
    ----------
    spec : str
        ``phantom``, ``phantom:leaky``, ``mimic:DIR``, ``openi:DIR``, ``table:FILE.yaml`` or
        ``table:FILE.yaml@DIR``.
    config : ExperimentConfig
        Its ``phantom``, ``cohort`` and ``data`` parts are read.
    prepared : Path
        Where the phantom is written.
    reports : str, optional
        Folder or zip of reports, for ``mimic`` only.
    demographics : str, optional
        MIMIC-IV's ``patients`` or ``admissions``, or the folder of both, for ``mimic`` only.

    Raises
    ------
    InputError
        If the kind is unknown or the place does not exist.
    """
    kind, _, path = spec.partition(":")
    if kind not in KINDS:
        raise InputError(f"--data: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if reports is not None and kind != "mimic":
        raise InputError(f"--reports: only mimic reads it, not {kind}")
    if demographics is not None and kind != "mimic":
        own = {"phantom": "; set phantom.demographics=true", "table": "; name columns as 'groups'"}
        raise InputError(f"--demographics: only mimic reads it, not {kind}{own.get(kind, '')}")
    if kind == "phantom":
        return _open_phantom(path, config, prepared)
    if not path:
        raise InputError(f"--data: {kind} needs a path, as in {kind}:PATH")
    follow_links = config.data.follow_links
    if kind == "mimic":
        from cxr_ray.data.sources.mimic import open_mimic

        return open_mimic(path, reports, demographics, follow_links)
    if kind == "openi":
        from cxr_ray.data.sources.openi import open_openi

        return open_openi(path, config.cohort, follow_links)
    from cxr_ray.data.sources.table import open_table

    file, root = _file_and_root(path)
    return open_table(file, root, follow_links)


def _open_phantom(variant: str, config: ExperimentConfig, prepared: Path) -> Source:
    if variant not in ("", "leaky"):
        raise InputError(f"--data: phantom:{variant} is unknown; known: phantom, phantom:leaky")
    from cxr_ray.data.sources.phantom import PhantomSource

    if variant == "leaky" and not config.phantom.leaky:
        raise InputError("--data phantom:leaky: phantom.leaky is false; drop one of the two")
    return PhantomSource.open(config.phantom, prepared)


def _file_and_root(path: str) -> tuple[str, str | None]:
    """Split ``FILE.yaml@DIR``; an ``@`` elsewhere in a path is part of it."""
    match = re.fullmatch(r"(.+?\.ya?ml)@(.+)", path)
    return (match[1], match[2]) if match else (path, None)
