"""A MODEL folder as transformers' users type it, and what its card says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mail.inventory import write_inventory
from mail.model.card import card
from mail.training.checkpoint import save_model
from tests.mail.model.hub import hub
from tests.mail.model.test_modeling import network

LINEAGE = {
    "code_version": "0.1.0 abc",
    "config": {"name": "mine | yours", "split": "train", "network": {"mask_modality": "tokens"}},
    "data_store": {"name": "photos", "digest": "0123456789abcdef", "uri": "s3://key:secret@bucket/store"},
    "proposer": {"id": "maskrcnn-1"},
    "encoder": {"name": "/somebody/vilt"},
    "leaky": False,
}
TYPED = """
import sys, numpy as np, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

assert "mail" not in sys.modules
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
image = Image.open(sys.argv[2]).convert("RGB")
with torch.no_grad():
    outputs = model(**processor(image, "red dog"))
(found,) = processor.post_process_instance_segmentation(outputs, threshold=0.0, target_sizes=[image.size[::-1]])
np.savez(sys.argv[3], logits=outputs.mask_logits, **found)
"""
PUSHED = """
import sys
from mail.model import MailForReferringSegmentation, MailProcessor

for kind in (MailForReferringSegmentation, MailProcessor):
    kind.from_pretrained(sys.argv[1]).push_to_hub("somebody/mail")
"""


def test_transformers_alone_load_it(tmp_path):
    model, processor = network()
    folder = tmp_path / "ordner ü"
    save_model(folder, model, processor, LINEAGE)
    write_inventory(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    arguments = [str(folder), str(tmp_path / "photo.png"), str(tmp_path / "found.npz")]
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", TYPED, *arguments], check=True, env=environment, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        outputs = model(**processor(Image.fromarray(pixels), "red dog"))
    assert np.allclose(found["logits"], outputs.mask_logits, atol=1e-5)
    answer = processor.post_process(outputs, [(48, 64)])[0]
    assert len(found["masks"]) == len(found["boxes"]) == len(found["scores"]) == int(answer.mask.any())


def test_what_is_pushed_to_a_hub_loads_from_there(tmp_path):
    model, processor = network()
    save_model(tmp_path / "model", model, processor, LINEAGE)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with hub() as (address, kept):
        environment = {"PATH": "", "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": address, "HF_TOKEN": "secret"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_DISABLE_XET": "1"}

        def typed(code: str, *arguments: str) -> None:
            subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment, cwd=tmp_path)

        typed(PUSHED, str(tmp_path / "model"))
        own = {p.name for p in (tmp_path / "model").iterdir()} - {"lineage.json"}  # which has addresses
        assert {name.removeprefix("somebody/mail/") for name in kept.files} == own
        weights = (tmp_path / "model" / "model.safetensors").read_bytes()
        assert kept.files["somebody/mail/model.safetensors"] == weights
        typed(TYPED, "somebody/mail", str(tmp_path / "photo.png"), str(tmp_path / "found.npz"))
        assert kept.refused == []
    with torch.no_grad():
        outputs = model(**processor(Image.fromarray(pixels), "red dog"))
    assert np.allclose(np.load(tmp_path / "found.npz")["logits"], outputs.mask_logits, atol=1e-5)
    with pytest.raises(ValueError, match=r"call push_to_hub\(NAME\)"):
        model.save_pretrained(tmp_path / "other", push_to_hub=True)


def test_answers_as_text_prompted_models_give_them():
    _, processor = network()
    logits = torch.full((2, 32, 32), -5.0)
    logits[0, 4:8, 2:6] = 5.0
    absent = torch.tensor([-9.0, 0.0])
    outputs = type("", (), {"mask_logits": logits, "selection_logits": None, "no_target_logits": absent})
    sizes, scale = [(processor.image_size, processor.image_size)] * 2, processor.image_size // 32
    one, none = processor.post_process_instance_segmentation(outputs, target_sizes=sizes)
    assert one["boxes"].tolist() == [[2 * scale, 4 * scale, 6 * scale, 8 * scale]]
    assert one["masks"].shape == (1, *sizes[0])
    assert one["masks"].dtype == torch.bool
    assert 0.8 < one["scores"].item() < 1
    assert [len(none[key]) for key in ("scores", "boxes", "masks")] == [0, 0, 0]
    strict, _ = processor.post_process_instance_segmentation(outputs, threshold=0.999, target_sizes=sizes)
    assert len(strict["masks"]) == 0
    with pytest.raises(ValueError, match="target_sizes is missing"):
        processor.post_process_instance_segmentation(outputs)


def test_a_card_has_names_and_no_addresses():
    text = card(LINEAGE, {"oIoU": 0.5, "mIoU": 0.25, "prec_50": 0.125, "expressions": 64})
    for said in (
        "# mine / yours",
        "| trained on | photos, split train, digest 0123456789ab |",
        "| instance masks of | maskrcnn-1 |",
        "| begun with | vilt |",
        "| evaluation | clean |",
        "oIoU 0.5000, mIoU 0.2500, prec_50 0.1250 on 64 expressions, which is no test",
    ):
        assert said in text, said
    assert "secret" not in text
    assert "somebody" not in text
    leaky = card({"leaky": True, "config": {"network": {"mask_modality": "none"}}})
    assert "leaky" in leaky
    assert "It reads no instance masks" in leaky
    assert "validation while" not in leaky
