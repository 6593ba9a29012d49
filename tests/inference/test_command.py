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
from ganlib.inference.images import read_facts
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
        "import ganlib.inference.command, ganlib.inference.session, ganlib.inference.images",
        "from pathlib import Path; from ganlib.inference.command import generate; "
        "generate(Path(sys.argv[1]), 'a red rose', None, 2, 7, 1.0, Path(sys.argv[2]), print)",
    ],
)
def test_torch_is_never_imported(build: Callable[..., Path], tmp_path: Path, code: str) -> None:
    code = f"import sys; {code}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(build("text")), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
