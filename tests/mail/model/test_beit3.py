"""BEiT-3's tower: equal to its authors' (`torchscale`) on the same weights, and begun with what they publish."""

from pathlib import Path

import pytest
import sentencepiece
import torch
from torch.nn import functional as F
from torchscale.model.BEiT3 import BEiT3

from mail.errors import UserError
from mail.model import MailConfig, MailForReferringSegmentation, check_text, find_preset, load_tokenizer
from mail.model.beit3_weights import convert
from mail.model.continuing import extend_tokenizer
from mail.model.embeddings import cubic
from mail.model.pretrained import check_pretrained, fill, load_pretrained
from tests.mail.model.test_vilt import SMALL
from tests.published_beit3 import beit3, make_pieces, published

BASE = {
    "vocab_size": 64010,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def config(side: int = 96, **values) -> MailConfig:
    own = {"tower": "beit3", "pad_token_id": 1, "layer_norm_eps": 1e-5, "patch_size": 16, "image_size": side}
    return MailConfig(**{**own, "position_grid": side // 16, "decoder_dim": 8, "stem_dim": 8, **SMALL, **values})


def ours(reference: BEiT3, side: int = 96, **values) -> MailForReferringSegmentation:
    model = MailForReferringSegmentation(config(side, **values)).eval()
    fill(model, convert(published(reference), model.config.uses_instance_tokens))
    return model


@torch.no_grad()
def differences(reference: BEiT3, model: MailForReferringSegmentation, words: int, padding: int) -> list[float]:
    """The largest difference at image tokens and at words, of two square images and two sentences, one padded."""
    torch.manual_seed(1)
    side = model.config.image_size
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    ids = torch.randint(5, model.config.vocab_size, (2, words + padding))
    attention = torch.tensor([[1] * (words + padding), [1] * words + [0] * padding])
    theirs = reference(ids, (pixels / 255 - 0.5) / 0.5, text_padding_position=attention == 0)["encoder_out"]
    images = model.encode_images(pixels, torch.tensor([[side, side]] * 2))
    mine = model.encode(images, ids, attention)
    image = (side // 16) ** 2 + 1  # theirs begins with the image
    at_words = (theirs[:, image:] - mine[:, : words + padding]) * attention[..., None]
    return [float(apart.abs().max()) for apart in (theirs[:, :image] - mine[:, words + padding :], at_words)]


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("modality", ["tokens", "none"])
def test_tower_equals_the_authors(padding, modality):
    reference = beit3(**SMALL)
    model = ours(reference, mask_modality=modality)
    assert max(differences(reference, model, words=7, padding=padding)) < 1e-5


@pytest.mark.cluster
def test_tower_equals_the_authors_at_the_real_size():
    reference = beit3(224, spread=0.02, **BASE)
    model = ours(reference, 224, **BASE)
    assert max(differences(reference, model, words=12, padding=3)) < 1e-5


def test_positions_are_interpolated_as_the_authors_do():
    reference = beit3(96, **SMALL)
    model = ours(reference, 160)  # a grid of 6, and of 10
    table = reference.encoder.embed_positions.A.weight[3:].T.reshape(1, 64, 6, 6)
    theirs = F.interpolate(table, size=(10, 10), mode="bicubic", align_corners=False)[0].flatten(1).T
    assert (model.patch.position_embeddings[0, 1:] - theirs).abs().max() < 1e-5
    assert torch.equal(model.patch.position_embeddings[0, 0], reference.encoder.embed_positions.A.weight[2])


@pytest.mark.parametrize("used", [1, 4, 6, 9])
def test_positions_of_an_image_that_is_not_square_are_pytorchs_bicubic_ones(used):
    row = torch.randn(6)
    found = cubic(10, torch.tensor([used]), 6)[0] @ row
    theirs = F.interpolate(row.view(1, 1, 6, 1), size=(used, 1), mode="bicubic", align_corners=False).flatten()
    assert (found[:used] - theirs).abs().max() < 1e-5
    assert not found[used:].any()


def test_an_instance_has_an_expert_of_its_own_that_begins_as_the_patches():
    model = ours(beit3(**SMALL))
    words, patches, instances = (dict(e.named_parameters()) for e in model.encoder.blocks[1].experts)
    assert all(torch.equal(instances[name], patches[name]) for name in patches)
    assert not any(torch.equal(instances[name], words[name]) for name in patches)
    assert instances["qkv.weight"] is not patches["qkv.weight"]
    assert torch.equal(model.encoder.norms[2].weight, model.encoder.norms[1].weight)


def test_a_published_file_is_read_and_what_is_new_is_told(tmp_path):
    reference = beit3(**SMALL)
    torch.save({"model": published(reference)}, tmp_path / "beit3_base_patch16_224.pth")
    model = MailForReferringSegmentation(config())
    for source in (tmp_path, tmp_path / "beit3_base_patch16_224.pth"):  # a folder that holds one, or the file
        new = load_pretrained(model, str(source))
        assert {name.split(".")[0] for name in new} == {"geometry", "stem", "instance", "decoder"}
        assert check_pretrained(config(), str(source)) == new
    assert max(differences(reference, model.eval(), words=5, padding=2)) < 1e-5
    assert not model.token_type.weight.any()


def test_a_vocabulary_that_is_smaller_than_the_table_leaves_its_last_rows_out():
    reference = beit3(**SMALL)
    model = ours(reference, vocab_size=80, max_text_length=12)
    assert torch.equal(model.text.word_embeddings.weight, reference.text_embed.weight[:80])
    assert torch.equal(model.text.position_embeddings.weight, reference.encoder.embed_positions.B.weight[2:14])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 120}, r"text\.word_embeddings\.weight \(99, 64\) for \(120, 64\)"),
        ({"num_hidden_layers": 4}, r"encoder\.blocks\.3\.\S+ \(not in the checkpoint\)"),
        ({"num_hidden_layers": 2}, r"encoder\.blocks\.2\.\S+ \(no such layer here\)"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused_by_tensor(values, message):
    model = MailForReferringSegmentation(config(**values))
    with pytest.raises(UserError, match=message):
        fill(model, convert(published(beit3(**SMALL)), True))


class _Runs:
    def __reduce__(self):
        return (Path("run").touch, ())


def test_what_is_no_whole_checkpoint_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = published(beit3(**SMALL))
    file = tmp_path / "weights.pth"

    def refused(content: object, message: str) -> None:
        torch.save(content, file)
        with pytest.raises(UserError, match=message):
            check_pretrained(config(), str(file))

    lacking = {k: v for k, v in state.items() if k != "beit3.encoder.layers.1.ffn.B.fc2.bias"}
    refused({"model": lacking}, r"beit3\.encoder\.layers\.1\.ffn\.B\.fc2\.bias is not in it")
    refused({"model": state | {"beit3.encoder.adapter": torch.zeros(1)}}, r"unknown, first beit3\.encoder\.adapter")
    refused({"model": {"vit.weight": torch.zeros(2)}}, r"no beit3\.text_embed\.weight")
    refused(torch.zeros(3), r"no beit3\.text_embed\.weight")
    refused({"model": state | {"beit3.x": _Runs()}}, "cannot be read as a checkpoint")
    assert not Path("run").exists()
    torch.save({"model": state}, file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        check_pretrained(config(), str(file))
    with pytest.raises(UserError, match="there is no file"):
        check_pretrained(config(), str(tmp_path / "elsewhere.pth"))
    file.unlink()
    with pytest.raises(UserError, match=r"there is 0 \.pth files"):
        check_pretrained(config(), str(tmp_path))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    return make_pieces(tmp_path_factory.mktemp("pieces"))


def test_words_are_cut_as_sentencepiece_cuts_them(pieces, tmp_path):
    original = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    for source in (pieces, pieces.parent):
        tokenizer = load_tokenizer(str(source))
        for text in ("the red star on the left", "große  umbrella", "a second woman"):
            # fairseq's numbers: one more, and the two ends
            assert tokenizer(text)["input_ids"] == [0, *(i + 1 for i in original.encode(text)), 2]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 3)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))("red star")["input_ids"] == tokenizer("red star")["input_ids"]
    assert extend_tokenizer(tokenizer, [check_text("a hippopotamus")]) == (tokenizer, [])


def test_a_damaged_sentencepiece_model_is_refused(tmp_path):
    (tmp_path / "beit3.spm").write_bytes(b"no model")
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["beit3-base", "beit3-base-480", "beit3-large"])
def test_presets_have_the_published_sizes(name):
    preset = find_preset(name)
    network = preset.config()
    with torch.device("meta"):
        model = MailForReferringSegmentation(network)
    experts = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("encoder.", "text.word")))
    instances = sum(p.numel() for n, p in model.named_parameters() if ".experts.2." in n or ".norms.2." in n)
    # as its authors count them for VQA, which is the tower without what is pre-trained only: 222 M and 674 M
    assert (experts - instances) / 1e6 == pytest.approx(674 if "large" in name else 222, rel=0.02)
    assert network.grid == network.position_grid == (30 if "480" in name else 24)
    assert 0 < preset.frozen_fraction < 1
    assert preset.published is not None
