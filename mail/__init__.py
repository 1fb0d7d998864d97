"""MaIL: referring image segmentation with one transformer over words, image patches and instance masks.

Everything here runs without a cluster and imports neither ray nor mlflow; the stages that do are in `pipelines`.
"""

__version__ = "0.1.0"
