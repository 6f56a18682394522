"""What training minimises: the classifier's loss, and what fusion adds to it in training alone."""

import torch
from torch import Tensor, nn

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.batches import Batch
from cxr_ray.models.classifier import Classifier, seeded
from cxr_ray.models.fusion import AverageFusion, ConcatFusion
from cxr_ray.training.losses import Loss
from cxr_ray.training.modulation import GradientModulation
from cxr_ray.training.world import World


class TrainingTask(nn.Module):
    """Owns the forward pass and the loss, so that the loop knows nothing of either.

    Its own parameters, beside the classifier's, exist in training only: a linear head on each
    modality alone (``fusion.auxiliary``), which reads the modality's own feature always, and for
    each modality a learned feature that stands in for a lost one (``fusion.modality_dropout``).
    The training loss holds all of it, the validation loss is the classifier's alone.
    """

    def __init__(self, config: ExperimentConfig, model: Classifier, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.half_precision = config.compute.precision == "bfloat16"
        self.auxiliary = nn.ModuleDict()
        self.stand_in = nn.ParameterDict()
        self.auxiliary_weight = config.fusion.auxiliary
        self.modulation: GradientModulation | None = None
        if len(model.encoders) < 2 or isinstance(model.head, AverageFusion):
            return  # nothing of fusion.* is read: see config/identity.py
        like = next(model.head.parameters())
        widths = {"image": config.image.features, "text": config.text.features}
        for name, width in widths.items():
            if config.fusion.auxiliary:
                head = seeded(config, f"auxiliary.{name}", lambda w=width: nn.Linear(w, 1))  # type: ignore[misc]
                self.auxiliary[name] = head.to(like)
            if config.fusion.modality_dropout:
                self.stand_in[name] = nn.Parameter(like.new_zeros(width))
        if config.fusion.modulation:
            self.modulation = GradientModulation(config.fusion.modulation, model.encoders)

    def forward(self, batch: Batch, lost: Tensor | None, weight: float) -> Tensor:
        """Return the batch's loss, summed over records and times ``weight``.

        Parameters
        ----------
        lost
            (B,) int: the place of the modality that a record loses, or -1; None where none does.
        weight
            0 for a record that only takes part in the gradient exchange, else 1.
        """
        with torch.autocast(batch.label.device.type, torch.bfloat16, self.half_precision):
            encoded = self.model.encode(batch)
        features = {name: value.to(batch.label.dtype) for name, value in encoded.items()}
        if isinstance(self.model.head, AverageFusion):
            branches = self.model.head.branches(list(features.values()))
            losses = torch.stack([self.loss(each, batch.label) for each in branches]).mean(dim=0)
            return losses.sum() * weight
        logits = self.model.fuse(self._replace(features, lost))
        losses = self.loss(logits, batch.label)
        alone = {name: head(features[name]).squeeze(1) for name, head in self.auxiliary.items()}
        for each in alone.values():
            losses = losses + self.auxiliary_weight * self.loss(each, batch.label)
        if self.modulation is not None:
            if isinstance(self.model.head, ConcatFusion):
                parts = self.model.head.parts(list(features.values()))
                alone = dict(zip(features, parts, strict=True))
            self.modulation.observe(alone, batch.label, weight)
        return losses.sum() * weight

    def adjust_gradients(self, world: World, seed: int) -> None:
        """Change the gradients of a whole global batch before they are stepped along."""
        if self.modulation is not None:
            self.modulation.apply(world, seed)

    def training_only(self) -> dict[str, Tensor]:
        """Return the state of what is no part of the classifier, for a checkpoint."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("model.")}

    def _replace(self, features: dict[str, Tensor], lost: Tensor | None) -> dict[str, Tensor]:
        if not self.stand_in or lost is None:
            return features
        return {
            name: torch.where((lost == place)[:, None], self.stand_in[name], value)
            for place, (name, value) in enumerate(features.items())
        }
