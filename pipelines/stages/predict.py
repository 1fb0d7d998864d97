"""`mail-ris predict`: any photos and one expression -> mask PNG, overlay, or RLE."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image

from mail import rle
from mail.data import files
from mail.errors import UserError
from pipelines.options import Address, LocalPath, LocalTarget, ModelAddress
from pipelines.registry.models import resolve_model
from pipelines.stage import Stage
from pipelines.terminal import done, say


@dataclass(kw_only=True)
class Predict(Stage):
    """Segment what an expression names in a photo, at the photo's own resolution (after EXIF rotation)."""

    model: ModelAddress
    """MODEL: a folder, a checkpoint, or a registry address such as models:/mail-ris@champion."""

    image: tuple[LocalPath, ...]
    """Photo file, or several."""

    text: str
    """The referring expression, for example "woman in red on the left"."""

    out: LocalTarget
    """PNG for the mask (0 and 255); with several photos a folder, for one PNG named after each."""

    proposer: Address | None = None
    """PROPOSER folder that finds the instance masks (default: the one bundled with the model)."""

    overlay: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the photo with the mask drawn on it instead of the mask itself."""

    rle: LocalTarget | None = None
    """File for the masks as JSON lines as well: image, text, score, COCO run lengths, and how many word pieces of the
    text are unknown or cut off."""

    device: str | None = None
    """cpu or cuda (default: the GPU if there is one)."""

    def __post_init__(self) -> None:
        # callers in Python may name one photo
        self.image = (self.image,) if isinstance(self.image, str | Path) else tuple(self.image)
        super().__post_init__()

    def plan(self) -> dict[str, Any]:
        from mail.inference import BUNDLED_PROPOSER
        from mail.model.folder import check_model_folder

        self._check_text()
        folder = check_model_folder(resolve_model(self.model))
        bundled = folder / BUNDLED_PROPOSER
        return {
            "model": str(folder),
            "proposer": self.proposer or (str(bundled) if bundled.is_dir() else None),
            "files": {str(image): str(target) for image, target in self._targets().items()},
        }

    def run(self) -> Any:
        from mail.inference import Predictor, load_image
        from mail.report import overlay

        self._check_text()
        targets = self._targets()
        photos = {path: load_image(path) for path in targets} if len(targets) == 1 else {}
        predictor = Predictor.from_pretrained(resolve_model(self.model), self.proposer, self.device)
        if predictor.model.config.uses_instances and predictor.proposer is None:
            say("no proposer is bundled with the model: predicting without instance masks (name one with --proposer)")
        coverage = predictor.processor.coverage([self.text])
        if not coverage.complete:
            say(coverage.describe())
        lost = {"unknown_pieces": coverage.unknown_pieces, "cut_pieces": coverage.cut_pieces}
        lines, answers = [], []
        for path, target in targets.items():
            pixels = photos[path] if path in photos else load_image(path)
            answer = predictor.predict(pixels, self.text)[0]
            answers.append(answer)
            picture = overlay(pixels, answer.mask) if self.overlay else Image.fromarray(answer.mask).convert("L")
            data = io.BytesIO()
            picture.save(data, "PNG")
            files.write_bytes(*files.resolve(target), data.getvalue())
            row = {"image": str(path), "text": self.text, "score": round(answer.score, 6), **lost}
            lines.append(json.dumps({**row, "rle": rle.to_json(rle.encode(answer.mask))}))
            share = answer.mask.mean()
            found = f"{share:.1%} of the image, score {answer.score:.2f}" if share else "nothing that the words name"
            done(f"{path}: {found} -> {target}")
        if self.rle is not None:
            files.write_bytes(*files.resolve(self.rle), "".join(line + "\n" for line in lines).encode())
        return answers

    def _check_text(self) -> None:
        from mail.model import check_text

        if not self.text.strip():
            raise UserError('--text is empty: say what to segment, for example --text "the left cup"')
        try:
            check_text(self.text)
        except UserError as error:
            raise UserError(f"--text {error}") from None

    def _targets(self) -> dict[Path, Path]:
        """Where the picture of each photo goes. Raises UserError where it cannot be written, or is the user's."""
        targets = self._named_targets()
        outputs = {f"the mask of {image.name}:": target for image, target in targets.items()}
        files.check_apart(outputs, {f"--image {image}": image for image in targets})
        beside = {image.parent.resolve() for image in targets}
        for target in targets.values():
            if target != self.out and target.exists() and target.parent.resolve() in beside:
                raise UserError(f"{target} is there already, beside the photos: choose another folder for --out")
        for file in (*targets.values(), *([] if self.rle is None else [self.rle])):
            files.check_file_writable(file)
        return targets

    def _named_targets(self) -> dict[Path, Path]:
        """The same, without a look at what is there."""
        if missing := [p for p in self.image if not p.is_file()]:
            raise UserError(f"there is no file {missing[0]}" + (f" ({len(missing)} missing)" if missing[1:] else ""))
        if len(set(self.image)) == 1:
            if self.out.is_dir():
                return {self.image[0]: self.out / f"{self.image[0].stem}.png"}
            if self.out.suffix.lower() != ".png":
                raise UserError(f"--out {self.out} must end in .png (masks are written without loss), or be a folder")
            return {self.image[0]: self.out}
        if self.out.suffix.lower() == ".png":
            raise UserError(f"--out {self.out} must be a folder, for there are {len(set(self.image))} photos")
        targets: dict[Path, Path] = {}
        for path in dict.fromkeys(self.image):
            target = self.out / f"{path.stem}.png"
            if target in targets.values():
                raise UserError(f"two photos are called {path.stem}: predict them one by one")
            targets[path] = target
        return targets
