"""A search whose trials end as a test wants, without data or training."""

import json

from small_studies import SMALL, FakeSource

from cxr_ray.config.layers import Layer, resolve
from cxr_ray.storage import Storage
from cxr_ray.sweep.grid import Experiment, load_search
from cxr_ray.sweep.ledger import Ledger
from cxr_ray.sweep.plan import make_member
from cxr_ray.sweep.search import Search
from cxr_ray.sweep.space import check_values

SPACE = """
base: {fusion.modalities: [text], train.max_epochs: 8}
parameters:
  loss.kind: {choices: [bce, focal]}
  loss.alpha: {float: [0.5, 0.95], when: {loss.kind: focal}}
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
"""


class FakeStudy:
    """A study's folder in which trials end as a test wants."""

    def __init__(self, folder):
        self.storage = Storage.open(str(folder / "runs"))
        self.folder = self.storage.studies / "mine"
        self.folder.mkdir()
        self.ended = {}
        self._file = folder / "mine.yaml"

    def search(self, space=SPACE, trials=10, overrides=None, **options):
        self._file.write_text(space)
        loaded = load_search(self._file)
        layers = [Layer("profile", SMALL), loaded.base, Layer("--set", overrides or {})]

        def member_of(number, drawn):
            config = resolve([*layers, Layer(f"trial {number}", drawn)])
            return make_member(Experiment(config, {"trial": f"t{number}"}), FakeSource())

        fixed = check_values(loaded, layers)
        return Search(
            loaded, fixed, self.storage, Ledger(self.folder), member_of, self.ended,
            seed=0, trials=trials, **options,
        )  # fmt: skip

    def finish(self, member, curve, parts=("val",)):
        """Leave a finished trial behind whose AP by epoch is ``curve``."""
        folder = self.storage.trials / member.trained_id
        (folder / "model").mkdir(parents=True)
        rows = [f"{epoch},{value},{value}" for epoch, value in enumerate(curve)]
        header = "epoch,val_average_precision,val_full_auroc"
        (folder / "history.csv").write_text("\n".join([header, *rows]) + "\n")
        result = {"best_epoch": curve.index(max(curve)), "train_seconds": 1.0, "parts": parts}
        (folder / "result.json").write_text(json.dumps(result))

    def run(self, search, curve_of=lambda member: [0.3, 0.5, 0.4]):
        """Train all that a search asks for; returns the members in the order they were run."""
        run = []
        while member := search.next():
            run.append(member)
            self.finish(member, curve_of(member))
            search.ended(member, "finished")
        return run

    def asked(self):
        return Ledger(self.folder).read()
