"""The train stage with BEiT-3's tower: begun with a file as its authors publish it, frozen first, resumed exactly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mail.errors import UserError
from mail.inference import Predictor
from mail.model.tokenization import SPECIAL
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.boxes import Boxes, make_boxes
from tests.pipelines.small_training import small_training
from tests.published_beit3 import beit3, make_pieces, published

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NETWORK = {**SIZES, "image_size": 64, "max_text_length": 12, "max_instances": 4, "decoder_dim": 8, "stem_dim": 8}
FILE = "beit3_base_patch16_224.pth"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def train(boxes, tmp_path, monkeypatch, put_mlflow):
    """Makes a small train stage in a working directory that has a published file and its vocabulary."""
    monkeypatch.chdir(tmp_path)
    put_mlflow(tmp_path / "mlflow.db")
    Path("weights").mkdir()
    vocabulary = make_pieces(Path("weights"))
    torch.save({"model": published(beit3(64, spread=0.02, vocab_size=64010, **SIZES))}, vocabulary.with_name(FILE))

    def make(**changes: object) -> Train:
        values = {
            "preset": "beit3-base",
            "pretrained": f"weights/{FILE}",
            "checkpoint_every": 2,
            "model": ModelOverrides(**NETWORK),
        }
        return small_training(boxes, **(values | changes))

    return make


def test_it_begins_frozen_with_what_is_published_resumes_exactly_and_is_gone_on_from(train, boxes, capsys):
    result = train(name="whole", keep_checkpoints=9).run()
    assert "begin with the weights of" in capsys.readouterr().err
    state = torch.load(f"weights/{FILE}", weights_only=True)["model"]
    first, last = (load_file(f"runs/whole/checkpoints/start-001/step-000000{n}/model.safetensors") for n in (2, 6))
    name, theirs = "encoder.blocks.1.experts.2.mlp_in.weight", state["beit3.encoder.layers.1.ffn.A.fc1.weight"]
    assert torch.equal(first[name], theirs)  # a third of the steps
    assert not torch.equal(last[name], theirs)
    assert len(first["text.word_embeddings.weight"]) < 100  # of the vocabulary, not of the file

    train(name="cut", keep_checkpoints=9).run()
    cut = Path("runs/cut")
    for gone in (cut / "model", *cut.glob("checkpoints/*/step-0000006"), *cut.glob("checkpoints/*/step-0000004")):
        shutil.rmtree(gone)
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(state | {"finished": False, "result": {}}))
    resumed = load_file(f"{train(name='cut', resume=True).run()['model']}/model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in resumed.items())

    lineage = json.loads(Path(result["model"], "lineage.json").read_text())
    assert "laion-400m" in lineage["encoder"]["trained_on"]["without_masks"]
    image = next(iter(boxes.store.images(["image"], 30)))["image"][4].as_py()
    assert Predictor.from_pretrained(result["model"]).predict(image, "the red box")[0].mask.shape == (64, 40)
    own = {"preset": None, "pretrained": None, "model": ModelOverrides()}
    child = train(name="child", **own, from_=result["model"], steps=2).run()
    assert Path(child["model"], "tokenizer.json").is_file()


def test_from_nothing_it_has_a_vocabulary_of_the_sentences_and_is_not_frozen(train):
    result = train(pretrained="none", steps=2).run()
    config = json.loads(Path(result["model"], "config.json").read_text())
    assert (config["tower"], config["pad_token_id"]) == ("beit3", 0)
    lineage = json.loads(Path(result["model"], "lineage.json").read_text())
    assert lineage["config"]["recipe"]["frozen_fraction"] == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pretrained": None}, "give --pretrained beit3_base_patch16_224.pth with beit3.spm beside it"),
        ({"tokenizer": "vocab.txt"}, "--tokenizer .*vocab.txt is not the vocabulary of weights of a beit3"),
        ({"tokenizer": "none"}, "--tokenizer none does not go with pre-trained weights"),
        ({"pretrained": f"elsewhere/{FILE}"}, "no tokenizer at"),
        ({"pretrained": f"elsewhere/{FILE}", "tokenizer": "weights"}, "there is no file"),
        (
            {"model": ModelOverrides(**{**NETWORK, "hidden_size": 64})},
            r"the beit3 checkpoint does not fit, \d+ tensors",
        ),
        ({"model": ModelOverrides(**NETWORK, tower="vilt")}, "no ViLT weights at"),
    ],
)
def test_what_does_not_go_together_is_one_line(train, wrong, message):
    Path("vocab.txt").write_text("\n".join([*SPECIAL, "red", "green", "blue", "box"]))
    with pytest.raises(UserError, match=message) as refused:
        train(**wrong).run()
    assert "\n" not in str(refused.value)
    assert not Path("runs").exists()
