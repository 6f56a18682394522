"""Image encoders: torchvision's ResNets on one channel, with a frozen prefix."""

import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from cxr_ray.config.schema import STAGES, ImageConfig, Stage
from cxr_ray.errors import InputError

# What torch.load raises for files that are cut off, damaged, or hold more than tensors.
_NO_STATE = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class SmallResNet(nn.Module):
    """A ResNet of torchvision's basic blocks, one a stage, an eighth to a quarter as wide."""

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(widths[0], widths[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], 1)


def _stage(channels: int, width: int, stride: int) -> nn.Sequential:
    projection = None
    if stride > 1 or channels != width:
        projection = nn.Sequential(
            nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    return nn.Sequential(resnet.BasicBlock(channels, width, stride, projection))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet_small": SmallResNet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
}


class ImageEncoder(nn.Module):
    """(B, 1, H, W) float to (B, features).

    The frozen stages take no gradient and stay in evaluation mode, so that neither their weights
    nor their batch-norm statistics ever move. Where they are the first stages (`prefix`), their
    forward pass keeps nothing for a backward pass, and what it makes of an image never changes.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        backbone = BACKBONES[config.encoder]()
        if config.weights is not None:
            _load_weights(backbone, config.encoder, config.weights)
        _sum_over_rgb(backbone)
        width: int = backbone.fc.in_features  # type: ignore[assignment, union-attr]
        backbone.fc = nn.Linear(width, config.features)
        self.backbone = backbone
        self.frozen = frozenset(config.freeze)
        self.leading = config.frozen_prefix
        self.batch_norm_frozen = config.batch_norm == "frozen"
        for stage in self.frozen:
            for module in self._stage(stage):
                module.requires_grad_(False)
        self._augment = _augmentation(config)
        self.train()

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Switch the mode of everything but the frozen stages."""
        super().train(mode)
        for stage in self.frozen:
            for module in self._stage(stage):
                module.eval()
        if self.batch_norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, image: Tensor | None, prefix: Tensor | None = None) -> Tensor:
        """Encode a batch of standardised images, or what `prefix` made of them."""
        if prefix is None:
            assert image is not None
            augmented = self.training and self._augment is not None
            prefix = self.prefix(self._augment(image) if augmented else image)  # type: ignore[misc]
        x = self._through(STAGES[len(self.leading) :], prefix)
        if x.ndim == 4:
            x = self._pool(x)
        features: Tensor = self.backbone.fc(x)  # type: ignore[operator]
        return features

    def maps(self, image: Tensor) -> Tensor:
        """Return what the last convolutional stage makes of images: (B, C, h, w)."""
        return self._through(STAGES, image)

    def encode_maps(self, maps: Tensor) -> Tensor:
        """Encode what `maps` returned."""
        features: Tensor = self.backbone.fc(self._pool(maps))  # type: ignore[operator]
        return features

    @torch.no_grad()
    def prefix(self, image: Tensor) -> Tensor:
        """Pass images through the frozen first stages: (B, C, H, W), pooled where all are."""
        x = self._through(self.leading, image)
        return self._pool(x) if self.leading == STAGES else x

    def _through(self, stages: tuple[Stage, ...], x: Tensor) -> Tensor:
        for stage in stages:
            for module in self._stage(stage):
                x = module(x)
            if stage == "conv1":
                x = self.backbone.maxpool(self.backbone.relu(x))  # type: ignore[operator]
        return x

    def _pool(self, x: Tensor) -> Tensor:
        return torch.flatten(self.backbone.avgpool(x), 1)  # type: ignore[operator]

    def _stage(self, name: str) -> Iterator[nn.Module]:
        names = ("conv1", "bn1") if name == "conv1" else (name,)
        return (self.backbone.get_submodule(each) for each in names)


def _sum_over_rgb(backbone: nn.Module) -> None:
    """Make the first convolution read one channel: a gray image is R = G = B."""
    first: nn.Conv2d = backbone.conv1  # type: ignore[assignment]
    gray = nn.Conv2d(
        1,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=False,
    )
    with torch.no_grad():
        gray.weight.copy_(first.weight.sum(dim=1, keepdim=True))
    backbone.conv1 = gray


def _load_weights(backbone: nn.Module, encoder: str, weights: str) -> None:
    """Load ImageNet weights from torchvision's hub, or a state dict from a local file."""
    path = Path(weights).expanduser()
    if weights == "imagenet":
        if encoder == "resnet_small":
            raise InputError(
                "image.weights imagenet: resnet_small has no pretrained weights; "
                "set image.weights=null"
            )
        entry = resnet.__dict__[f"ResNet{encoder.removeprefix('resnet')}_Weights"].IMAGENET1K_V1
        try:
            state = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise InputError(
                f"image.weights imagenet: {encoder}'s weights are not cached and cannot be "
                f"downloaded; copy {entry.url.rpartition('/')[2]} from torchvision to this machine "
                "and give `--set image.weights=FILE`"
            ) from error
    elif path.is_file():
        state = _read_state(path)
    else:
        raise InputError(
            f"image.weights {weights}: no such file; give a .pth or .safetensors state dict of "
            f"torchvision's {encoder}, `imagenet`, or null for random weights"
        )
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    expected = {name for name in backbone.state_dict() if not name.startswith("fc.")}
    # torchvision's published files are older than batch-norm's counters, which only a momentum of
    # None would read.
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    missing = sorted(expected - counters - set(state))
    extra = sorted(set(state) - expected)
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has the unknown {extra[0]}"
        raise InputError(
            f"image.weights {weights}: it {what}, so it is no {encoder} of torchvision"
        )
    try:
        backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"image.weights {weights}: its shapes are not {encoder}'s") from error


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"image.weights {path}: no whole safetensors file") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _NO_STATE as error:
        raise InputError(
            f"image.weights {path}: no whole state dict of tensors only; nothing else is loaded"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"image.weights {path}: holds no mapping of names to tensors")
    return state


def _augmentation(config: ImageConfig) -> Callable[[Tensor], Tensor] | None:
    """Small random shifts (a share of the size) and rotations (degrees), one draw an image."""
    if not (config.shift or config.rotate):
        return None

    def augment(image: Tensor) -> Tensor:
        count = len(image)
        angle = (
            (torch.rand(count, device=image.device, dtype=image.dtype) * 2 - 1)
            * torch.pi
            / 180
            * config.rotate
        )
        shift = (
            (torch.rand(count, 2, device=image.device, dtype=image.dtype) * 2 - 1)
            * 2
            * config.shift
        )
        cos, sin = angle.cos(), angle.sin()
        matrix = torch.stack(
            [
                torch.stack([cos, -sin, shift[:, 0]], dim=1),
                torch.stack([sin, cos, shift[:, 1]], dim=1),
            ],
            dim=1,
        )
        grid = nn.functional.affine_grid(matrix, list(image.shape), align_corners=False)
        return nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)

    return augment
