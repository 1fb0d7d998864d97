"""Bit rot: a byte that changes, or an end that is lost, in anything that training reads is refused by name or harmless.

Harmless is what gives the very same content all the same; a file that was not needed for that is named by `verify`.
"""

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pyarrow import fs

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import verify as verify_masks
from mail.data.store import DataStore
from mail.data.store_upkeep import verify as verify_store
from mail.errors import UserError
from mail.inventory import write_inventory
from mail.model import MailForReferringSegmentation, MailProcessor, tokenizer_from_texts
from mail.model.folder import load_model
from mail.proposers import load_proposer
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.proposers.maskrcnn import build_network
from mail.training.checkpoint import load_optimizer, put_checkpoint, save_checkpoint, save_model
from mail.training.curves import Curves
from mail.training.going_on import load_newest
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings
from tests.boxes import make_boxes, micro_config

CHANGES = 40  # of each kind
SETTINGS = TrainingSettings(steps=1)

Use = Callable[[Path, list[str]], Any]


@dataclass
class Kind:
    """Something that is read: `use` gives all of its content, and notes what it named and did without."""

    folder: Path
    use: Use
    damaged: Path  # the part of the folder that is changed


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def small_model() -> tuple[MailForReferringSegmentation, MailProcessor]:
    torch.manual_seed(0)
    config = micro_config()
    processor = MailProcessor.for_config(tokenizer_from_texts(["the red box", "blue one"], 20), config)
    return MailForReferringSegmentation(config), processor


def content_of(model: MailForReferringSegmentation, processor: MailProcessor) -> list[Any]:
    ids = processor.tokenizer("the red box").input_ids
    return [digest(model.state_dict()), model.config.to_dict() | {"_name_or_path": ""}, ids]


def checkpoints(folder: Path) -> Kind:
    model, processor = small_model()
    optimizer = make_optimizer(model, SETTINGS)
    for step in (1, 2):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
        curves = Curves()
        curves.add("train", [{"step": n, "loss": 1 / n} for n in range(1, step + 1)])
        save_checkpoint(folder / "written", step, model, processor, optimizer, {"steps": 2}, {}, curves=curves)
        place = folder / "checkpoints" / "start-001" / f"step-{step:07d}"
        put_checkpoint(folder / "written", fs.LocalFileSystem(), str(place))
        shutil.rmtree(folder / "written")

    def load(path: Path) -> list[Any]:
        model = MailForReferringSegmentation.from_pretrained(path)
        optimizer = make_optimizer(model, SETTINGS)
        step = load_optimizer(path, model, optimizer)
        moments = {f"{n}/{k}": v for n, p in model.named_parameters() for k, v in optimizer.state[p].items()}
        return [step, digest(model.state_dict()), digest(moments), dict(Curves.load(path).by_kind())]

    def use(path: Path, told: list[str]) -> list[Any]:
        found = load_newest(str(path), load, told.append)
        assert found is not None
        if found[0].step == 1:
            raise UserError(told[0])
        return found[1]

    top = folder / "checkpoints"
    return Kind(top, use, top / "start-001" / "step-0000002")


def model(folder: Path) -> Kind:
    save_model(folder / "model", *small_model(), {"leaky": False})
    write_inventory(folder / "model")
    return Kind(folder / "model", lambda path, told: content_of(*load_model(path)), folder / "model")


def proposer(folder: Path) -> Kind:
    torch.manual_seed(0)
    network = NetworkConfig()
    weights = safetensors.torch.save(build_network(network).state_dict())
    seen, place = ["coco/1", "coco/2"], folder / "proposer"
    write_proposer(
        place, network=network, selection=SelectionConfig(), weights=weights, seen=seen, training={"steps": 1}
    )

    def use(path: Path, told: list[str]) -> list[Any]:
        loaded: Any = load_proposer(str(path))
        found = ProposerFolder.read(path)
        return [digest(loaded.network.state_dict()), found.info, found.training, found.origin.to_json()]

    return Kind(place, use, place)


def data_store(folder: Path) -> Kind:
    make_boxes(folder)

    def use(path: Path, told: list[str]) -> list[Any]:
        store = DataStore(path)
        told += verify_store(store)
        images = [row for batch in store.images() for row in batch.to_pylist()]
        return [store.manifest, store.expressions().to_pylist(), store.image_index.to_pylist(), images]

    return Kind(folder / "store", use, folder / "store")


def mask_table(folder: Path) -> Kind:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mail.data.mask_table.ROW_GROUP_BYTES", 1000)  # several groups, of which a reader chooses
        boxes = make_boxes(folder)
    ids = boxes.store.image_ids().to_pylist()

    def use(path: Path, told: list[str]) -> list[Any]:
        table = MaskTable(path)
        told += verify_masks(table)
        snapshot = table.snapshot()
        found = [snapshot.read([image_id]).to_pylist() for image_id in ids]
        listed = [astuple(file) for file in snapshot.files]
        return [list(snapshot.rows()), found, snapshot.proposer, listed, snapshot.origin().to_json()]

    return Kind(folder / "masks", use, folder / "masks")


@pytest.mark.soak
@pytest.mark.parametrize("make", [checkpoints, model, proposer, data_store, mask_table])
def test_no_change_is_used_silently_and_none_ends_in_a_trace(make: Callable[[Path], Kind], tmp_path: Path) -> None:
    kind = make(tmp_path)
    told: list[str] = []
    sound = kind.use(kind.folder, told)
    assert not told
    outcomes, wrong = dict.fromkeys(("refused", "named", "the same"), 0), []
    for seed in range(CHANGES):
        place = shutil.copytree(kind.folder, tmp_path / f"{seed}" / kind.folder.name)
        change, told = spoil(place / kind.damaged.relative_to(kind.folder), random.Random(seed)), []
        try:
            same = kind.use(place, told) == sound
        except UserError as error:
            if "\n" in str(error) or str(tmp_path) not in str(error):
                wrong.append(f"{seed}: {change}: {error}")
            outcomes["refused"] += 1
        except Exception as error:  # whatever it is, nobody should see it
            wrong.append(f"{seed}: {change}: {type(error).__name__}: {error}")
        else:
            outcomes["named" if told else "the same"] += 1
            if not same and not told:
                wrong.append(f"{seed}: {change}: used")
        shutil.rmtree(tmp_path / f"{seed}")
    print(make.__name__, outcomes)
    assert not wrong, "\n".join(wrong)


def spoil(folder: Path, random_: random.Random) -> str:
    """Changes one byte of one file, or cuts its end off; says what. Ends are as likely as the rest of a file."""
    path = random_.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size))
    content = bytearray(path.read_bytes())
    at = random_.randrange(max(0, len(content) - 2000) if random_.random() < 0.5 else 0, len(content))
    name = f"{path.relative_to(folder)}, {len(content)} bytes"
    if random_.random() < 0.3:
        path.write_bytes(content[:at])
        return f"{name}: cut at {at}"
    old = content[at]
    content[at] ^= random_.randrange(1, 256)
    path.write_bytes(content)
    return f"{name}: byte {at} was {old}, is {content[at]}"
