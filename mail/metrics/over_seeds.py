"""What the same training with several seeds says of a figure."""

import statistics
from collections.abc import Sequence

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t, n - 1 degrees of freedom
NORMAL_95 = 1.96


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval over seeds (Student's t); NaN for a single one."""
    if len(values) < 2:
        return values[0], float("nan")
    quantile = T_95.get(len(values), NORMAL_95 if len(values) > 30 else T_95[8])  # between them a little too wide
    return statistics.fmean(values), quantile * statistics.stdev(values) / len(values) ** 0.5
