"""The registered model: image bytes and text in, mask out. MLflow stores this file as source ("models from code").

    mlflow models serve -m models:/mail-ris@champion --env-manager local
    curl localhost:5000/invocations -H 'Content-Type: application/json' \\
        -d '{"dataframe_records": [{"image": "BASE64 OF A JPEG", "text": "woman in red on the left"}]}'
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class MailModel(PythonModel):
    """A `mail.inference.Predictor` with its bundled proposer, behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        from mail.inference import Predictor

        self.predictor = Predictor.from_pretrained(context.artifacts["model"])

    # without type hints: MLflow would check them instead of the signature, and cannot know a data frame's columns
    def predict(self, context, model_input, params=None):
        """One row per row of the input.

        Args:
            model_input: data frame with `image` (a file's bytes) and `text`.

        Returns:
            `size` [height, width] and `counts` (COCO compressed RLE of the mask at the image's resolution), `score`,
            `no_target_probability`.
        """
        from mail import rle

        frame = pd.DataFrame(model_input).reset_index(drop=True)
        rows: list[dict[str, Any]] = [{}] * len(frame)
        for image, group in frame.groupby("image", sort=False):  # an image once, whatever is asked about it
            found = self.predictor.predict(bytes(image), group["text"].tolist())
            for position, answer in zip(group.index, found, strict=True):
                rows[position] = {
                    **rle.to_json(rle.encode(answer.mask)),
                    "score": answer.score,
                    "no_target_probability": answer.no_target_probability,
                }
        return pd.DataFrame(rows)


set_model(MailModel())
