"""A classifier as an ONNX graph from pixels and token ids to probabilities, held against torch."""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import Batch, pad_texts, standardise
from cxr_ray.errors import InputError, TrialError
from cxr_ray.models.classifier import Classifier

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("logit", "probability")
TOLERANCE = 1e-4
CHECKED = 100
# Batches of several sizes and lengths: the graph must hold neither of its example's.
_BATCHES = (1, 2, 5, 13, 29, 50)


@dataclass(frozen=True)
class OnnxCheck:
    """How far the graph's logits lie from torch's.

    Attributes
    ----------
    records
        Prepared records that both were given.
    largest
        Largest absolute difference of a logit.
    """

    records: int
    largest: float


def require_onnx() -> None:
    """Refuse to go on without the packages of the extra ``export``.

    Raises
    ------
    InputError
        If one is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}, not installed here: pip install 'cxr-ray[export]', "
            "or leave the graph out with --no-onnx"
        )


class _Graph(nn.Module):
    """What is exported: the classifier, from pixels to the logistic function of its logits."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        attention: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B,) and probabilities (B,)."""
        pixels = None if image is None else standardise(image, torch.float32)
        no_label = torch.empty(0)
        logits = self.model(Batch(no_label, pixels, tokens, attention))
        return logits, logits.sigmoid()


def write_onnx(model: Classifier, size: int, max_tokens: int, path: Path) -> None:
    """Write a classifier as an ONNX graph in float32.

    Parameters
    ----------
    model
        On the CPU, in evaluation mode and float32.
    size
        Of the images, in pixels.
    max_tokens
        The longest text.
    path
        The file; weights beyond ONNX's limit of 2 GB lie beside it.

    Notes
    -----
    Inputs, as far as the model reads them: ``image`` (batch, size, size) uint8; ``tokens`` and
    ``attention`` (batch, length) int64. Outputs: ``logit`` and ``probability``, (batch,) float32.
    """
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=max_tokens)
    example: dict[str, Tensor] = {}
    dynamic: dict[str, dict[int, torch.export.Dim]] = {}
    if "image" in model.encoders:
        example["image"] = torch.zeros(2, size, size, dtype=torch.uint8)
        dynamic["image"] = {0: batch}
    if "text" in model.encoders:
        shortest = min(7, max_tokens - 1)
        for name in ("tokens", "attention"):
            example[name] = torch.ones(2, shortest, dtype=torch.int64)
            dynamic[name] = {0: batch, 1: length}
    with torch.no_grad(), warnings.catch_warnings():
        # Of names of dimensions that two inputs share.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Graph(model).eval(),
            kwargs=example,
            input_names=list(example),
            output_names=list(OUTPUTS),
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    # Where in whose files each node was made is nobody's business.
    graph = program.model.graph
    program.model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in graph.inputs:
        value.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(path)


def check_onnx(
    path: Path, model: Classifier, arm: ArmData, records: Sequence[int] | NDArray[np.int64]
) -> OnnxCheck:
    """Give prepared records to the graph and to torch, in batches of several sizes.

    Raises
    ------
    TrialError
        If a logit differs by more than ``TOLERANCE``, or a probability is not the logit's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    differences, start = [0.0], 0
    for number in _BATCHES:
        rows = arm.row[np.asarray(records)[start : start + number]]
        start += number
        if len(rows) == 0:
            break
        given: dict[str, NDArray[np.generic]] = {}
        if arm.images is not None:
            given["image"] = arm.images[rows]
        if arm.text is not None:
            given["tokens"], given["attention"] = pad_texts(arm.text, rows)
        with torch.inference_mode():
            read = {name: torch.from_numpy(np.array(value)) for name, value in given.items()}
            expected, _ = _Graph(model)(**read)
        logit, probability = session.run(list(OUTPUTS), given)
        differences.append(float(np.abs(logit - expected.numpy()).max()))
        if not np.allclose(probability, 1 / (1 + np.exp(-logit)), atol=TOLERANCE):
            raise TrialError(f"{path.name}: its probabilities are not those of its logits")
    largest = float(np.max(differences))  # where one is no number it is none either
    if not largest <= TOLERANCE:
        raise TrialError(
            f"{path.name}: a logit of the ONNX graph is {largest:g} from torch's, more than "
            f"{TOLERANCE:g}; leave it out with --no-onnx"
        )
    return OnnxCheck(min(len(records), sum(_BATCHES)), largest)
