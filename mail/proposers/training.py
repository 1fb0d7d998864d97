"""Training a Mask R-CNN from COCO-format instances: which image comes when, targets, the step. Knows nothing of Ray."""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pyarrow import fs
from torch import nn

from mail import rle
from mail.data import files
from mail.data.coco import CocoInstance, CocoInstances
from mail.data.image_keys import ImageContent
from mail.data.images import ImageError, open_image, stored_size, turn_upright, upright_rgb
from mail.data.ingest import Progress
from mail.data.orientation import AS_SHOWN, ExifAnnotated, Placement, place
from mail.data.photos import PhotoFolder
from mail.data.problems import Problems
from mail.errors import UserError

AHEAD = 4  # batches that are decoded while the network works
READERS = 16  # threads that wait for the beginnings of files
HEADER_BYTES = 2**16  # where a JPEG has its size and its EXIF block, nearly always


@dataclass
class InstanceImages:
    """Photos and their instances, as a network is trained and measured on them.

    Attributes:
        coco: the instances file.
        folder: where the photos lie (local or s3://).
        categories: COCO category ids in the order of the network's classes; None: all instances are one class.
        exif_annotated: how photos that EXIF turns were annotated, where their size does not tell.
    """

    coco: CocoInstances
    folder: str
    categories: tuple[int, ...] | None = None
    exif_annotated: ExifAnnotated = AS_SHOWN
    _turns: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # of the photos that were read

    @cached_property
    def photos(self) -> PhotoFolder:
        return PhotoFolder(self.folder, self.coco.path)

    def image(self, image_id: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises UserError if the file is missing, broken, or of another size."""
        return np.array(self.read(image_id)[1])

    def read(self, image_id: int) -> tuple[bytes, Image.Image]:
        """The file's bytes and `image`, as a picture of Pillow."""
        name = self.coco.images[image_id].file_name
        try:
            data = self.photos.read(name)
            placed = self._place(image_id, *stored_size(data))
            self._turns[image_id] = placed.turn
            return data, upright_rgb(open_image(data))
        except FileNotFoundError:
            raise UserError(
                f"{self.folder} has no file {self.photos.explain(name)}, which {self.coco.path} lists"
            ) from None
        except ImageError as error:
            raise UserError(f"{self.folder}/{name}: {error}") from None

    def find_assumed(
        self, image_ids: Sequence[int], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[str]:
        """Names of the photos for which `exif_annotated` decides; reads the beginning of each file.

        Args:
            progress: called with (photos looked at, photos in all).

        Raises:
            UserError: a photo is broken at its very beginning, or of another size than annotated.
        """
        filesystem, root = files.resolve(self.folder)

        def look(image_id: int) -> str | None:
            name = self.coco.images[image_id].file_name
            try:
                placed = self._place(image_id, *_stored_size(filesystem, f"{root}/{name}"))
            except ImageError as error:
                raise UserError(f"{self.folder}/{name}: {error}") from None
            return None if placed.told else name

        with ThreadPoolExecutor(READERS) as pool:
            found = []
            for done, name in enumerate(pool.map(look, image_ids), start=1):
                progress(done, len(image_ids))
                found += [] if name is None else [name]
            return found

    def _place(self, image_id: int, stored: tuple[int, int], orientation: int) -> Placement:
        image = self.coco.images[image_id]
        placed = place(stored, orientation, (image.height, image.width), self.exif_annotated)
        if placed is None:
            raise UserError(
                f"{self.folder}/{image.file_name} has {stored[0]} x {stored[1]} pixels, {self.coco.path} says "
                f"{image.height} x {image.width}: the photos are not the ones that were annotated"
            )
        return placed

    def contents(self, image_ids: Sequence[int], progress: Progress | None = None) -> list[ImageContent]:
        """What the leak firewall compares of each photo: reads and decodes it. Raises UserError as `image`."""
        found = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for content in pool.map(lambda image_id: ImageContent.of(*self.read(image_id)), image_ids):
                found.append(content)
                if progress is not None:
                    progress(len(found), len(image_ids))
        return found

    def check(self, image_ids: Sequence[int]) -> None:
        """Raises UserError where photos are missing; none is opened."""
        problems = Problems()
        self.photos.find((self.coco.images[i].file_name for i in image_ids), problems)
        problems.raise_if_any(self.coco.path, "Name the folder of its photos with --images")

    def upright(self, instance: CocoInstance) -> rle.RLE:
        """Run lengths of an instance on the upright photo, which `image` has read; ValueError if it has no mask."""
        mask, turn = self.coco.mask(instance), self._turns.get(instance.image_id, 1)
        return mask if turn == 1 else rle.encode(turn_upright(rle.decode(mask), turn))

    def masks(self, image_id: int) -> tuple[list[rle.RLE], np.ndarray]:
        """Upright masks and classes (1 .. C, int64) of those of a photo's instances that can be learned."""
        masks, classes = [], []
        for instance in self.coco.instances_of(image_id):
            try:
                masks.append(self.mask(instance))
            except ValueError:
                continue  # one broken polygon of thousands: the image is still worth learning from
            classes.append(1 + self.categories.index(instance.category_id) if self.categories else 1)
        return masks, np.array(classes, np.int64)

    def mask(self, instance: CocoInstance) -> rle.RLE:
        """The mask that an instance is learned by; ValueError, without a name or number, says why it cannot be."""
        if instance.is_crowd:
            raise ValueError("are crowds")
        if self.categories is not None and instance.category_id not in self.categories:
            raise ValueError("are of categories that the file does not list")
        try:
            mask = self.upright(instance)
        except ValueError as error:
            raise ValueError(f"have no usable mask: {error}") from None
        if rle.area(mask) == 0:
            raise ValueError("have masks without a pixel")
        return mask

    def example(self, image_id: int, flip: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What torchvision's detectors train on: float image (3, H, W) in 0..1 and boxes, labels, masks (K, H, W)."""
        pixels = self.image(image_id)
        listed, classes = self.masks(image_id)
        height, width = pixels.shape[:2]
        masks = rle.decode_many(listed, (height, width))
        boxes = np.array([rle.bbox(mask) for mask in listed], np.float32).reshape(-1, 4)  # x, y, width, height
        if flip:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2]
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(classes),
            "masks": torch.from_numpy(np.ascontiguousarray(masks)),
        }
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
        return image, target


def _stored_size(filesystem: fs.FileSystem, path: str) -> tuple[tuple[int, int], int]:
    """`stored_size` of a file without reading it all, where its format puts everything first."""
    if isinstance(filesystem, fs.LocalFileSystem):
        return stored_size(Path(path))
    with filesystem.open_input_stream(path) as stream:
        head = stream.read(HEADER_BYTES)
    if head.startswith(b"\xff\xd8"):
        with contextlib.suppress(ImageError):
            return stored_size(head)
    return stored_size(files.read_bytes(filesystem, path))


def training_batches(
    images: InstanceImages,
    image_ids: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]], None, None]:
    """This worker's share of one global batch a step, without end, decoded ahead in threads.

    Step s takes images s * batch_size ... of an endless sequence of seeded permutations, so that the global batches are
    the same for any number of workers, and a resumed run goes on where it stopped.
    """

    @lru_cache(maxsize=2)
    def order_of(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(image_ids))

    def share(step: int) -> list[tuple[int, bool]]:
        chosen = []
        for position in range(step * batch_size + rank, (step + 1) * batch_size, world_size):
            epoch, index = divmod(position, len(image_ids))
            flip = bool(np.random.default_rng((seed, position)).integers(2))
            chosen.append((image_ids[order_of(epoch)[index]], flip))
        return chosen

    def load(step: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
        examples = [images.example(image_id, flip) for image_id, flip in share(step)]
        return [image for image, _ in examples], [target for _, target in examples]

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = [pool.submit(load, first_step + i) for i in range(AHEAD)]
        step = first_step + AHEAD
        while True:
            batch = waiting.pop(0)
            waiting.append(pool.submit(load, step))
            step += 1
            yield batch.result()


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress))))


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: list[torch.Tensor],
    targets: list[dict[str, torch.Tensor]],
    *,
    lr: float,
    device: torch.device,
    max_norm: float = 10.0,
) -> dict[str, float]:
    """One step of the optimizer on this worker's share; the losses by name and their sum as `loss`.

    Raises:
        UserError: the loss is not a number (the learning rate is too high).
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        losses = network([i.to(device) for i in images], [{k: v.to(device) for k, v in t.items()} for t in targets])
    loss = sum(losses.values())
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss of the proposer became {float(loss.detach())}: begin anew with a lower --learning-rate, and "
            "another --out"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), max_norm)
    optimizer.step()
    return {"loss": float(loss.detach()), **{k: float(v.detach()) for k, v in losses.items()}}
