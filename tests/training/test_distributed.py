"""One worker and several see the same batches and compute the same numbers, without Ray."""

import numpy as np
import pytest
import torch
from prepared_phantom import PreparedPhantom, quiet, tiny_config
from torch import distributed, multiprocessing
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cxr_ray.data.fan_out import run_here
from cxr_ray.data.order import epoch_batches
from cxr_ray.storage import Storage
from cxr_ray.training import loop
from cxr_ray.training.frozen import cache_frozen
from cxr_ray.training.loop import fit, score, share_gradients
from cxr_ray.training.losses import build_loss
from cxr_ray.training.task import TrainingTask
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

EXACT = {
    "compute__precision": "float64",
    "image__batch_norm": "frozen",
    "text__dropout": 0.0,
    "train__max_epochs": 2,
    "train__schedule": "constant",
    "loss__kind": "focal",
}
ALL_OF_FUSION = {
    "fusion__kind": "gated",
    "fusion__hidden": 8,
    "fusion__modality_dropout": 0.4,
    "fusion__auxiliary": 0.5,
    "fusion__modulation": 0.6,
}


def observed(config, root, folder, world):
    """Fit a model and return all that must not depend on the number of workers."""
    torch.set_num_threads(1)
    arm = PreparedPhantom(Storage.open(root)).arm(config)
    model = build_classifier(config, arm, world)
    gradients, parts = [], []

    def keep_gradients(optimizer, *_):
        if not gradients:
            gradients.extend(p.grad.clone() for g in optimizer.param_groups for p in g["params"])

    def keep_part(task, arm, part, *rest):
        parts.append(part.tolist())
        return summed_loss(task, arm, part, *rest)

    summed_loss, loop._summed_loss = loop._summed_loss, keep_part
    handle = register_optimizer_step_pre_hook(keep_gradients)
    try:
        history = fit(
            config,
            arm,
            model,
            folder,
            world=world,
            report=lambda row: None,
            should_stop=lambda: False,
        )
    finally:
        handle.remove()
        loop._summed_loss = summed_loss
    records = arm.indices("test", own=False)
    return {
        "gradients": gradients,
        "parts": world.gather(parts),
        "history": history,
        "weights": dict(model.state_dict()),
        "logits": score(config, arm, model, records, world).logits.tolist(),
    }


def work(rank, size, configs, root, folder):
    """What each worker does: every config in turn; the first worker saves what it saw."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    for number, config in enumerate(configs):
        place = folder / str(number)
        if rank == 0:
            place.mkdir()
        distributed.barrier()
        seen = observed(config, root, place, World(rank, size))
        if rank == 0:
            torch.save(seen, place / "seen.pt")
    distributed.destroy_process_group()


def in_processes(size, configs, phantom, folder):
    """Train with ``size`` workers, each in a process of its own."""
    # The server imports what every worker needs, once for all of them.
    multiprocessing.set_forkserver_preload(
        ["prepared_phantom", "cxr_ray.training.trial", "transformers.models.bert.modeling_bert"]
    )
    multiprocessing.start_processes(
        work,
        (size, configs, str(phantom.storage.root), folder),
        nprocs=size,
        start_method="forkserver",
    )
    return [
        torch.load(folder / str(number) / "seen.pt", weights_only=True)
        for number in range(len(configs))
    ]


def here(config, phantom, folder):
    folder.mkdir()
    return observed(config, str(phantom.storage.root), folder, World())


def merged(parts):
    """Put the two halves of accumulated steps together."""
    return [first + second for first, second in zip(parts[::2], parts[1::2], strict=True)]


def batch_that_leaves(count, rest):
    """A batch size whose last batch has the records of ``rest``."""
    return next(size for size in range(20, count) if count % size in rest)


def furthest(first, second):
    """The largest difference between two lists of tensors, or mappings of them."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = list(first.values()), list(second.values())
    pairs = zip(first, second, strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def assert_same(alone, together):
    """The bar: gradients and losses to 1e-9, weights to 1e-7, on the same global batches."""
    joined = [sum(shares, []) for shares in zip(*together["parts"], strict=True)]
    assert joined == alone["parts"][0]
    assert len(alone["gradients"]) > 20
    assert furthest(alone["gradients"], together["gradients"]) <= 1e-9
    assert len(alone["history"]) == len(together["history"]) == 2
    for one, many in zip(alone["history"], together["history"], strict=True):
        for name in ("train_loss", "val_loss", "val_auroc", "val_average_precision"):
            assert abs(one[name] - many[name]) <= 1e-9, name
    assert furthest(alone["weights"], together["weights"]) <= 1e-7
    assert np.abs(np.subtract(alone["logits"], together["logits"])).max() <= 1e-6


def test_frozen_stages_take_no_part_in_the_exchange_of_gradients(phantom, tmp_path):
    config = tiny_config(image__freeze=("conv1", "layer1", "layer2"), fusion__modalities="image")
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0,
                                   world_size=1)  # fmt: skip
    try:
        task = TrainingTask(config, model, build_loss(config.loss, 0.2))
        exchanged = share_gradients(task, World(0, 2), accumulate=1)._get_ddp_logging_data()
    finally:
        distributed.destroy_process_group()
    frozen = {"conv1", "bn1", "layer1", "layer2"}
    backbone = model.encoders["image"].backbone.named_parameters()
    trained = [value for name, value in backbone if name.partition(".")[0] not in frozen]
    trained += model.head.parameters()
    assert exchanged["num_parameter_tensors"] == len(trained) < len(list(model.parameters()))
    assert exchanged["total_parameter_size_bytes"] == 4 * sum(p.numel() for p in trained)


