"""Batches without state: the order, the captions and what does not match."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ganlib.data.batches import Batches
from ganlib.data.store import Batch
from ganlib.problems import Refused
from tests.conftest import make_split

CPU = torch.device("cpu")


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    split = make_split()
    one, two = Batches(split, 8, 3, CPU)[7], Batches(split, 8, 3, CPU)[7]
    for name in ("images", "labels", "texts", "wrong_labels", "wrong_texts"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(Batches(split, 8, 4, CPU)[7].images, one.images)


def test_every_epoch_shows_every_item_once_and_batches_are_full_across_the_seam() -> None:
    batches = Batches(make_split(count=20), 8, 0, CPU)
    rows = np.concatenate([batches.rows(k) for k in range(5)])  # two epochs of 20
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert list(rows[:20]) != list(rows[20:])


def test_images_are_in_the_unit_range() -> None:
    split = make_split()
    split.images[0, 0, 0] = [0, 255, 51]
    batches = Batches(split, 40, 0, CPU)
    batch = batches[0]
    pixel = batch.images[list(batches.rows(0)).index(0), :, 0, 0]
    assert torch.allclose(pixel, torch.tensor([-1.0, 1.0, -0.6]))
    assert batch.images.shape == (40, 3, 8, 8)


def test_a_text_is_one_of_the_images_own_captions_or_their_mean() -> None:
    split = make_split()
    assert split.embeddings is not None
    for count in (1, 3):
        batches = Batches(split, 16, 0, CPU, captions=count)
        texts, rows = batches[2].texts, batches.rows(2)
        assert texts is not None
        for text, row in zip(texts.numpy(), rows, strict=True):
            own = split.embeddings[split.first_caption[row] : split.first_caption[row + 1]]
            if count == 1:
                assert (np.abs(own - text).max(axis=1) < 1e-6).any()
            else:
                assert np.allclose(own.mean(axis=0), text, atol=1e-6)


def wrong_items(batch: Batch) -> np.ndarray:
    """Whose caption stands beside each image as the wrong one; no two texts of a batch are equal here."""
    assert batch.texts is not None and batch.wrong_texts is not None
    return (batch.wrong_texts[:, None] == batch.texts[None]).all(dim=2).float().argmax(dim=1).numpy()


def test_wrong_conditions_are_those_of_another_class() -> None:
    split = make_split(classes=4)
    batches = Batches(split, 16, 0, CPU)
    for number in range(20):
        batch = batches[number]
        assert batch.labels is not None and batch.wrong_labels is not None
        assert (batch.labels != batch.wrong_labels).all()
        assert torch.equal(batch.wrong_labels, batch.labels[torch.from_numpy(wrong_items(batch))])


def test_processes_share_a_batch() -> None:
    split = make_split()
    whole = Batches(split, 16, 0, CPU)[3]
    slices = [Batches(split, 16, 0, CPU, share=(rank, 2))[3] for rank in range(2)]
    for name in ("images", "labels", "texts", "wrong_labels", "wrong_texts"):
        assert torch.equal(torch.cat([getattr(own, name) for own in slices]), getattr(whole, name))
    with pytest.raises(Refused, match="found 16; 3 processes share it: take a multiple of 3"):
        Batches(split, 16, 0, CPU, share=(0, 3))


def test_slices_and_parts_of_a_batch_draw_what_the_whole_draws() -> None:
    split = make_split()

    def draw(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        seeded = replace(batch, generator=torch.Generator().manual_seed(5))
        return seeded.normal(3), seeded.uniform(2, 2)

    whole = Batches(split, 16, 0, CPU)[3]
    slices = [Batches(split, 16, 0, CPU, share=(rank, 2))[3] for rank in range(2)]
    quarters = [own.part(index, 2) for own in slices for index in range(2)]
    for shared in (slices, quarters, [whole.part(index, 4) for index in range(4)]):
        for drawn, expected in zip(zip(*map(draw, shared), strict=True), draw(whole), strict=True):
            assert torch.equal(torch.cat(drawn), expected)


def test_an_extended_batch_repeats_its_items_with_new_numbers() -> None:
    batch = Batches(make_split(), 8, 0, CPU)[0]
    longer = replace(batch.extended(20), generator=torch.Generator().manual_seed(5))
    assert torch.equal(longer.images, torch.cat([batch.images, batch.images, batch.images[:4]]))
    drawn = longer.uniform(1)
    assert len(drawn) == 20 and len(drawn.unique()) == 20
    half = replace(batch.part(1, 2).extended(8), generator=torch.Generator().manual_seed(5))
    every = torch.rand(16, 1, generator=torch.Generator().manual_seed(5))
    assert torch.equal(half.uniform(1), torch.cat([every[4:8], every[12:16]]))


def test_near_mismatches_are_the_nearest_captions_half_the_time() -> None:
    split = make_split(count=400, classes=4)
    batches = Batches(split, 64, 0, CPU, mismatch="near")
    ranks = []
    for number in range(20):
        batch, rows = batches[number], batches.rows(number)
        assert batch.texts is not None
        similarity = (batch.texts @ batch.texts.T).fill_diagonal_(-1e9)
        order = similarity.argsort(dim=1, descending=True).argsort(dim=1)
        wrong = wrong_items(batch)
        ranks.append(order.gather(1, torch.from_numpy(wrong)[:, None]).flatten())
        assert (rows != rows[wrong]).all()
    near = (torch.cat(ranks) < 4).float().mean().item()
    assert 0.47 < near < 0.6  # a half, and the 4 of 63 that the other half meets by chance


def test_without_classes_mismatched_items_share_no_caption() -> None:
    split = make_split(count=12, classes=0)
    split.items["captions"] = [["the same words"] if i < 10 else [f"words {i}"] for i in range(12)]
    split = type(split)(
        split.spec, split.items, split.images, split.labels, np.eye(12, dtype=np.float32), np.arange(13)
    )
    batches = Batches(split, 12, 0, CPU)
    for number in range(5):
        rows = batches.rows(number)
        other = rows[wrong_items(batches[number])]
        assert ((rows >= 10) | (other >= 10)).all()


def test_a_batch_of_one_class_gives_a_place_to_another() -> None:
    split = make_split(count=40, classes=2)
    split.labels[:] = 0
    split.labels[5] = 1
    batches = Batches(split, 4, 0, CPU)
    for number in range(10):
        batch = batches[number]
        assert batch.labels is not None and batch.wrong_labels is not None
        assert set(batch.labels.tolist()) == {0, 1}
        assert (batch.labels != batch.wrong_labels).all()


def test_refusals() -> None:
    with pytest.raises(Refused, match="batch: found 64; the train split has 40 images"):
        Batches(make_split(), 64, 0, CPU)
    with pytest.raises(Refused, match="found near, and there are no embedded captions"):
        Batches(make_split(text=0), 8, 0, CPU, mismatch="near")
    with pytest.raises(Refused, match="one class alone; take any"):
        Batches(make_split(classes=1), 8, 0, CPU)
