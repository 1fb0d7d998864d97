"""What is chosen of the proposals: one of them, or each that belongs to what is meant."""

import math

import numpy as np
import pytest
import torch

from mail import rle
from mail.inference import Predictor
from mail.model import MailForReferringSegmentation, MailProcessor, Segmentation, losses, tokenizer_from_texts
from mail.model.decoder import Decoder, selection_shares
from mail.model.post_processing import chosen_proposals
from mail.proposals import Proposals
from tests.boxes import micro_config

TEXTS = ["the red one", "red and blue", "all of them", "no such thing"]
MEANT = [[0], [0, 1], [0, 1, 2], []]
LOWEST = torch.finfo(torch.float32).min


def scene() -> tuple[np.ndarray, Proposals]:
    """Three boxes on grey, each with its mask, and one mask of the ground."""
    image = np.full((64, 64, 3), 120, np.uint8)
    rles = []
    for number, colour in enumerate([(230, 20, 20), (20, 20, 230), (20, 200, 20)]):
        mask = np.zeros((64, 64), bool)
        mask[8 + 18 * number : 22 + 18 * number, 6 + 14 * number : 30 + 14 * number] = True
        image[mask] = colour
        rles.append(rle.encode(mask))
    ground = np.zeros((64, 64), bool)
    ground[50:, :20] = True
    rles.append(rle.encode(ground))
    boxes = np.array([rle.bbox(m) for m in rles], np.float32)
    return image, Proposals((64, 64), np.full(4, 0.9, np.float32), np.ones(4, np.int32), boxes, rles)


def test_shares_are_of_one_choice_or_each_for_itself():
    logits = torch.tensor([[1.0, 3.0, 3.0, LOWEST], [2.0, 0.0, 1.0, LOWEST]])
    one, many = selection_shares(logits, "one"), selection_shares(logits, "many")
    assert torch.allclose(one.sum(1) + logits.softmax(1)[:, 0], torch.ones(2))
    assert torch.allclose(many[0], torch.tensor([0.8808, 0.8808, 0.0]), atol=1e-4)
    assert (many[1] < 0.5).all()


def test_a_proposal_belongs_if_most_of_it_lies_inside():
    valid = torch.tensor([[True, True, True, False]])
    inside = torch.tensor([[1.0, 0.4, 0.9, 0.0]])
    right = torch.tensor([[0.0, 20.0, -20.0, 20.0, LOWEST]])
    assert losses.membership(right, inside, valid).item() == pytest.approx(math.log(2))  # two share one choice
    wrong = torch.tensor([[0.0, 20.0, 20.0, 20.0, LOWEST]])
    assert losses.membership(wrong, inside, valid).item() == pytest.approx(20.0 + math.log(3))
    none = torch.tensor([[20.0, 0.0, -20.0, 0.0, LOWEST]])
    assert losses.membership(none, torch.zeros(1, 4), valid).item() < 1e-6
    even = torch.tensor([[5.0, 5.0, 5.0, 5.0, LOWEST]], requires_grad=True)
    losses.membership(even, inside, valid).backward()
    assert torch.isfinite(even.grad).all()
    assert even.grad[0, 4] == 0


def test_the_direct_path_is_the_union_of_what_is_chosen():
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :2], masks[0, 1, 1:3], masks[0, 2, 3] = 1, 1, 1
    decoder = Decoder(micro_config(choice="many")).eval()
    logits = torch.tensor([[0.0, 4.0, 4.0, -4.0]])
    whole = decoder.direct_path(logits, masks)[0]
    assert (whole[:3] == 4).all()  # the gain at the start, also where two overlap
    assert (whole[3] == -4).all()
    assert not decoder.direct_path(logits - torch.tensor([0.0, 9.0, 9.0, 9.0]), masks).any()
    unsure = decoder.direct_path(torch.tensor([[1.0, 0.0, -1.0, -1.0]]), masks)[0]  # none is likely: the likeliest
    assert (unsure[:2] == 4).all()
    assert (unsure[2:] == -4).all()
    one = Decoder(micro_config()).eval().direct_path(logits, masks)[0]
    assert (one[:2] == 4).all()
    assert (one[2:] == -4).all()


def test_chosen_proposals_follow_the_kind_of_choice():
    empty, shares = np.zeros((2, 2), bool), np.array([0.6, 0.1, 0.9], np.float32)
    assert chosen_proposals(Segmentation(empty, 0.0, 0.0, shares, "many")) == [2, 0]
    assert chosen_proposals(Segmentation(empty, 0.0, 0.0, shares / 2, "many")) == [2]  # none is likely: the likeliest
    assert chosen_proposals(Segmentation(empty, 0.0, 0.0, shares / 10, "many")) == []
    assert chosen_proposals(Segmentation(empty, 0.0, 0.0, choice="many")) == []
    assert chosen_proposals(Segmentation(empty, 0.0, 0.0, np.array([0.1, 0.7], np.float32))) == [1]


def test_a_network_learns_to_name_one_two_all_and_none(tmp_path):
    image, proposals = scene()
    tokenizer = tokenizer_from_texts(TEXTS)
    torch.manual_seed(0)
    network = micro_config(choice="many", vocab_size=len(tokenizer))
    model, processor = MailForReferringSegmentation(network).train(), MailProcessor.for_config(tokenizer, network)
    targets = [rle.union([proposals.rles[i] for i in own], (64, 64)) for own in MEANT]
    item = processor.encode(image, proposals, TEXTS) | {"targets": processor.encode_targets(targets, proposals)}
    batch = processor.collate([item])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = Predictor.from_pretrained(tmp_path).predict(image, TEXTS, proposals)
    assert [sorted(chosen_proposals(answer)) for answer in found] == MEANT
    masks = [rle.encode(answer.mask) for answer in found]
    assert [rle.iou_matrix([m], [t])[0, 0] > 0.9 for m, t in zip(masks[:3], targets, strict=False)] == [True] * 3
    assert not found[3].mask.any()
