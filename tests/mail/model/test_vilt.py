"""The encoder equals transformers' ViLT on the same weights and input."""

import pytest
import torch
from transformers import ViltConfig, ViltModel

from mail.errors import UserError
from mail.model import MailConfig, MailForReferringSegmentation
from mail.model.pretrained import fill, load_pretrained, resample_patch_projection
from mail.model.vilt_weights import convert

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def vilt(**sizes) -> ViltModel:
    torch.manual_seed(0)
    model = ViltModel(ViltConfig(initializer_range=0.2, image_size=96, patch_size=16, **sizes), add_pooling_layer=False)
    for parameter in (model.embeddings.cls_token, model.embeddings.position_embeddings):
        torch.nn.init.normal_(parameter)
    return model.eval()


def ours(reference: ViltModel, **sizes) -> MailForReferringSegmentation:
    config = MailConfig(image_size=128, patch_size=16, position_grid=6, decoder_dim=8, stem_dim=8, **sizes)
    model = MailForReferringSegmentation(config).eval()
    fill(model, convert(reference.state_dict()))
    return model


@torch.no_grad()
def outputs(reference, model, height, width, words, padding):
    """Both encoders' outputs for one image of uint8 noise: the words' tokens, and the image's tokens in any order."""
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    ids = torch.randint(5, 99, (1, words + padding))
    attention = torch.tensor([[1] * words + [0] * padding])
    normalised = (pixels.float() / 255 - 0.5) / 0.5
    theirs = reference(
        input_ids=ids,
        attention_mask=attention,
        pixel_values=normalised,
        pixel_mask=torch.ones(1, height, width, dtype=torch.long),
    ).last_hidden_state[0]
    canvas = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    canvas[..., :height, :width] = pixels
    images = model.encode_images(canvas, torch.tensor([[height, width]]))
    mine = model.encode(images, ids, attention)[0]
    image_tokens = mine[words + padding :][images.patches_valid[0]]
    return theirs[:words], mine[:words], theirs[words + padding :], image_tokens


@pytest.mark.parametrize(
    ("height", "width", "padding"), [(96, 96, 0), (96, 96, 5), (128, 64, 3), (48, 128, 0), (16, 128, 2), (128, 128, 0)]
)
def test_encoder_equals_vilt(height, width, padding):
    reference = vilt(**SMALL)
    their_words, my_words, their_image, my_image = outputs(
        reference, ours(reference, **SMALL), height, width, words=7, padding=padding
    )
    assert (their_words - my_words).abs().max() < 1e-5
    # ViLT shuffles the patches of an image; no token may be without its twin
    assert their_image.shape == my_image.shape
    distance = (their_image[:, None] - my_image[None]).abs().amax(-1)
    assert (their_image[0] - my_image[0]).abs().max() < 1e-5
    assert distance.min(1).values.max() < 1e-5
    assert sorted(distance.argmin(1).tolist()) == list(range(len(my_image)))


@pytest.mark.cluster
def test_encoder_equals_vilt_at_the_real_size():
    torch.manual_seed(0)
    reference = ViltModel(ViltConfig(), add_pooling_layer=False).eval()
    model = MailForReferringSegmentation(MailConfig(image_size=384)).eval()
    fill(model, convert(reference.state_dict()))
    pixels = torch.randint(0, 256, (1, 3, 384, 384), dtype=torch.uint8)
    ids = torch.randint(1000, 2000, (1, 9))
    with torch.no_grad():
        theirs = reference(ids, pixel_values=(pixels / 255 - 0.5) / 0.5).last_hidden_state[:, :10]
        mine = model.encode(
            model.encode_images(pixels, torch.tensor([[384, 384]])), ids, torch.ones(1, 9, dtype=torch.long)
        )[:, :10]
    assert (theirs - mine).abs().max() < 1e-5


def test_report_says_what_is_new(tmp_path):
    vilt(**SMALL).save_pretrained(tmp_path)
    model = MailForReferringSegmentation(
        MailConfig(
            image_size=128, patch_size=16, position_grid=6, decoder_dim=8, stem_dim=8, coverage_bias=True, **SMALL
        )
    )
    new = load_pretrained(model, str(tmp_path))
    assert {name.split(".")[0] for name in new} == {"geometry", "stem", "instance", "encoder", "decoder"}
    assert "encoder.coverage_gain" in new
    assert "encoder.blocks.0.attention.qkv.weight" not in new
    assert torch.equal(model.token_type.weight[2], model.token_type.weight[1])


def test_a_checkpoint_that_does_not_fit_is_refused_by_tensor():
    model = MailForReferringSegmentation(
        MailConfig(image_size=128, patch_size=16, position_grid=6, decoder_dim=8, stem_dim=8, **SMALL)
    )
    with pytest.raises(UserError, match=r"text\.word_embeddings\.weight \(50, 64\) for \(99, 64\)"):
        fill(model, convert(vilt(**{**SMALL, "vocab_size": 50}).state_dict()))
    with pytest.raises(UserError, match=r"blocks\.2"):
        fill(model, convert(vilt(**{**SMALL, "num_hidden_layers": 2}).state_dict()))


def test_a_folder_without_vilt_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="no ViLT weights at"):
        load_pretrained(MailForReferringSegmentation(MailConfig(image_size=128, patch_size=16, **SMALL)), str(tmp_path))


def test_resampled_projection_sees_the_same_in_an_enlarged_patch():
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 8, 8)
    patch = torch.randn(1, 3, 8, 8)
    larger = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bilinear")
    before = torch.nn.functional.conv2d(patch, weight)
    after = torch.nn.functional.conv2d(larger, resample_patch_projection(weight, 16))
    assert (before - after).abs().max() < 1e-3 * before.abs().max()


def test_patch_16_network_starts_from_patch_32_weights():
    reference = vilt(**SMALL)  # patches of 16
    model = MailForReferringSegmentation(
        MailConfig(image_size=128, patch_size=8, position_grid=6, decoder_dim=8, stem_dim=8, **SMALL)
    )
    fill(model, convert(reference.state_dict()))
    resampled = resample_patch_projection(reference.state_dict()["embeddings.patch_embeddings.projection.weight"], 8)
    assert torch.equal(model.patch.projection.weight, resampled)
