"""Metrics of referring image segmentation: numpy and run lengths only, no torch (but to read its files), no cluster.

`Accumulator` counts pixels per expression, `measure` turns counts into oIoU, mIoU, Prec@X and gRefCOCO's figures,
`slice_expressions` says where a model is weak, `selection` whether by what was proposed or by what was chosen of it,
`paired_bootstrap` whether two models differ, and `explaining` how a stated number was counted.
"""

from mail.metrics.accumulator import Accumulator, Counts, count
from mail.metrics.bootstrap import Difference, paired_bootstrap
from mail.metrics.joining import read_any_predictions
from mail.metrics.measure import Measures, measure
from mail.metrics.predictions import read_predictions, write_predictions
from mail.metrics.protocols import get_protocol
from mail.metrics.report import MetricsReport, read_per_expression
from mail.metrics.scoring import score_predictions
from mail.metrics.slices import slice_expressions

__all__ = [
    "Accumulator",
    "Counts",
    "Difference",
    "Measures",
    "MetricsReport",
    "count",
    "get_protocol",
    "measure",
    "paired_bootstrap",
    "read_any_predictions",
    "read_per_expression",
    "read_predictions",
    "score_predictions",
    "slice_expressions",
    "write_predictions",
]