@pytest.fixture
def count(phantom):
    return len(phantom.arm(tiny_config()).indices("train", own=True))


def test_two_workers_compute_what_one_does_where_the_last_batch_does_not_divide(
    phantom, count, tmp_path
):
    batch = batch_that_leaves(count, range(3, count, 2))
    config = tiny_config(**EXACT, train__batch=batch)
    sizes = [len(each) for each in epoch_batches(np.arange(count), batch, seed=0, epoch=0)]
    assert any(size % 2 for size in sizes)
    fused = tiny_config(**EXACT, **ALL_OF_FUSION, train__batch=batch)
    stored = tiny_config(
        **EXACT | {"compute__precision": "float32"},
        **{"image__freeze": "conv1,layer1", "text__freeze": "all", "train__cache_frozen": True},
        train__batch=batch,
    )
    cache_frozen(
        phantom.storage,
        [(stored, phantom.prepare(stored))],
        fan_out=run_here,
        progress=quiet,
        driver="test",
    )
    together, fused_together, stored_together = in_processes(
        2, [config, fused, stored], phantom, tmp_path
    )
    assert_same(here(config, phantom, tmp_path / "alone"), together)
    assert_same(here(fused, phantom, tmp_path / "fused"), fused_together)
    alone = here(stored, phantom, tmp_path / "stored")
    assert furthest(alone["weights"], stored_together["weights"]) <= 1e-3
    assert np.abs(np.subtract(alone["logits"], stored_together["logits"])).max() <= 1e-3


def test_a_worker_whose_share_is_empty_changes_nothing_and_one_record_is_no_batch(
    phantom, count, tmp_path
):
    batch = batch_that_leaves(count, [2])
    config = tiny_config(**EXACT, train__batch=batch)
    frozen = tiny_config(
        **EXACT, **ALL_OF_FUSION, image__freeze=("conv1", "layer1"), train__batch=batch
    )
    accumulated = frozen.model_copy(
        update={"train": frozen.train.model_copy(update={"accumulate": 2})}
    )
    plain = tiny_config(train__batch=batch, train__max_epochs=1)
    together, in_parts, with_batch_norm = in_processes(
        3, [config, accumulated, plain], phantom, tmp_path
    )
    assert [] in together["parts"][2]
    assert_same(here(config, phantom, tmp_path / "alone"), together)
    in_parts["parts"] = [merged(parts) for parts in in_parts["parts"]]
    assert_same(here(frozen, phantom, tmp_path / "frozen"), in_parts)
    # local batch-norm statistics differ between worlds; that it trains at all is the claim
    assert np.isfinite(with_batch_norm["history"][0]["train_loss"])
