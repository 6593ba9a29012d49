from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ganlib.data.store import load_split
from ganlib.evaluation.agreement import Proportion
from ganlib.evaluation.prompts import every_caption, in_random_order, wrong_captions
from ganlib.evaluation.retrieval import r_precision


def test_r_precision_counts_strict_firsts_alone() -> None:
    images = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    own = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    others = np.array([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    candidates = np.array([[0, 1], [0, 1], [1, 2]])  # above both; below the second; a tie with the second

    assert r_precision(images, own, others, candidates) == Proportion(hits=1, count=3)


def test_captions_follow_the_order_of_the_embeddings(prepared: Path) -> None:
    split = load_split(prepared, None, "test")
    captions = every_caption(split)

    for item in (0, 7):
        rows = range(split.first_caption[item], split.first_caption[item + 1])
        assert [captions.texts[row] for row in rows] == split.captions(item)
        assert all(captions.items[row] == item for row in rows)
    assert captions.stated["colour"].all()
    assert captions.stated["side"].tolist() == [False, True] * len(split.images)


def test_every_image_has_its_first_prompt_before_any_has_its_second(prepared: Path) -> None:
    split = load_split(prepared, None, "test")
    captions = every_caption(split)
    first, other = in_random_order(captions, seed=0), in_random_order(captions, seed=1)
    half = len(split.images)

    assert sorted(first.items[:half]) == sorted(first.items[half:]) == list(range(half))
    assert sorted(first.rows) == captions.rows.tolist()
    assert all(first.texts[i] == captions.texts[first.rows[i]] for i in range(len(first)))
    assert first.texts != other.texts


def test_wrong_captions_contradict_what_both_state(prepared: Path) -> None:
    captions = every_caption(load_split(prepared, None, "test"))
    colour, side, says_side = captions.values["colour"], captions.values["side"], captions.stated["side"]

    wrong = wrong_captions(captions, captions)

    for i in (0, 1):  # states the colour alone; states both
        for j in range(len(captions)):
            other_side = says_side[i] and says_side[j] and side[i] != side[j]
            assert (j in wrong[i]) == bool(colour[i] != colour[j] or other_side)


def test_without_attributes_wrong_captions_are_of_other_classes_or_texts(
    tmp_path: Path, make_prepared: Callable[..., Path]
) -> None:
    for classes in (True, False):
        folder = make_prepared(tmp_path / str(classes), classes=classes, attributes=False)
        captions = every_caption(load_split(folder, None, "test"))
        wrong = wrong_captions(captions, captions)[0]
        same = [j for j in range(len(captions)) if j not in wrong]

        assert all(captions.items[j] != captions.items[0] for j in wrong)
        assert all(captions.texts[j] != captions.texts[0] for j in wrong)
        if classes:
            assert all(captions.labels[j] == captions.labels[0] for j in same)
        else:
            assert all(captions.texts[j] == captions.texts[0] or captions.items[j] == 0 for j in same)
