"""Generators: the same request gives the same bytes, and nothing unchecked reaches the runtime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganlib.card import Latent, ModelCard, Variant
from ganlib.inference.latents import interpolated, latents
from ganlib.inference.package import Package, open_package
from ganlib.inference.request import Request, Towards
from ganlib.inference.sample import BATCH, Generator, of_image
from ganlib.problems import Failed, Refused
from tests.packages import save_generator

REQUESTS = {
    "none": Request(seed=3, count=BATCH + 6),
    "class": Request(class_name="rose", seed=3, count=BATCH + 6, truncation=0.7),
    "text": Request(prompt="a red rose", seed=3, count=BATCH + 6),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_image_is_the_same_alone_and_in_every_batch(package: Callable[..., Package], kind: str) -> None:
    generator, request = Generator(package(kind), "cpu", threads=1), REQUESTS[kind]
    together = generator.generate(request)
    assert together.images.shape == (BATCH + 6, 8, 8, 3)
    assert together.images.dtype == np.uint8
    assert len(np.unique(together.images.reshape(BATCH + 6, -1), axis=0)) == BATCH + 6
    for i in range(BATCH + 6):
        asked = Request(request.prompt, request.class_name, request.seed + i, 1, request.truncation)
        np.testing.assert_array_equal(generator.generate(asked).images[0], together.images[i])
    again = Generator(generator.package, "cpu", threads=2).generate(request)
    np.testing.assert_array_equal(again.images, together.images)
    assert again.facts == together.facts


def test_requests_rendered_together_do_not_change_one_another(package: Callable[..., Package]) -> None:
    generator = Generator(package("class"), "cpu", threads=1)
    z = latents(range(9), generator.package.card.latent)
    labels = np.array([0, 1, 2] * 3)
    mixed = generator.render(z, labels)
    for i in range(9):
        request = Request(class_name=generator.package.card.classes[labels[i]], seed=i)
        np.testing.assert_array_equal(generator.generate(request).images[0], mixed[i])


def test_threads_share_a_generator(package: Callable[..., Package]) -> None:
    generator = Generator(package("text"), "cpu", threads=1)
    requests = [Request(prompt=prompt, seed=seed) for seed in range(10) for prompt in ("a red rose", "blue petals")]
    alone = [generator.generate(request).images for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: generator.generate(request).images, requests))
    np.testing.assert_array_equal(together, alone)


def test_condition_seed_and_truncation_matter(package: Callable[..., Package]) -> None:
    generator = Generator(package("class"), "cpu", threads=1)
    base = generator.generate(Request(class_name="rose")).images
    for other in (
        Request(class_name="poppy"),
        Request(class_name="rose", seed=1),
        Request(class_name="rose", truncation=0.5),
    ):
        assert np.any(generator.generate(other).images != base)


def test_facts_say_how_each_image_was_made(package: Callable[..., Package]) -> None:
    opened = package("text")
    made = Generator(opened, "cpu", threads=1).generate(Request(prompt="a zorp rose", seed=5, count=2, truncation=0.5))
    assert [facts.seed for facts in made.facts] == [5, 6]
    first = made.facts[0]
    assert first.model_sha256 == opened.card.files["generator.onnx"].sha256
    assert first.text_encoder_sha256 == opened.card.files["text_encoder.onnx"].sha256
    assert (first.prompt, first.class_name, first.unknown_words) == ("a zorp rose", None, ("zorp",))
    assert (first.truncation, first.count, first.size, first.model) == (0.5, 1, 8, "tiny-text")


def test_remarks_name_what_was_not_understood(package: Callable[..., Package]) -> None:
    generator = Generator(package("text"), "cpu", threads=1)
    assert generator.remarks(Request(prompt="a red rose")) == ()
    assert generator.remarks(Request(prompt="a zorp quux rose")) == (
        "unknown to tiny-text: zorp, quux; read as words without meaning",
    )
    (none_known,) = generator.remarks(Request(prompt="zorp quux zorp"))
    assert none_known == (
        "unknown to tiny-text: zorp, quux; it knows no word of the prompt, so the images do not follow it"
    )
    assert generator.generate(Request(prompt="zorp quux zorp")).images.shape == (1, 8, 8, 3)
    assert generator.remarks(Request(prompt="a red rose with blue petals a red")) == (
        "only the first 6 words of the prompt are read",
    )
    assert Generator(package("class"), "cpu").remarks(Request(class_name="rose")) == ()


def test_a_bad_request_is_refused_at_the_call_before_the_runtime_runs(
    package: Callable[..., Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(package("class"), "cpu", threads=1)
    monkeypatch.setattr(generator, "_session", None)
    with pytest.raises(Refused, match="class: found 'tulip'"):
        generator.batches(Request(class_name="tulip"))
    with pytest.raises(Refused, match="count: found 0"):
        generator.generate(Request(class_name="rose", count=0))


@pytest.mark.parametrize(
    ("kind", "z", "condition", "message"),
    [
        ("none", np.zeros((2, 5), np.float32), None, r"z: found float32 \(2, 5\)"),
        ("none", np.zeros((2, 6)), None, "z: found float64"),
        ("none", np.full((2, 6), np.nan, np.float32), None, "expected finite float32"),
        ("none", np.zeros((2, 6), np.float32), np.zeros(2, np.int64), "takes none"),
        ("class", np.zeros((2, 6), np.float32), None, "class: found nothing"),
        ("class", np.zeros((2, 6), np.float32), np.array([0, -1]), "class: found -1 to 0; expected 0 to 2"),
        ("class", np.zeros((2, 6), np.float32), np.array([0, 3]), "class: found 0 to 3; expected 0 to 2"),
        ("class", np.zeros((2, 6), np.float32), np.array([0]), r"class: found int64 \(1,\); expected int64 \(2,\)"),
        ("text", np.zeros((2, 6), np.float32), np.zeros((2, 4), np.float32), r"expected float32 \(2, 5\)"),
        ("text", np.zeros((2, 6), np.float32), np.full((2, 5), np.inf, np.float32), "not finite"),
    ],
)
def test_render_refuses_what_the_runtime_would_not_notice(
    package: Callable[..., Package], kind: str, z: np.ndarray, condition: np.ndarray | None, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        Generator(package(kind), "cpu", threads=1).render(z, condition)


def test_render_of_nothing_is_nothing(package: Callable[..., Package]) -> None:
    generator = Generator(package("none", 1), "cpu", threads=1)
    assert generator.render(np.empty((0, 6), np.float32), None).shape == (0, 8, 8, 1)


def test_an_encoder_that_gives_no_numbers_fails(
    build: Callable[..., Path], encoder: Callable[..., None], reseal: Callable[[Path, ModelCard], None]
) -> None:
    folder = build("text")
    encoder(9, folder / "text_encoder.onnx", not_finite=True)
    reseal(folder, ModelCard.load(folder / "card.json"))
    with pytest.raises(Failed, match=r"text_encoder\.onnx: gave .* not all finite"):
        Generator(open_package(folder), "cpu").embed("a red rose")


def test_a_graph_that_is_not_the_cards_is_refused(
    build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]
) -> None:
    """A card and a graph that agree in their hashes and contradict each other."""
    folder = build("class")
    card = ModelCard.load(folder / "card.json")
    reseal(folder, card.model_copy(update={"latent": Latent(size=7, distribution="normal")}))
    with pytest.raises(Refused, match=r"generator.onnx: takes and gives .*None, 6.*describes .*None, 7"):
        Generator(open_package(folder), "cpu")


def test_an_interpolation_has_the_images_of_its_ends(package: Callable[..., Package]) -> None:
    generator = Generator(package("text"), "cpu", threads=1)
    here, there = Request(prompt="a red rose", seed=3, count=2), Request(prompt="blue petals", seed=40, count=2)
    way = replace(here, towards=Towards(40, "blue petals", 0.0))
    np.testing.assert_array_equal(generator.generate(way).images, generator.generate(here).images)
    way = replace(here, towards=Towards(40, "blue petals", 1.0))
    np.testing.assert_array_equal(generator.generate(way).images, generator.generate(there).images)
    middle = generator.generate(replace(here, towards=Towards(40, "blue petals", 0.5))).images
    assert np.any(middle != generator.generate(here).images) and np.any(middle != generator.generate(there).images)


def test_an_interpolation_goes_straight_between_prompts_and_round_between_seeds(
    package: Callable[..., Package],
) -> None:
    generator = Generator(package("text"), "cpu", threads=1)
    request = Request(prompt="a red rose", seed=3, count=3, truncation=0.8, towards=Towards(40, "blue petals", 0.25))
    inputs = generator.inputs(request)
    assert len(inputs) == 3
    latent = generator.package.card.latent
    np.testing.assert_array_equal(inputs.z, interpolated([3, 4, 5], [40, 41, 42], 0.25, latent, 0.8))
    straight = 0.75 * generator.embed("a red rose") + 0.25 * generator.embed("blue petals")
    assert inputs.condition is not None and inputs.condition.dtype == np.float32
    np.testing.assert_allclose(inputs.condition, np.repeat(straight, 3, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(generator.render(inputs.z, inputs.condition), generator.generate(request).images)
    alone = generator.inputs(replace(request, towards=Towards(prompt="blue petals", position=0.25)))
    np.testing.assert_array_equal(alone.z, latents([3, 4, 5], latent, 0.8))
    np.testing.assert_array_equal(alone.condition, inputs.condition)


def test_inputs_of_several_requests_render_together(package: Callable[..., Package]) -> None:
    generator = Generator(package("class"), "cpu", threads=1)
    requests = [Request(class_name="rose", seed=1, count=2), Request(class_name="poppy", seed=9)]
    inputs = [generator.inputs(request) for request in requests]
    assert [len(each) for each in inputs] == [2, 1]
    np.testing.assert_array_equal(inputs[0].condition, [2, 2])
    together = generator.render(
        np.concatenate([each.z for each in inputs]), np.concatenate([each.condition for each in inputs])
    )
    alone = np.concatenate([generator.generate(request).images for request in requests])
    np.testing.assert_array_equal(together, alone)
    none = Generator(package("none"), "cpu", threads=1).inputs(Request(seed=1))
    assert none.condition is None
    with pytest.raises(Refused, match="class: found 'tulip'"):
        generator.inputs(Request(class_name="tulip"))


def test_facts_of_an_interpolation_name_both_ends(package: Callable[..., Package]) -> None:
    generator = Generator(package("text"), "cpu", threads=1)
    request = Request(prompt="a red rose", seed=3, count=2, towards=Towards(40, "blue petals", 1 / 3))
    facts = generator.facts(request)
    assert (facts.seed, facts.count, facts.to_seed, facts.to_prompt, facts.position) == (3, 2, 40, "blue petals", 1 / 3)
    first, second = generator.generate(request).facts
    assert first == of_image(facts, 0) == facts.model_copy(update={"count": 1})
    assert second == of_image(facts, 1)
    assert (second.seed, second.to_seed, second.position, second.count) == (4, 41, 1 / 3, 1)
    plain = of_image(generator.facts(Request(prompt="a red rose", seed=3, count=9)), 8)
    assert (plain.seed, plain.to_seed, plain.to_prompt, plain.position) == (11, None, None, None)


def with_half(folder: Path, reseal: Callable[[Path, ModelCard], None], **preferred: str) -> Package:
    """A package whose second graph has other weights, so that it is told from the first by its images."""
    save_generator("none", 3, folder / "generator.float16.onnx", seed=2)
    card = ModelCard.load(folder / "card.json")
    half = Variant(file="generator.float16.onnx", psnr=66.0)
    reseal(folder, card.model_copy(update={"variants": {"float16": half}, "preferred": preferred}))
    return open_package(folder)


def test_the_card_prefers_a_precision_for_a_device(
    build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]
) -> None:
    package = with_half(build("none"), reseal, cpu="float16", cuda="int8")
    chosen, half, single = (Generator(package, "cpu", 1, precision) for precision in ("auto", "float16", "float32"))
    assert (chosen.precision, half.precision, single.precision) == ("float16", "float16", "float32")
    request = Request(seed=3, count=2)
    np.testing.assert_array_equal(chosen.generate(request).images, half.generate(request).images)
    assert np.any(single.generate(request).images != half.generate(request).images)
    facts = chosen.facts(request)
    assert (facts.precision, facts.model_sha256) == ("float16", package.sha256("generator.float16.onnx"))
    assert single.facts(request).model_sha256 == package.sha256("generator.onnx")
    with pytest.raises(Refused, match=r"^precision: found int8; .* has float32, float16$"):
        Generator(package, "cpu", 1, "int8")


def test_without_a_preference_it_is_float32(
    build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]
) -> None:
    assert Generator(with_half(build("none"), reseal, cuda="float16"), "cpu", 1).precision == "float32"
