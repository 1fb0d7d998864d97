"""What makes a MODEL folder, or a hub's copy of it, one that transformers' users know: code that finds the classes, and
a model card."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CODE, CARD = "mail_ris.py", "README.md"
SHIM = '''"""The classes of this model, for `trust_remote_code=True`; they are those of the package mail-ris."""

try:
    from mail.model import MailConfig, MailForReferringSegmentation, MailProcessor
except ImportError as error:
    raise ImportError("this model needs the package mail-ris, which is not installed here") from error

__all__ = ["MailConfig", "MailForReferringSegmentation", "MailProcessor"]
'''
CLASSES = {  # what a file says of the classes that read it
    "config.json": {"AutoConfig": "MailConfig", "AutoModel": "MailForReferringSegmentation"},
    "processor_config.json": {"AutoProcessor": "MailProcessor"},
}
TEXT = """---
library_name: transformers
pipeline_tag: image-segmentation
tags: [referring-image-segmentation, mail]
---

# {name}

Segments what a sentence names in an image. One transformer over words, image patches and instance masks (MaIL,
arXiv 2111.10747), written by `mail-ris train`.

```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
image = Image.open("photo.jpg").convert("RGB")
outputs = model(**processor(image, "woman in red on the left"))
(found,) = processor.post_process_instance_segmentation(outputs, target_sizes=[image.size[::-1]])
found["masks"], found["boxes"], found["scores"]
```

{reads} `trust_remote_code` needs the package mail-ris.

| | |
|---|---|
{rows}

Where all of it comes from is in `lineage.json`; `mail-ris models audit FOLDER` says what each ingredient has seen. The
licences of the data, of the photos and of pre-trained weights go on to hold for what was learned from them.
"""
MASKS = "It answers from the pixels alone without `proposals=`, and better with those of its proposer."
NO_MASKS = "It reads no instance masks."


class FoundByTransformers:
    """Comes before a base class of transformers: what it saves, or pushes to a hub, says which class reads it."""

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As the base class has it."""
        if push_to_hub:
            raise ValueError("save_pretrained(push_to_hub=True) is not known here: call push_to_hub(NAME)")
        saved = super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]  # of the class beside it
        folder = Path(save_directory)
        for name, classes in CLASSES.items():
            if (path := folder / name).exists():
                known = {auto: f"{CODE.removesuffix('.py')}.{own}" for auto, own in classes.items()}
                path.write_text(json.dumps(json.loads(path.read_bytes()) | {"auto_map": known}, indent=2) + "\n")
        (folder / CODE).write_text(SHIM)
        return saved


def describe_folder(folder: Path, lineage: Mapping[str, Any], scores: Mapping[str, Any] | None = None) -> None:
    """Writes the card into a folder that `save_pretrained` has written.

    Args:
        lineage: of the model. scores: of the validation that its weights were saved after.
    """
    (folder / CARD).write_text(card(lineage, scores))


def card(lineage: Mapping[str, Any], scores: Mapping[str, Any] | None = None) -> str:
    """The model card. It has names and digests, and no addresses: those are of who trained it."""
    config = lineage.get("config") or {}
    store, proposer = lineage.get("data_store") or {}, lineage.get("proposer") or {}
    label = {True: "leaky: what it is made of saw images of an evaluation split", False: "clean"}
    rows = {
        "trained on": store and f"{store['name']}, split {config.get('split')}, digest {str(store['digest'])[:12]}",
        "instance masks of": proposer.get("id"),
        "begun with": _name((lineage.get("encoder") or {}).get("name") or ""),
        "gone on from": str((lineage.get("parent") or {}).get("digest") or "")[:12],
        "evaluation": label.get(lineage.get("leaky")),  # type: ignore[arg-type]
        "validation while it was trained": _scores(scores),
        "code": lineage.get("code_version"),
    }
    given = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items() if value)
    reads = (config.get("network") or {}).get("mask_modality") != "none"
    return TEXT.format(name=_cell(config.get("name") or "mail-ris"), reads=MASKS if reads else NO_MASKS, rows=given)


def _scores(scores: Mapping[str, Any] | None) -> str:
    names = [name for name in ("oIoU", "mIoU", "prec_50") if name in (scores or {})]
    shown = ", ".join(f"{name} {scores[name]:.4f}" for name in names) if scores else ""
    return f"{shown} on {scores['expressions']} expressions, which is no test" if shown and scores else ""


def _name(address: str) -> str:
    """A name on a hub as it is; of a folder its own name."""
    return address.rstrip("/").rpartition("/")[2] if address.startswith("/") or "://" in address else address


def _cell(value: Any) -> str:
    """Text that stays in its cell."""
    return " ".join(str(value).replace("|", "/").split())
