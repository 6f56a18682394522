"""What MLflow runs to load an exported model: this script, which travels with it; no pickle."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Judges the rows of a table as ``launch/predict.py`` does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights and the tokenizer that lie beside this script."""
        from cxr_ray.training.prediction import Predictor
        from cxr_ray.training.trained_model import open_exported

        self._predictor = Predictor(open_exported(Path(context.artifacts["model"])))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Answer a row a record; what a record has no answer to is None, with the reason."""
        from cxr_ray.data.new_records import encoded_records

        rows = list(self._predictor.predict(encoded_records(model_input)))
        answers = pd.DataFrame(rows, columns=self._predictor.columns)
        if not answers["reason"].any():
            return answers
        answers = answers.astype(object)  # NaN is no JSON
        return answers.where(answers.notna(), None)


set_model(ServedModel())
