"""Experiments and sources that need no data."""

from dataclasses import dataclass, field
from pathlib import Path

from cxr_ray.config.layers import Layer
from cxr_ray.sweep import plan as planning
from cxr_ray.sweep.grid import expand, load_grid
from cxr_ray.sweep.plan import make_plan

SEARCH_SPACES = Path(__file__).parents[2] / "search_spaces"
# All weights random, so that every experiment has an id.
SMALL = {"image.encoder": "resnet_small", "image.weights": None, "text.encoder": "scratch"}


@dataclass(frozen=True)
class FakeSource:
    """Declares what a source does, and holds no record."""

    kind: str = "table"
    name: str = "clinic"
    modalities: tuple[str, ...] = ("image", "text")
    reads: frozenset[str] = frozenset({"label"})
    default: tuple[str, ...] = ("image", "text")
    content: str = field(default="0" * 64)

    def fingerprint(self):
        return self.content

    def rules(self, config):
        return config.model_dump(mode="json", include=set(self.reads))

    def required(self, data):
        return self.default if data.require is None else data.require


def grid_of(text, folder, name="mine"):
    """A grid from its YAML."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_grid(path)


def experiments_of(grid, overrides=None, **options):
    """A grid's experiments, with small encoders."""
    return expand(grid, Layer("profile", SMALL), Layer("--set", overrides or {}), **options)


def plan_of(monkeypatch, storage, experiments, source, overrides=None):
    """A plan over ``source``: one, or a function of the config."""
    opened = source if callable(source) else lambda config: source
    monkeypatch.setattr(planning, "open_source", lambda data, config, *_: opened(config))
    return make_plan(experiments, storage, "table:x.yaml", None, Layer("--set", overrides or {}))
