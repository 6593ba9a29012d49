"""`ganlib generate`: files, seeds, grids, and no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.inference.command import generate
from ganlib.inference.gpu import gpu_names
from ganlib.inference.images import Facts, read_facts, unsigned
from ganlib.inference.package import open_package
from ganlib.inference.request import Request, Towards
from ganlib.inference.sample import Generator
from ganlib.problems import Failed, Refused


def run(package: Path, out: Path, lines: list[str] | None = None, **changes: Any) -> list[Path]:
    arguments: dict[str, Any] = {
        "prompt": None,
        "class_name": None,
        "count": 1,
        "seed": 7,
        "truncation": 1.0,
        "report": (lines if lines is not None else []).append,
        "device": "cpu",
        "threads": 1,
    }
    return generate(package, out=out, **(arguments | changes))


def test_a_folder_gets_an_image_a_seed(build: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[str] = []
    paths = run(build("class"), tmp_path / "out", lines, class_name="rose", count=3)
    assert [path.name for path in paths] == ["tiny-class-7.png", "tiny-class-8.png", "tiny-class-9.png"]
    assert [read_facts(path).seed for path in paths] == [7, 8, 9]
    assert {read_facts(path).class_name for path in paths} == {"rose"}
    assert lines == ["tiny-class on cpu: seeds 7 to 9", f"wrote 3 images to {tmp_path / 'out'}"]


def test_a_png_is_one_image_or_a_grid(build: Callable[..., Path], tmp_path: Path) -> None:
    package, lines = build("none"), list[str]()
    assert run(package, tmp_path / "one.png", lines) == [tmp_path / "one.png"]
    assert lines == ["tiny-none on cpu: seed 7", f"wrote {tmp_path / 'one.png'}"]
    assert run(package, tmp_path / "four.PNG", count=4) == [tmp_path / "four.PNG"]
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "four.PNG") as four:
        assert (one.size, four.size) == ((8, 8), (18, 18))
        np.testing.assert_array_equal(np.asarray(four)[:8, :8], np.asarray(one))
    facts = read_facts(tmp_path / "four.PNG")
    assert (facts.seed, facts.count) == (7, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four.PNG", "one.png", "package-none"]


def test_a_folder_may_have_the_grid_too(build: Callable[..., Path], tmp_path: Path) -> None:
    paths = run(build("none"), tmp_path / "out", count=2, with_grid=True)
    assert [path.name for path in paths] == ["tiny-none-7.png", "tiny-none-8.png", "tiny-none-7-grid.png"]


def test_the_same_request_twice_is_the_same_bytes_and_another_prompt_is_kept_beside(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    package = build("text")
    (first,) = run(package, tmp_path / "out", prompt="a red rose")
    before = first.read_bytes()
    assert run(package, tmp_path / "out", prompt="a red rose") == [first]
    (second,) = run(package, tmp_path / "out", prompt="a blue rose")
    assert (first.name, second.name) == ("tiny-text-7.png", "tiny-text-7-2.png")
    assert first.read_bytes() == before


def test_a_drawn_seed_makes_the_image_again(build: Callable[..., Path], tmp_path: Path) -> None:
    package, lines = build("none"), list[str]()
    (drawn,) = run(package, tmp_path / "drawn", lines, seed=None, truncation=0.8)
    seed = read_facts(drawn).seed
    assert lines[0] == f"tiny-none on cpu: seed {seed}"
    (again,) = run(package, tmp_path / "again", seed=seed, truncation=0.8)
    assert again.read_bytes() == drawn.read_bytes()
    (other,) = run(package, tmp_path / "other", seed=None)
    assert read_facts(other).seed != seed


def test_frames_go_from_one_end_to_the_other(build: Callable[..., Path], tmp_path: Path) -> None:
    package, lines = build("text"), list[str]()
    ends = {"prompt": "a red rose", "to_prompt": "a zorp", "to_seed": 90, "count": 5, "truncation": 0.8}
    paths = run(package, tmp_path / "out", lines, **ends, with_grid=True)
    assert [path.name for path in paths] == [
        *(f"tiny-text-7-frame-{i}.png" for i in range(1, 6)), "tiny-text-7-grid.png"
    ]  # fmt: skip
    assert lines == [
        "unknown to tiny-text: zorp; read as words without meaning",
        "tiny-text on cpu: 5 frames from seed 7 to seed 90 and 'a zorp'",
        f"wrote 6 images to {tmp_path / 'out'}",
    ]
    facts = [read_facts(path) for path in paths]
    assert [each.position for each in facts] == [0.0, 0.25, 0.5, 0.75, 1.0, None]
    assert {(each.seed, each.to_seed, each.to_prompt) for each in facts} == {(7, 90, "a zorp")}
    assert [each.count for each in facts] == [1, 1, 1, 1, 1, 5]
    generator = Generator(open_package(package), "cpu", threads=1)
    for path, position in zip(paths, (0, 0.25, 0.5, 0.75, 1), strict=False):
        request = Request("a red rose", None, 7, 1, 0.8, Towards(90, "a zorp", position))
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), generator.generate(request).images[0])
    (last,) = run(package, tmp_path / "last", prompt="a zorp", seed=90, truncation=0.8)
    with Image.open(last) as image, Image.open(paths[4]) as frame:
        np.testing.assert_array_equal(np.asarray(frame), np.asarray(image))


def test_frames_in_one_file_and_of_many_batches(build: Callable[..., Path], tmp_path: Path) -> None:
    package = build("class")
    (sheet,) = run(package, tmp_path / "way.png", class_name="rose", to_seed=9, count=4)
    with Image.open(sheet) as image:
        assert image.size == (18, 18)
    paths = run(package, tmp_path / "out", class_name="rose", to_seed=9, count=130)
    assert [paths[0].name, paths[-1].name] == ["tiny-class-7-frame-001.png", "tiny-class-7-frame-130.png"]
    positions = [read_facts(path).position for path in paths]
    assert positions == [i / 129 for i in range(130)]
    assert (positions[0], positions[-1]) == (0.0, 1.0)


def test_a_position_gives_images_of_many_seeds_there(build: Callable[..., Path], tmp_path: Path) -> None:
    package, lines = build("none"), list[str]()
    paths = run(package, tmp_path / "out", lines, to_seed=20, position=0.25, count=3)
    assert [path.name for path in paths] == ["tiny-none-7.png", "tiny-none-8.png", "tiny-none-9.png"]
    assert [(facts.to_seed, facts.position) for facts in map(read_facts, paths)] == [(20, 0.25), (21, 0.25), (22, 0.25)]
    assert lines[0] == "tiny-none on cpu: seeds 7 to 9, 0.25 towards seed 20"


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has an NVIDIA GPU")
def test_auto_says_what_it_took_and_why(build: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[str] = []
    run(build("none"), tmp_path / "one.png", lines, device="auto")
    assert lines[0] == "tiny-none on cpu (no NVIDIA GPU found): seed 7"


def test_every_file_is_signed(build: Callable[..., Path], tmp_path: Path) -> None:
    def sign(content: bytes, facts: Facts) -> bytes:
        signed.append(facts.count)
        return content[:33] + b"\0\0\0\4caBXseal\0\0\0\0" + content[33:]

    signed: list[int] = []
    package = build("none")
    paths = run(package, tmp_path / "out", count=2, with_grid=True, sign=sign)
    run(package, tmp_path / "one.png", sign=sign)
    assert signed == [1, 1, 2, 1]
    plain = run(package, tmp_path / "plain", count=2, with_grid=True)
    for path, other in zip(paths, plain, strict=True):
        assert unsigned(path.read_bytes()) == other.read_bytes() != path.read_bytes()


def test_unknown_words_are_said_before_the_images(build: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[str] = []
    (path,) = run(build("text"), tmp_path / "out", lines, prompt="a zorp rose")
    assert lines[0] == "unknown to tiny-text: zorp; read as words without meaning"
    assert read_facts(path).unknown_words == ("zorp",)


def test_what_cannot_be_done_is_refused_and_nothing_written(build: Callable[..., Path], tmp_path: Path) -> None:
    package = build("class")
    (tmp_path / "file").write_text("")
    for out, changes, message in (
        (tmp_path / "a.jpg", {"class_name": "rose"}, "out: found .*a.jpg; images are written as PNG"),
        (tmp_path / "file", {"class_name": "rose"}, "out: .*file is a file and not a folder"),
        (tmp_path / "new", {"class_name": "tulip"}, "class: found 'tulip'"),
        (tmp_path / "new", {"class_name": "rose", "seed": -1}, "seed: found -1"),
        (tmp_path / "new.png", {"class_name": "rose", "count": 10_001}, "a grid holds at most 10000 images"),
        (tmp_path / "new", {"class_name": "rose", "device": "tpu"}, "device: found 'tpu'"),
        (tmp_path / "new", {"class_name": "rose", "precision": "int8"}, "precision: found int8; .* has float32"),
        (
            tmp_path / "new",
            {"class_name": "rose", "to_seed": 3},
            "count: found 1; an interpolation has 2 frames or more",
        ),
        (tmp_path / "new", {"class_name": "rose", "position": 0.5}, "position: found 0.5; name to-seed or to-prompt"),
        (tmp_path / "new", {"class_name": "rose", "to_seed": -3, "count": 2}, "towards.seed: found -3"),
        (
            tmp_path / "new",
            {"class_name": "rose", "to_prompt": "a", "count": 2},
            "towards.prompt: found 'a'; .* no text",
        ),
        (tmp_path / "new", {"class_name": "rose", "to_seed": 3, "position": 1.5}, "towards.position: found 1.5"),
        (tmp_path / "new.png", {"class_name": "rose", "to_seed": 3, "count": 10_001}, "a grid holds at most 10000"),
    ):
        with pytest.raises(Refused, match=message):
            run(package, out, **changes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "package-class"]


def test_a_folder_that_cannot_be_made_is_one_line(build: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match=r"^out: .*file.*: (Not a directory|File exists)$"):
        run(build("none"), tmp_path / "file" / "images")


def test_long_work_says_how_far_it_is(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganlib.inference.command.SECONDS_BETWEEN_LINES", -1.0)
    lines: list[str] = []
    assert len(run(build("none"), tmp_path / "out", lines, count=130)) == 130
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"{n} of 130 images" for n in (64, 128, 130)]
    assert all(line.endswith(" s left") for line in lines[1:-1])


@pytest.mark.parametrize(
    "code",
    [
        "import ganlib.inference.sample",
        "import ganlib.inference.command, ganlib.inference.session, ganlib.inference.images, ganlib.inference.signing, "
        "ganlib.inference.doctor",
        "from pathlib import Path; from ganlib.inference.command import generate; "
        "generate(Path(sys.argv[1]), 'a red rose', None, 2, 7, 1.0, Path(sys.argv[2]), print)",
    ],
)
def test_torch_is_never_imported(build: Callable[..., Path], tmp_path: Path, code: str) -> None:
    code = f"import sys; {code}; sys.exit(not {{'torch', 'pandas', 'c2pa'}}.isdisjoint(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(build("text")), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
