"""Looking at local weight files before anything rests on them, without torch."""

import zipfile
from functools import lru_cache
from pathlib import Path

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.errors import InputError


def check_weights(config: ExperimentConfig) -> None:
    """Refuse local pretrained weights that are cut off, or of another format than their name says.

    Whether their tensors fit the encoder is seen when it is built.

    Raises
    ------
    InputError
        Names the field and the file.
    """
    reads, image, text = config.fusion.modalities, config.image.weights, config.text.encoder
    if "image" in reads and image not in (None, "imagenet"):
        _check("image.weights", Path(str(image)))
    if "text" in reads and Path(text).is_dir():
        for pattern in ("*.safetensors", "*.bin"):
            for path in sorted(Path(text).glob(pattern)):
                _check("text.encoder", path)


def _check(field: str, path: Path) -> None:
    if path.is_file():
        state = path.stat()
        _check_file(field, path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _check_file(field: str, path: Path, size: int, modified: int) -> None:
    """Look at a file once, however many experiments name it."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise InputError(
                f"{field} {path}: no whole safetensors file ({error}); copy it again, or save it "
                "with save_pretrained or safetensors"
            ) from error
        return
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if size == 0 or (is_zip and not zipfile.is_zipfile(path)):
        raise InputError(f"{field} {path}: no whole file of torch.save; copy it again")
