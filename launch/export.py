"""Write a trained model as others can load it: safetensors, MLflow, ONNX, and a model card."""

import argparse
from pathlib import Path

from terminal import DONE, TerminalProgress, run_script, script_parser

EXAMPLE = """examples:
  python launch/export.py runs/trials/0a1b2c3d4e5f6789 exported
  python launch/export.py s3://bucket/runs/trials/0a1b2c3d4e5f6789 exported --no-onnx
  mlflow models predict -m exported/mlflow --env-manager local -i records.json

docs/export.md says what lies in the folder and how to load it."""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument("trial", metavar="TRIAL_DIR", help="a folder or URI of STORAGE/trials")
    parser.add_argument("out", metavar="OUT", help="a folder that does not exist, or is empty")
    parser.add_argument(
        "--no-onnx", action="store_true", help="leave ONNX out, which needs cxr-ray[export]"
    )
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.sweep.places import find_place
    from cxr_ray.training.trained_model import check_trial

    place = find_place(options.trial)
    check_trial(place.storage, place.folder)
    from cxr_ray.export.export import export_trial

    progress, out = TerminalProgress(), Path(options.out)
    exported = export_trial(
        place.storage, place.folder, out, onnx=not options.no_onnx, progress=progress.phase
    )
    for sentence in exported.warnings:
        progress.warn(sentence)
    progress.close()
    print(f"model:  {out / 'model'}")
    print(f"MLflow: mlflow models predict -m {out / 'mlflow'} --env-manager local -i FILE.json")
    if exported.onnx is not None:
        print(
            f"ONNX:   {out / 'onnx' / 'model.onnx'}, at most {exported.onnx.largest:.1e} from "
            f"torch's logits on {exported.onnx.records} records"
        )
    print(f"card:   {out / 'README.md'}")
    return DONE


if __name__ == "__main__":
    run_script(main, build_parser())
