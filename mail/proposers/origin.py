"""What a proposer's initial or imported weights saw, where their file or folder tells it."""

import hashlib
import os

from mail.data import files
from mail.data.origins import Origin
from mail.data.published_origins import origin_of_checkpoint, origin_of_file
from mail.proposers.folder import ProposerFolder


def origin_of_weights(path: str) -> tuple[str, Origin] | None:
    """What they are called, and what they saw; None if they do not tell.

    Args:
        path: of a state dict (one that torchvision published, whatever it is called now; a PROPOSER's
            `model.safetensors`), or of a folder (a Mask2Former that is called as it was published).
    """
    if files.is_folder(path):
        return origin_of_checkpoint(path)
    filesystem, where = files.resolve(path)
    if not files.exists(filesystem, where):
        return None
    sha256 = hashlib.sha256(files.read_bytes(filesystem, where)).hexdigest()
    if files.exists(filesystem, f"{os.path.dirname(where)}/proposer.json"):
        folder = ProposerFolder.read(os.path.dirname(path))
        if folder.weights_sha256 == sha256:
            return folder.proposer_id, folder.origin
    return origin_of_file(sha256)
