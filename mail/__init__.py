"""MaIL: referring image segmentation with one transformer over words, image patches and instance masks.

Everything here runs without a cluster and imports neither ray nor mlflow; the stages that do are in `pipelines`.

    mail.predict("photo.jpg", "woman in red on the left", model="runs/demo/model").mask
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mail.inference import Predictor, predict

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "predict"]


def __getattr__(name: str) -> Any:
    # torch is loaded when somebody predicts, not when somebody asks for the version
    if name in ("Predictor", "predict"):
        from mail import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
