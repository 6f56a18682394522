import numpy as np
import pytest
import torch

from cxr_ray.evaluation.heads import (
    ADDITIVE_KINDS,
    additive_parts,
    additive_weights,
    fusion_head,
)
from cxr_ray.models.fusion import FUSIONS, build_head

WIDTHS = (12, 20)


def random_head(kind, seed=0, hidden=16):
    """A head with weights large enough to saturate gates and attention, and as numpy."""
    torch.manual_seed(seed)
    module = build_head(kind, WIDTHS, hidden)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.7)
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}
    return module, fusion_head(kind, weights), weights


def features(seed=1, size=50):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, width)).astype(np.float32) for width in WIDTHS]


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_head_scores_in_numpy_what_its_module_does_in_torch(kind):
    for seed in range(5):
        module, head, _ = random_head(kind, seed)
        image, text = features(seed)
        with torch.no_grad():
            wanted = module([torch.from_numpy(image), torch.from_numpy(text)]).numpy()
        assert head.score(image, text).shape == (50,)
        np.testing.assert_allclose(head.score(image, text), wanted, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            exact = module.double()([torch.tensor(part.astype(float)) for part in (image, text)])
        np.testing.assert_allclose(head.score(image, text), exact.numpy(), atol=1e-10)


@pytest.mark.parametrize("kind", FUSIONS)
def test_permuting_projections_is_permuting_features(kind):
    _, head, _ = random_head(kind)
    image, text = features()
    order = np.random.default_rng(2).permutation(len(image))
    wanted = head.score(image[order], text)
    projected = head.project_image(image.astype(float)), head.project_text(text.astype(float))
    found = head.combine(projected[0][order], projected[1])
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert not np.allclose(found, head.score(image, text))


@pytest.mark.parametrize("kind", FUSIONS)
def test_exactly_the_additive_kinds_leave_no_interaction(kind):
    _, head, weights = random_head(kind)
    image, text = features()
    shifted = np.roll(image, 1, axis=0), np.roll(text, 1, axis=0)
    interaction = head.score(image, text) + head.score(*shifted)
    interaction = interaction - head.score(shifted[0], text) - head.score(image, shifted[1])
    if kind in ADDITIVE_KINDS:
        assert np.abs(interaction).max() < 1e-12
        a, b, c = additive_parts(image, text, *additive_weights(kind, weights))
        np.testing.assert_allclose(a + b + c, head.score(image, text), atol=1e-12)
    else:
        assert np.abs(interaction).max() > 0.1


def test_a_head_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no head of kind 'tensor'"):
        fusion_head("tensor", {})
