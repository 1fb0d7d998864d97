"""`mail-ris precompute --data STORE --proposer PROPOSER --masks TABLE`: the instance masks of every image, once.

The same command again computes what is still pending, and nothing where nothing is.
"""

from dataclasses import dataclass
from typing import Any

from pipelines.precomputing.config import PrecomputeConfig
from pipelines.stage import Stage


@dataclass(kw_only=True)
class Precompute(PrecomputeConfig, Stage):
    """Data store + proposer -> rows in the mask table; what is there already is not computed again."""

    def plan(self) -> dict[str, Any]:
        from pipelines.precomputing.precompute import Precomputation

        return Precomputation.open(self).describe()

    def run(self) -> dict[str, Any]:
        """Computes what is pending; what comes back is `pipelines.precomputing.precompute.Precomputation.run`'s."""
        from pipelines.precomputing.precompute import Precomputation

        return Precomputation.open(self).run()
