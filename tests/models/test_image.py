import os
import pickle

import pytest
import torch
from local_checkpoints import resnet_state
from safetensors.torch import save_file
from torch import nn

from cxr_ray.config.schema import STAGES, ImageConfig
from cxr_ray.errors import InputError
from cxr_ray.models.image import BACKBONES, ImageEncoder

SMALL = {"encoder": "resnet_small", "weights": None, "features": 8, "size": 64}


def encoder(**changed):
    torch.manual_seed(0)
    return ImageEncoder(ImageConfig(**SMALL | {"freeze": "none"} | changed))


def images(count=6, size=64, channels=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def stage_state(model, stage):
    names = ("conv1.", "bn1.") if stage == "conv1" else (f"{stage}.",)
    state = model.backbone.state_dict()
    return {name: state[name].clone() for name in state if name.startswith(names)}


def train_some_steps(model, steps=3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("count", range(len(STAGES) + 1))
def test_a_frozen_prefix_stays_the_same_to_the_bit_and_takes_no_gradient(count):
    frozen = STAGES[:count]
    model = encoder(freeze=frozen)
    before = {stage: stage_state(model, stage) for stage in STAGES}
    train_some_steps(model)
    for stage in STAGES:
        after = stage_state(model, stage)
        assert len(after) > 5
        same = [torch.equal(before[stage][name], after[name]) for name in after]
        assert all(same) if stage in frozen else not any(same)
    for name, parameter in model.named_parameters():
        is_frozen = name.removeprefix("backbone.").startswith(
            tuple(frozen) + (("bn1",) if "conv1" in frozen else ())
        )
        assert parameter.requires_grad is not is_frozen
        assert (parameter.grad is None) is is_frozen


def test_a_frozen_stage_behind_a_trained_one_lets_the_gradient_through():
    model = encoder(freeze=("layer2",))
    model(images()).sum().backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.backbone.layer2.parameters())


def test_frozen_batch_norm_keeps_its_statistics_while_its_weights_are_trained():
    model = encoder(batch_norm="frozen")
    before = {name: value.clone() for name, value in model.named_buffers()}
    train_some_steps(model)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    assert all(p.grad is not None for p in model.parameters())


def test_switching_to_training_mode_again_keeps_the_prefix_in_evaluation_mode():
    model = encoder(freeze=("conv1", "layer1"))
    model.eval().train()
    assert model.backbone.layer4.training
    assert not any(module.training for module in model.backbone.layer1.modules())
    assert not model.backbone.bn1.training


@pytest.mark.parametrize("name", ["resnet18"])
def test_the_one_channel_convolution_answers_a_gray_image_as_the_rgb_one_does(name, tmp_path):
    state = resnet_state(name)
    save_file(state, tmp_path / "w.safetensors")
    model = ImageEncoder(ImageConfig(encoder=name, weights=str(tmp_path / "w.safetensors"))).eval()
    colour = BACKBONES[name]()
    colour.load_state_dict(state, strict=False)
    colour.fc = model.backbone.fc
    gray = images(2)
    with torch.no_grad():
        assert torch.allclose(
            colour.conv1(gray.expand(-1, 3, -1, -1)), model.backbone.conv1(gray), atol=1e-5
        )
        wanted = colour.eval()(gray.expand(-1, 3, -1, -1))
        assert torch.allclose(model(gray), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ending", "published"), [("pth", True), ("pth", False), ("safetensors", True)]
)
def test_a_local_resnet50_of_torchvisions_format_loads(ending, published, tmp_path):
    state = resnet_state("resnet50", published=published)
    path = tmp_path / f"resnet50.{ending}"
    torch.save(state, path) if ending == "pth" else save_file(state, path)
    loaded = ImageEncoder(ImageConfig(weights=str(path))).backbone.state_dict()
    for name, value in state.items():
        if name == "conv1.weight":
            assert torch.equal(loaded[name], value.sum(1, keepdim=True))
        elif not name.startswith("fc."):
            assert torch.equal(loaded[name], value)
    assert loaded["fc.weight"].shape == (256, 2048)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def bad_files(folder):
    """Files that are no ResNet-18, by what is wrong with them."""
    state = resnet_state("resnet18")
    torch.save(state, folder / "whole.pth")
    save_file(state, folder / "whole.safetensors")
    torch.save(resnet_state("resnet34"), folder / "other.pth")
    torch.save(resnet_state("resnet50"), folder / "deeper.pth")
    lacking = {name: value for name, value in state.items() if name != "layer3.0.conv2.weight"}
    torch.save(lacking, folder / "lacking.pth")
    torch.save(state | {"layer1.0.bn1.weight": torch.ones(3)}, folder / "shapes.pth")
    torch.save({"epoch": 3, "state_dict": state}, folder / "wrapped.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({}, folder / "nothing.pth")
    legacy = folder / "legacy.pth"
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    for share in (8, 3, 2):
        legacy_cut = legacy.read_bytes()[: legacy.stat().st_size // share]
        (folder / f"legacy_cut{share}.pth").write_bytes(legacy_cut)
    (folder / "legacy_stub.pth").write_bytes(legacy.read_bytes()[:300])
    (folder / "code.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    torch.save({"conv1.weight": Trap()}, folder / "hidden.pth")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.pth").write_text("<html>404</html>")
    for ending in ("pth", "safetensors"):
        content = (folder / f"whole.{ending}").read_bytes()
        (folder / f"cut.{ending}").write_bytes(content[: len(content) // 2])
        (folder / f"stub.{ending}").write_bytes(content[:100])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    bad_files(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other.pth", "unknown layer"),
        ("deeper.pth", "no resnet18"),
        ("lacking.pth", r"lacks layer3\.0\.conv2\.weight, so it is no resnet18 of torchvision"),
        ("shapes.pth", "shapes are not resnet18's"),
        ("wrapped.pth", "no mapping of names to tensors"),
        ("list.pth", "no mapping of names to tensors"),
        ("code.pth", "nothing else is loaded"),
        ("hidden.pth", "nothing else is loaded"),
        ("empty.pth", "no whole state dict"),
        ("text.pth", "no whole state dict"),
        ("cut.pth", "no whole state dict"),
        ("stub.pth", "no whole state dict"),
        ("nothing.pth", "lacks bn1"),
        ("legacy_cut8.pth", "no whole state dict"),
        ("legacy_cut3.pth", "no whole state dict"),
        ("legacy_cut2.pth", "no whole state dict"),
        ("legacy_stub.pth", "no whole state dict"),
        ("empty.safetensors", "no whole safetensors file"),
        ("cut.safetensors", "no whole safetensors file"),
        ("stub.safetensors", "no whole safetensors file"),
        ("absent.pth", r"no such file; give a \.pth or \.safetensors state dict"),
    ],
)
def test_a_file_that_is_no_such_checkpoint_is_refused_with_one_sentence(
    name, said, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        ImageEncoder(ImageConfig(encoder="resnet18", weights=str(folder / name)))
    assert str(refused.value).startswith("image.weights ")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []  # no code ran


def test_the_small_resnet_has_no_imagenet_weights_and_says_what_to_set():
    with pytest.raises(InputError, match=r"resnet_small.*image\.weights=null"):
        ImageEncoder(ImageConfig(encoder="resnet_small", weights="imagenet"))


def test_shifts_and_rotations_move_training_images_only_and_follow_the_seed():
    model = encoder(shift=0.1, rotate=10)
    plain = encoder()
    plain.load_state_dict(model.state_dict())
    batch = images()
    model.eval(), plain.eval()
    assert torch.equal(model(batch), plain(batch))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(model._augment(batch))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], batch)


def test_every_batch_norm_belongs_to_a_stage_that_can_be_frozen():
    model = encoder(freeze="all")
    train_some_steps(model, steps=1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "backbone.fc.weight",
        "backbone.fc.bias",
    ]
