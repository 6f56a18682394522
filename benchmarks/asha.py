"""What ASHA saves and costs: paired searches with and without it, on one generated data set.

Each pair has the same space, sampler seed and number of trials. Counted are the epochs trained;
compared is the average precision on the test part of the model that each search would deliver.
Trials run one after the other in this process, without Ray.

    python benchmarks/asha.py --pairs 5 --trials 24
"""

import argparse
import tempfile
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from cxr_ray.config.layers import Layer, load_profile
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import read_manifest
from cxr_ray.errors import TrialStopped
from cxr_ray.evaluation.ranking import average_precision
from cxr_ray.lease import acquire_lease, release_lease
from cxr_ray.report.trial_folder import read_predictions
from cxr_ray.storage import ALL_PARTS, Storage
from cxr_ray.sweep.grid import load_search
from cxr_ray.sweep.ledger import Ledger
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.search import Search
from cxr_ray.sweep.search_plan import SearchPlan, plan_search
from cxr_ray.training.job import Job
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

SPACE = """
title: Does ASHA deliver as good a model for half the epochs?
base:
  fusion.modalities: [text]
parameters:
  loss.kind: {choices: [bce, focal]}
  loss.alpha: {float: [0.5, 0.95], when: {loss.kind: focal}}
  loss.gamma: {float: [0.0, 4.0], when: {loss.kind: focal}}
  train.lr: {float: [1.0e-5, 3.0e-2], log: true}
  train.batch: {choices: [32, 64, 128]}
  text.dropout: {float: [0.0, 0.5], when: {fusion.modalities: text}}
start_from: {loss.kind: bce}
"""
# A validation part of 210 records, half of them positive.
DATA = {"phantom.patients": 2100, "phantom.positive_share": 0.5, "data.require": ["text"]}


def train(storage: Storage, search: Search, member: Member, parts: tuple[str, ...]) -> int:
    """Train a member, or score its test part; returns the epochs that it took."""
    running = storage.running / member.trained_id
    lease = acquire_lease(running, "benchmark")
    assert lease is not None
    job = Job(
        storage=str(storage.root),
        experiment_id=member.trained_id,
        attempt=lease.attempt,
        config=member.config.model_dump(mode="json"),
        keys=asdict(member.keys),
        parts=parts,
    )
    epochs = 0

    def report(row: dict) -> None:
        nonlocal epochs
        if "epoch" in row:
            epochs += 1
            if search.epoch(member, row) is not None:
                release_lease(running, lease)

    try:
        run_job(job, World(), report)
    except TrialStopped:
        search.ended(member, "pruned")
    else:
        if parts == search.parts:
            search.ended(member, "finished")
    return epochs


def run_search(storage: Storage, plan: SearchPlan, pruner: str, seed: int, trials: int) -> dict:
    """Run one search and score what it would deliver on the test part."""
    space = replace(plan.space, pruner=pruner)
    plan = replace(plan, space=space)
    folder = storage.studies / uuid.uuid4().hex
    folder.mkdir()
    search = Search(
        space, plan.fixed, storage, Ledger(folder), plan.member, {}, seed=seed, trials=trials
    )
    began, epochs = time.perf_counter(), 0
    while member := search.next():
        epochs += train(storage, search, member, search.parts)
    best = search.best()[0].member
    assert best is not None
    train(storage, search, best, ALL_PARTS)
    predictions = read_predictions(storage.trials / best.trained_id)
    rows = predictions.rows("test", "full")
    return {
        "epochs": epochs,
        "seconds": time.perf_counter() - began,
        "pruned": sum(t.status == "pruned" for t in search.trials.values()),
        "val": search.best()[0].values[0],
        "test": average_precision(predictions.label[rows], predictions.logit[rows]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--max-epochs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "asha.yaml"
        path.write_text(SPACE)
        shares, used = [], []
        for pair in range(options.pairs):
            outcome = {}
            for pruner in ("none", "asha"):
                # A storage of its own: what the other search has trained must not be found.
                storage = Storage.open(f"{scratch}/{pair}-{pruner}")
                settings = DATA | {"train.max_epochs": options.max_epochs, "train.seed": pair}
                overrides = Layer("--set", settings)
                plan = plan_search(
                    load_search(path), load_profile("tiny"), overrides, storage, "phantom", None
                )
                members = [(m.config, m.keys) for m in plan.plan.members]
                prepare(
                    storage,
                    plan.plan.members[0].source,
                    members,
                    fan_out=run_here,
                    progress=lambda *_: None,
                    driver="benchmark",
                )
                if not outcome and not shares:
                    counted = read_manifest(storage, members[0][1].cohort)["parts"]
                    positive = {part: counts["n_positive"] for part, counts in counted.items()}
                    print(f"positive records: {positive}")
                outcome[pruner] = run_search(storage, plan, pruner, pair, options.trials)
                shown = {k: round(float(v), 4) for k, v in outcome[pruner].items()}
                print(f"pair {pair} {pruner:5} {shown}", flush=True)
            shares.append(outcome["asha"]["epochs"] / outcome["none"]["epochs"])
            used.append(outcome["asha"]["test"] - outcome["none"]["test"])
        print(f"epochs with ASHA: {np.mean(shares):.0%} ({', '.join(f'{s:.0%}' for s in shares)})")
        print(
            f"test AP with ASHA minus without: {np.mean(used):+.4f} (sd {np.std(used, ddof=1):.4f})"
        )


if __name__ == "__main__":
    main()
