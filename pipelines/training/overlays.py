"""Pictures of a training's answers as it goes: the same few validation expressions, every few validations.

    OUT/overlays/step-0000300/0.png ...

They lie in the run's folder before MLflow is told of them, so that none is lost with a driver, or with a server that is
away until the training has ended.
"""

import io
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image
from pyarrow import fs

from mail.data import files
from pipelines.registry.run_log import RunLog
from pipelines.terminal import say

SETS = 10  # of pictures in a run, about, where nothing else is asked for


def default_every(steps: int, checkpoint_every: int) -> int:
    """Validations from one set of pictures to the next, so that a run has about `SETS` of them."""
    return max(1, -(-steps // (checkpoint_every * SETS)))


class Overlays:
    """The pictures of a run.

    Args:
        folder: OUT/overlays.
    """

    def __init__(self, folder: str):
        self._filesystem, self._root = files.resolve(folder)

    def save(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Writes RGB pictures (H, W, 3) uint8 of a step."""
        for number, picture in enumerate(pictures):
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "PNG")
            files.write_bytes(self._filesystem, f"{self._root}/step-{step:07d}/{number}.png", data.getvalue())

    def found(self) -> list[tuple[int, int, str]]:
        """Step, number and path of each picture, in order."""
        selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        paths = [f.path for f in self._filesystem.get_file_info(selector)]
        matches = [(m, p) for p in paths if (m := re.search(r"/step-(\d+)/(\d+)\.png$", p))]
        return sorted((int(m[1]), int(m[2]), path) for m, path in matches)

    def log(self, log: RunLog, step: int | None = None) -> None:
        """Logs the pictures of a step, or of all; each is read when MLflow takes it, and left out where it has it."""
        try:
            found = self.found()
        except OSError as error:  # the store is away: the next start logs them
            say(f"pictures are not logged for now: {error}")
            return
        for at, number, path in found:
            if step in (None, at):
                log.image(partial(self._read, path), f"sample_{number}", at)

    def _read(self, path: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(files.read_bytes(self._filesystem, path))))
