"""The options of a precomputation: flags of `mail-ris precompute`, arguments for whoever precomputes in Python."""

from dataclasses import dataclass

from pipelines.options import Address, Options, Target


@dataclass(kw_only=True)
class PrecomputeConfig(Options):
    """Which images, which proposer, into which mask table."""

    data: Address
    """The data store whose images get masks (local or s3://)."""

    proposer: Address
    """Folder of the proposer, as `train-proposer` and `import-proposer` write it."""

    masks: Target
    """The mask table (local or s3://); made if there is none."""

    score_threshold: float | None = None
    """Keep detections with score >= this (default: the proposer's; another value makes another proposer_id)."""

    max_instances: int | None = None
    """Keep at most so many masks an image (default: the proposer's; another value makes another proposer_id)."""

    batch_size: int | None = None
    """Images the proposer takes at once (default: 16 on a CPU, 8 on a GPU)."""

    actors: int | None = None
    """Copies of the proposer (default: one a GPU, or one a CPU core)."""

    max_pixels: int = 100_000_000
    """Images whose header declares more are not decoded but recorded as too_large."""

    max_error_rate: float = 0.05
    """If more than this share of the images of this run cannot be used, the run fails, after committing everything."""

    commit_every: float = 60.0
    """Seconds between commits; the first ones come sooner."""

    allow_leaky: bool = False
    """Go on although the proposer saw evaluation images, or nobody knows; what is made with it is labelled leaky."""
