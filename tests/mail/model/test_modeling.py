"""The network: invariances, robustness, and what it saves."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from mail import rle
from mail.model import MailConfig, MailForReferringSegmentation, MailProcessor, describe, encoder, tokenizer_from_texts
from mail.proposals import Proposals

TEXTS = ["the red star on the left", "second circle from the right", "dog"]


def network(**changes) -> tuple[MailForReferringSegmentation, MailProcessor]:
    torch.manual_seed(0)
    tokenizer = tokenizer_from_texts(TEXTS)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"image_size": 64, "patch_size": 16, "position_grid": 4, "max_instances": 100, "max_text_length": 12}
    sizes |= {"decoder_dim": 8, "stem_dim": 8, "geometry_init": "normal", "mask_stride": 2}
    # with every path there is
    sizes |= {"attention": "joint", "coverage_bias": True, "paste": True, "geometry_frequencies": 6}
    config = MailConfig(**{**sizes, "vocab_size": len(tokenizer), **changes})
    model = MailForReferringSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the zeros of the start, so that every path takes part
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, MailProcessor.for_config(tokenizer, config)


def proposals(count: int, height: int = 48, width: int = 64, seed: int = 0) -> Proposals:
    rng = np.random.default_rng(seed)
    rles = []
    for _ in range(count):
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        mask[y : y + rng.integers(4, 20), x : x + rng.integers(4, 20)] = True
        rles.append(rle.encode(mask))
    scores = np.linspace(0.9, 0.1, count).astype(np.float32)
    boxes = np.array([rle.bbox(r) for r in rles], np.float32).reshape(-1, 4)
    return Proposals((height, width), scores, np.ones(count, np.int32), boxes, rles)


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@torch.no_grad()
def logits(model, batch):
    out = model(**batch)
    return out.mask_logits, out.selection_logits


def test_order_of_instances_does_not_matter():
    model, processor = network()
    batch = processor(IMAGE, TEXTS, proposals(9))
    order = torch.randperm(9)
    shuffled = {k: v[:, order] if k.startswith("instance_") else v for k, v in batch.items()}
    mask, selection = logits(model, batch)
    mask_shuffled, selection_shuffled = logits(model, shuffled)
    assert torch.allclose(mask, mask_shuffled, atol=1e-4)
    assert torch.allclose(selection[:, 1:][:, order], selection_shuffled[:, 1:], atol=1e-4)


@pytest.mark.parametrize("modality", ["tokens", "channels"])
def test_empty_instance_slots_do_not_matter(modality):
    model, processor = network(mask_modality=modality)
    batch = processor(IMAGE, TEXTS, proposals(5))
    padded = dict(batch)
    for key in batch:
        if key.startswith("instance_"):
            shape = list(batch[key].shape)
            shape[1] = 95
            padded[key] = torch.cat([batch[key], torch.zeros(shape, dtype=batch[key].dtype)], 1)
    mask, _ = logits(model, batch)
    assert torch.allclose(mask, logits(model, padded)[0], atol=1e-4)


def test_a_hundred_instances_are_taken():
    model, processor = network()
    batch = processor(IMAGE, TEXTS, proposals(120))
    assert batch["instance_scores"].shape == (1, 100)
    assert logits(model, batch)[1].shape == (3, 101)


def test_length_of_padding_of_words_does_not_matter():
    model, processor = network()
    batch = processor(IMAGE, TEXTS, proposals(3))
    more = 12 - batch["input_ids"].shape[1]
    padded = {**batch, **{k: torch.nn.functional.pad(batch[k], (0, more)) for k in ("input_ids", "attention_mask")}}
    assert torch.allclose(logits(model, batch)[0], logits(model, padded)[0], atol=1e-4)


def test_sentences_of_an_image_together_answer_as_alone():
    model, processor = network()
    together = logits(model, processor(IMAGE, TEXTS, proposals(4)))[0]
    for i, text in enumerate(TEXTS):
        assert torch.allclose(together[i], logits(model, processor(IMAGE, text, proposals(4)))[0][0], atol=1e-4)


def test_images_of_a_batch_do_not_mix():
    model, processor = network()
    other = np.random.default_rng(1).integers(0, 256, (64, 30, 3), dtype=np.uint8)
    both = processor([IMAGE, other], [TEXTS, TEXTS[:1]], [proposals(4), proposals(7, 64, 30)])
    mask, _ = logits(model, both)
    assert torch.allclose(mask[:3], logits(model, processor(IMAGE, TEXTS, proposals(4)))[0], atol=1e-4)
    alone = logits(model, processor(other, TEXTS[0], proposals(7, 64, 30)))[0]
    assert torch.allclose(mask[3], alone[0], atol=1e-4)


@pytest.mark.parametrize("modality", ["none", "channels", "tokens"])
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_are_finite_on_empty_everything(modality, autocast):
    model, processor = network(mask_modality=modality)
    nothing = rle.empty(48, 64)
    items = []
    for found in (proposals(0), proposals(3)):
        items.append(
            {
                "image": processor.encode_image(IMAGE),
                "proposals": processor.encode_proposals(found),
                "texts": processor.encode_texts(["dog", ""]),
                "targets": processor.encode_targets([nothing, proposals(1).rles[0]], found),
            }
        )
    items[0]["texts"]["attention_mask"][:] = 0  # nothing but padding
    model.train()
    for batch in (processor.collate(items), processor.collate(items[:1])):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(**batch)
        output.loss.backward()
        assert torch.isfinite(output.loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_loss_is_the_weighted_sum_of_its_terms():
    model, processor = network(loss_mask_bce=2.0, loss_selection=0.25)
    found = proposals(3)
    item = {"image": processor.encode_image(IMAGE), "proposals": processor.encode_proposals(found)}
    item |= {"texts": processor.encode_texts(TEXTS[:1]), "targets": processor.encode_targets(found.rles[:1], found)}
    output = model(**processor.collate([item]))
    weights = {"mask_bce": 2.0, "mask_dice": 1.0, "selection": 0.25, "no_target": 0.1}
    assert set(output.losses) == set(weights)
    assert torch.isclose(output.loss, sum(weights[k] * v for k, v in output.losses.items()))


def test_pixel_share_trains_the_answer_without_proposals():
    model, processor = network(attention="one_way", paste=False, pixel_share=0.25)
    target = proposals(3).rles[0]

    def batch_of(found: Proposals) -> dict:
        item = {"image": processor.encode_image(IMAGE), "proposals": processor.encode_proposals(found)}
        item |= {"texts": processor.encode_texts(TEXTS), "targets": processor.encode_targets([target] * 3, found)}
        return processor.collate([item])

    batch, bare = batch_of(proposals(3)), batch_of(proposals(0))
    mixed, without = model(**batch), model(**bare)
    assert torch.allclose(mixed.pixel_logits, without.mask_logits, atol=1e-4)
    model.config.pixel_share = 0.0
    with_masks = model(**batch)
    for name in ("mask_bce", "mask_dice"):
        wanted = 0.75 * with_masks.losses[name] + 0.25 * without.losses[name]
        assert torch.isclose(mixed.losses[name], wanted, atol=1e-4)


@torch.no_grad()
def test_with_one_way_attention_the_selected_mask_is_all_that_proposals_add():
    model, processor = network(attention="one_way", paste=False)
    without = model(**processor(IMAGE, TEXTS, proposals(0)))
    batch = processor(IMAGE, TEXTS, proposals(4))
    found = model(**batch)
    for row in range(len(TEXTS)):
        mask = without.mask_logits[row]
        if (chosen := int(found.selection_logits[row].argmax())) > 0:
            inside = batch["instance_masks"][0, chosen - 1] / 255
            mask = mask + model.decoder.direct_gain * (2 * inside - 1)
        assert torch.allclose(found.mask_logits[row], mask, atol=1e-4)
    assert torch.allclose(found.no_target_logits, without.no_target_logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "one_way"])
@pytest.mark.parametrize("coverage_bias", [True, False])
def test_left_out_padding_changes_nothing(monkeypatch, attention, coverage_bias):
    model, processor = network(attention=attention, coverage_bias=coverage_bias)
    wide = np.random.default_rng(1).integers(0, 256, (20, 64, 3), dtype=np.uint8)
    batch = processor([IMAGE, wide], [TEXTS, TEXTS[2:]], [proposals(4), proposals(2, 20, 64)])
    short = logits(model, batch)
    lengths, order_of = [], encoder.without_padding
    monkeypatch.setattr(
        encoder, "without_padding", lambda valid, parts: lengths.append((valid.shape[1], order_of(valid, parts)))
    )
    for a, b in zip(short, logits(model, batch), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    whole, (order, _) = lengths[0]
    assert order.shape[1] < whole


@pytest.mark.parametrize("attention", ["joint", "one_way"])
@pytest.mark.parametrize("tower", ["vilt", "beit3"])
def test_a_step_without_any_proposal_has_a_gradient_of_every_weight(attention, tower):
    """Else several workers' DistributedDataParallel waits for what never comes."""
    model, processor = network(attention=attention, tower=tower)
    nothing = proposals(0)
    target = rle.encode(np.ones((48, 64), bool))
    items = [{**processor.encode(IMAGE, nothing, TEXTS), "targets": processor.encode_targets([target] * 3, nothing)}]
    output = model.train()(**processor.collate(items))
    output.loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    with torch.no_grad():
        model.eval()
        plain = model(**processor(IMAGE, TEXTS, nothing)).mask_logits
        assert torch.allclose(model(**processor.collate(items)).mask_logits, plain, atol=1e-5)


def test_a_saved_network_does_not_change_when_a_default_does(tmp_path):
    MailConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    of_now = {name: getattr(MailConfig(), name) for name in MailConfig.__annotations__}
    assert json.loads(json.dumps(of_now)).items() <= saved.items()


def test_saved_network_and_processor_come_back_the_same(tmp_path):
    model, processor = network()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, again_processor = AutoModel.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MailForReferringSegmentation)
    assert isinstance(again_processor, MailProcessor)
    mask, selection = logits(model, processor(IMAGE, TEXTS, proposals(4)))
    mask_again, selection_again = logits(again, again_processor(IMAGE, TEXTS, proposals(4)))
    assert torch.allclose(mask, mask_again, atol=1e-6)
    assert torch.allclose(selection, selection_again, atol=1e-6)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of patch_size"):
        MailConfig(image_size=100, patch_size=32)
    with pytest.raises(ValueError, match="mask_modality"):
        MailConfig(mask_modality="magic")


def test_description_counts_parameters_without_building_them():
    model, _ = network()
    facts = describe(model.config)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["forward_flops_per_expression"] > 0
