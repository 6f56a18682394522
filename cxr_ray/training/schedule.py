"""Learning-rate schedules, stepped once an epoch."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LinearLR, LRScheduler, MultiStepLR

from cxr_ray.config.schema import TrainConfig


def build_schedule(config: TrainConfig, optimizer: Optimizer) -> LRScheduler:
    """Build the schedule that a config names.

    ``warmup`` is how "linear scheduler with two steps" (Chao & Li) is read: factor 1/3 to 1 over
    two epochs. The other readings are ``two_step`` (a tenth after each third of the epochs) and
    ``linear_decay`` (to a tenth over all epochs).
    """
    if config.schedule == "warmup":
        return LinearLR(optimizer, start_factor=1 / 3, end_factor=1.0, total_iters=2)
    if config.schedule == "two_step":
        third = max(1, config.max_epochs // 3)
        return MultiStepLR(optimizer, milestones=[third, 2 * third], gamma=0.1)
    if config.schedule == "linear_decay":
        return LinearLR(optimizer, 1.0, 0.1, total_iters=max(1, config.max_epochs - 1))
    return ConstantLR(optimizer, factor=1.0)
