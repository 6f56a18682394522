"""The classifier: an encoder for each modality that it reads, and the head on their features."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.batches import Batch
from cxr_ray.errors import InputError
from cxr_ray.models.fusion import build_head
from cxr_ray.models.image import ImageEncoder
from cxr_ray.models.text import TextEncoder

Built = TypeVar("Built", bound=nn.Module)


def load_weights(model: nn.Module, weights: Path) -> None:
    """Give a model the weights of a safetensors file.

    Raises
    ------
    InputError
        If the file cannot be read, or holds the weights of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be read as safetensors: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        own = model.state_dict()
        lacking, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        what = f"lacks {lacking[0]}" if lacking else f"has the unknown {extra[0]}" if extra else ""
        raise InputError(
            f"{weights}: not the weights of the model that the config beside it describes: it "
            f"{what or 'has tensors of other shapes'}"
        ) from error


class Classifier(nn.Module):
    """Late fusion: logits (B,) from each modality's features; one modality has its own Linear.

    Parameters
    ----------
    pretrained
        Whether encoders start from the weights that the config names; without, they are an
        architecture that trained weights are loaded into.
    """

    def __init__(
        self, config: ExperimentConfig, vocabulary_size: int | None, *, pretrained: bool = True
    ) -> None:
        super().__init__()
        reads = config.fusion.modalities
        self.encoders = nn.ModuleDict()
        # Each part has a generator of its own, so that the image encoder of the multimodal model
        # starts from the same weights as the image model's.
        for modality in reads:
            self.encoders[modality] = build_encoder(
                config, modality, vocabulary_size, pretrained=pretrained
            )
        widths = {"image": config.image.features, "text": config.text.features}
        self.head = seeded(
            config,
            "head",
            lambda: build_head(
                config.fusion.kind, [widths[m] for m in reads], config.fusion.hidden
            ),
        )

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B, features) of each modality that the model reads."""
        features = {}
        if "image" in self.encoders:
            features["image"] = self.encoders["image"](batch.image, batch.frozen.get("image"))
        if "text" in self.encoders:
            features["text"] = self.encoders["text"](
                batch.tokens, batch.attention, batch.frozen.get("text")
            )
        return features

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        """Return logits (B,) of features, never in bfloat16: it would tie records in a ranking."""
        dtype = next(self.head.parameters()).dtype
        read = [value.to(dtype) for value in features.values()]
        with torch.autocast(read[0].device.type, enabled=False):
            logits: Tensor = self.head(read)
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        return self.fuse(self.encode(batch))


def build_encoder(
    config: ExperimentConfig,
    modality: str,
    vocabulary_size: int | None,
    *,
    pretrained: bool = True,
) -> ImageEncoder | TextEncoder:
    """Build one modality's encoder, with the weights that training starts from if `pretrained`."""
    if modality == "image":
        image = config.image if pretrained else config.image.model_copy(update={"weights": None})
        return seeded(config, modality, lambda: ImageEncoder(image))
    if vocabulary_size is None:
        raise ValueError("a model that reads text needs the size of its vocabulary")
    return seeded(
        config,
        modality,
        lambda: TextEncoder(config.text, vocabulary_size, pretrained=pretrained),
    )


def seeded(config: ExperimentConfig, part: str, build: Callable[[], Built]) -> Built:
    """Build a part from weights that depend on the training seed and the part's name alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{config.train.seed}:{part}".encode()))
        return build()
