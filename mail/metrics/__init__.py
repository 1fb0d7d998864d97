"""Metrics of referring image segmentation: numpy and run lengths only, no torch and no cluster.

`Accumulator` counts pixels per expression, `measure` turns counts into oIoU, mIoU, Prec@X and gRefCOCO's figures,
`slice_expressions` says where a model is weak, and `paired_bootstrap` whether two models differ.
"""

from mail.metrics.accumulator import Accumulator, Counts, count
from mail.metrics.bootstrap import Difference, paired_bootstrap
from mail.metrics.measure import Measures, measure, precision_key
from mail.metrics.predictions import (
    Prediction,
    read_prediction_folder,
    read_predictions,
    write_predictions,
)
from mail.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from mail.metrics.report import MetricsReport, read_per_expression, write_per_expression
from mail.metrics.scoring import Coverage, score_predictions
from mail.metrics.slices import slice_expressions

__all__ = [
    "PROTOCOLS",
    "Accumulator",
    "Counts",
    "Coverage",
    "Difference",
    "Measures",
    "MetricsReport",
    "Prediction",
    "Protocol",
    "count",
    "get_protocol",
    "measure",
    "paired_bootstrap",
    "precision_key",
    "read_per_expression",
    "read_prediction_folder",
    "read_predictions",
    "score_predictions",
    "slice_expressions",
    "write_per_expression",
    "write_predictions",
]
