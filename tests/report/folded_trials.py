"""Fits of a cross-validation that were never trained: drawn features, split as real ones are."""

import hashlib
import json

import numpy as np
import yaml

from cxr_ray.config.schema import DataConfig, ExperimentConfig
from cxr_ray.data.split import assign_fit_parts
from cxr_ray.report.members import cross_validation_id
from cxr_ray.report.trial_folder import write_history, write_predictions

FOLDS, REPEATS = 4, 2


class FoldedTrials:
    """A folder of trials; every model's fits see the same patients and folds."""

    def __init__(self, trials, records=400, positives=120, fits_share_scale=False, kept=None):
        self.trials = trials
        self.shared = fits_share_scale
        self.kept = kept
        self.label = np.repeat([1, 0], [positives, records - positives]).astype(np.int8)
        self.patient = np.array([f"p{number}" for number in range(records)], object)
        split = {"kind": "kfold", "folds": FOLDS, "repeats": REPEATS}
        self.config = ExperimentConfig(data=DataConfig.model_validate({"split": split}))
        rng = np.random.default_rng(0)
        self.noise = rng.normal(size=(2, records))

    def add(self, name, image=1.0, text=1.0, seed=0, skip=(), **levels):
        """One model of given signals (d'), as `study.json` describes it."""
        fits = []
        for number, fit in enumerate(self.config.fits):
            split = fit.data.split
            identity = hashlib.sha256(f"{name}{seed}{number}".encode()).hexdigest()[:16]
            fits.append(
                {
                    "experiment_id": identity,
                    "name": f"{name}-r{split.repeat}f{split.fold}",
                    "repeat": split.repeat,
                    "fold": split.fold,
                }
            )
            if number not in skip:
                self._write(identity, fit, number, (image, text))
        member = {"modality": "multimodal", "dataset": "full", "loss": "bce", **levels}
        return {
            **member,
            "experiment_id": cross_validation_id([fit["experiment_id"] for fit in fits]),
            "name": name,
            "seed": seed,
            "further": {},
            "fits": fits,
        }

    def _write(self, identity, fit, number, signals):
        folder = self.trials / identity
        folder.mkdir()
        part = assign_fit_parts(self.patient, self.label, fit.data, self.kept)
        rng = np.random.default_rng(int(identity, 16))
        own = rng.normal(size=(2, len(self.label)))
        sides = np.array(signals)[:, None] * self.label + 0.9 * self.noise + 0.4 * own
        # every fit has a scale and a place of its own
        scale, shift = (1.0, -1.0) if self.shared else (1 + number / 4, -1.0 + number)
        kept = np.flatnonzero(part != "train")
        logit = scale * sides.sum(axis=0) + shift
        names = np.array([f"r{number}" for number in range(len(self.label))])
        write_predictions(
            folder,
            record_id=names[kept],
            group=self.patient[kept].astype(str),
            part=part[kept].astype(str),
            in_own=np.ones(len(kept), bool),
            label=self.label[kept],
            logit=logit[kept],
        )
        with (folder / "features.npz").open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                kind=np.array("concat"),
                image=sides[0][kept, None].astype(np.float32),
                text=sides[1][kept, None].astype(np.float32),
                **{
                    "train_mean.image": sides[0][part == "train"].mean(keepdims=True),
                    "train_mean.text": sides[1][part == "train"].mean(keepdims=True),
                    "head.linear.weight": np.full((1, 2), scale, np.float32),
                    "head.linear.bias": np.array([shift], np.float32),
                },
            )
        write_history(
            folder,
            [{"epoch": e, "train_loss": 1.0 / (e + 1), "val_loss": 0.5} for e in range(2 + number)],
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(fit.model_dump(mode="json")))
        result = {
            "experiment_id": identity,
            "attempt": identity,
            "best_epoch": number,
            "epochs": 2 + number,
            "train_seconds": 1.5,
            "wall_seconds": 2.0,
            "finished_at": 1000.0 + number,
            "n_train": int((part == "train").sum()),
            "n_train_positive": int(self.label[part == "train"].sum()),
            "train_accuracy": 0.9,
            "parameters": 10,
            "parameters_trained": 10,
            "keys": {"cohort": "c", "image": None, "text": None, "tokenizer": None},
            "compute": {"precision": "float32"},
            "versions": {"training": 1, "git_commit": None},
        }
        (folder / "result.json").write_text(json.dumps(result))
