"""Let a trained model judge one record, or a table of them."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terminal import DONE, FAILED, TerminalProgress, run_script, script_parser

if TYPE_CHECKING:
    from cxr_ray.data.new_records import NewRecord
    from cxr_ray.training.prediction import Predictor

EXAMPLE = """examples:
  python launch/predict.py runs/trials/0a1b2c3d4e5f6789 --image film.jpg --text report.txt
  python launch/predict.py runs/trials/0a1b2c3d4e5f6789 --image film.jpg --text "Fever and cough."
  python launch/predict.py runs/trials/0a1b2c3d4e5f6789 --table records.csv --out answers.csv
  python launch/predict.py runs/trials/0a1b2c3d4e5f6789 --image film.jpg --explain why.png

A table has the columns image (a file below the table's folder), text (the report), or both, and may
have record (a name). docs/prediction.md says what the answer's columns mean.
exit code: 0 done, 2 bad input, 1 no record could be judged"""


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, EXAMPLE)
    parser.add_argument(
        "trial",
        metavar="TRIAL_DIR",
        help="a folder or URI of STORAGE/trials, or a folder that launch/export.py wrote",
    )
    parser.add_argument("--image", metavar="FILE", help="a radiograph: JPEG, PNG, TIFF")
    parser.add_argument("--text", metavar="FILE|STRING", help="its report")
    parser.add_argument("--table", metavar="FILE.csv", help="many records, a row each")
    parser.add_argument(
        "--out", metavar="FILE.csv", help="where a table's answers go (default: on the terminal)"
    )
    parser.add_argument(
        "--explain",
        metavar="FILE.png|DIR",
        help="draw what of image and text moved the answer; for a table, a picture a record in DIR",
    )
    return parser


def main(options: argparse.Namespace) -> int:
    from cxr_ray.errors import InputError

    if bool(options.table) == bool(options.image or options.text):
        raise InputError("give either --image and --text of one record, or --table of many")
    if options.out and not options.table:
        raise InputError("--out goes with --table; one record's answer is printed")
    if options.explain:
        _check_explain(Path(options.explain), whole_table=bool(options.table))
    from cxr_ray.data.new_records import one_record, read_table

    records = (
        read_table(options.table) if options.table else [one_record(options.image, options.text)]
    )
    from cxr_ray.sweep.places import find_place
    from cxr_ray.training.trained_model import is_exported, open_exported, open_trial

    exported = Path(options.trial, "model")
    if is_exported(exported):
        model = open_exported(exported)
    else:
        place = find_place(options.trial)
        model = open_trial(place.storage, place.folder)
    from cxr_ray.training.prediction import Predictor  # torch, after what can be refused

    predictor = Predictor(model)
    progress = TerminalProgress()
    rows = []
    for row in predictor.predict(records):
        rows.append(row)
        if options.table:
            progress.preparing("judging records", len(rows), len(records))
    if options.explain:
        folder = Path(options.explain)
        if options.table:
            folder.mkdir(mode=0o700, exist_ok=True)
        for number, (record, row) in enumerate(zip(records, rows, strict=True), 1):
            if not row["reason"]:
                name = _safe_name(number, record.name)
                _draw(predictor, record, folder / name if options.table else folder)
            if options.table:
                progress.preparing("drawing records", number, len(records))
    progress.close()
    unanswered = [row for row in rows if row["reason"]]
    if not options.table:
        if unanswered:
            raise InputError(f"{options.image or '--text'}: {rows[0]['reason']}")
        print(_describe(rows[0], predictor))
        if options.explain:
            print(f"picture: {options.explain}")
        return DONE
    import pandas as pd

    answers = pd.DataFrame(rows, columns=predictor.columns)
    answers.to_csv(options.out or sys.stdout, index=False, float_format="%.6g")
    if options.out:
        print(f"answers: {options.out}")
    if options.explain:
        # Answers on the terminal are a CSV, and may go into a file or another program.
        print(f"pictures: {options.explain}", file=sys.stdout if options.out else sys.stderr)
    if unanswered:
        progress.warn(f"{len(unanswered)} of {len(rows)} records have no answer, and a reason")
    return DONE if len(unanswered) < len(rows) else FAILED


def _check_explain(path: Path, *, whole_table: bool) -> None:
    """Refuse places that no picture can be written to, before a model is loaded."""
    from cxr_ray.errors import InputError

    if not path.parent.is_dir():
        raise InputError(f"--explain {path}: there is no folder {path.parent}")
    if whole_table and path.exists() and not path.is_dir():
        raise InputError(f"--explain {path}: with --table it should be a folder, and is a file")
    if not whole_table and (path.suffix.lower() != ".png" or path.is_dir()):
        raise InputError(f"--explain {path}: should name a .png file, as in why.png")


def _safe_name(number: int, record: str) -> str:
    """Name a record's picture: its row tells it apart, whatever characters its name has."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", record)[:60]
    return f"{number:05d}-{name}.png"


def _draw(predictor: "Predictor", record: "NewRecord", path: Path) -> None:
    from cxr_ray.report.explanation_picture import draw_explanation, save_explanation

    label, reads = predictor.config.cohort.label.lower(), predictor.config.fusion.modalities
    save_explanation(draw_explanation(predictor.explain(record), reads, label), path)


def _describe(row: dict[str, Any], predictor: "Predictor") -> str:
    """Lay one answer out."""
    label = predictor.config.cohort.label.lower()
    called = "at or above" if row["positive_at_val"] else "below"
    lines = [
        f"probability of {label}: {row['probability']:.3f}, {called} the threshold of highest "
        f"F1 on validation, {row['threshold_at_val']:.3f}",
        f"recalibrated on validation ({predictor.recalibration.method}): "
        f"{row['probability_recalibrated']:.3f}",
    ]
    for name in ("image", "text"):
        if f"{name}_contribution" in row:
            share = row[f"{name}_contribution"]
            lines.append(f"the {name} moves the logit by {share:+.3f} from the average {name}'s")
    if row["missing"]:
        lines.append(f"missing: {row['missing']}; calibration and threshold do not hold without it")
    lines.append("research software, no medical device")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main, build_parser())
