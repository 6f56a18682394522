from typing import get_args

import pytest
import torch

from cxr_ray.config.schema import TrainConfig
from cxr_ray.training.schedule import build_schedule


def factors(kind, epochs=6):
    config = TrainConfig(schedule=kind, max_epochs=epochs, lr=1e-4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=config.lr)
    schedule = build_schedule(config, optimizer)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"] / config.lr)
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("warmup", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("two_step", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("linear_decay", [1, 0.82, 0.64, 0.46, 0.28, 0.1]),
        ("constant", [1] * 6),
    ],
)
def test_each_schedule_gives_each_epoch_its_factor(kind, wanted):
    assert factors(kind) == pytest.approx(wanted)


def test_every_schedule_that_the_config_allows_can_train_a_single_epoch():
    for kind in get_args(TrainConfig.model_fields["schedule"].annotation):
        assert factors(kind, epochs=1)[0] > 0
