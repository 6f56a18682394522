"""An exported model in MLflow's format, for ``mlflow.pyfunc`` and ``mlflow models``."""

import base64
import io
import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cxr_ray
from cxr_ray.tracking.mlflow_tracker import import_mlflow

# What judging imports, and no more: neither Ray nor Optuna.
REQUIREMENTS = (
    *("mlflow", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml", "safetensors"),
    *("scipy", "tokenizers", "torch", "torchvision", "transformers"),
)
EXAMPLE_TEXT = (
    "INDICATION: Fever and cough.\n\nFINDINGS: The lungs are clear.\n\n"
    "IMPRESSION: No acute cardiopulmonary process."
)
_TEXT_COLUMNS = ("record", "missing", "reason")


def save_mlflow_model(
    model: Path, target: Path, reads: Sequence[str], columns: Sequence[str]
) -> None:
    """Write an MLflow model that judges tables; the package's code travels with it.

    Parameters
    ----------
    model
        What `cxr_ray.training.trained_model.TrainedModel.save` wrote.
    target
        A folder that does not exist.
    reads
        The modalities that the model reads.
    columns
        Of an answer.
    """
    import_mlflow()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=False) for name in ("record", *reads)
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string if name in _TEXT_COLUMNS else DataType.double, name, required=False)
        for name in columns
    ]
    made_up = {"record": "1", "image": example_image(), "text": EXAMPLE_TEXT}
    mlflow.pyfunc.save_model(
        target,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"model": str(model)},
        code_paths=[str(Path(cxr_ray.__file__).parent)],
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=pd.DataFrame([{name: made_up[name] for name in ("record", *reads)}]),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
    )
    # Only the last part of these is read again, and the rest tells of this machine.
    saved = Model.load(target)
    flavor = saved.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    saved.save(target / "MLmodel")


def example_image() -> str:
    """Return a made-up picture, no radiograph, as the column ``image`` takes one."""
    from PIL import Image

    content = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()
