"""Shards: what `ganlib generate` would make, in files that WebDataset and pandas read, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganlib.inference.batch.job import Job
from ganlib.inference.batch.shard import Stats, Writer, _member, _plain, is_done
from ganlib.inference.images import png, read_facts
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.problems import Failed

Run = Callable[..., Job]

ROWS = {  # 150 + 3 + 1 + 46 images
    "none": [{"seed": 5, "count": 150}, {"count": 3}, {"truncation": 0.5}, {"seed": 2**62, "count": 46}],
    "class": [
        {"class": "rose", "seed": 5, "count": 150}, {"class": "daisy", "count": 3},
        {"class": "rose", "truncation": 0.5}, {"class": "poppy", "seed": 2**62, "count": 46},
    ],
    "text": [
        {"prompt": "a red rose", "seed": 5, "count": 150}, {"prompt": "a zorp, \"rose\"\n\u00e9", "count": 3},
        {"prompt": "a red rose", "truncation": 0.5}, {"prompt": "a blue poppy", "seed": 2**62, "count": 46},
    ],
}  # fmt: skip


def write_table(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def members(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("[0-9]*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def manifest(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("[0-9]*.parquet"))], ignore_index=True)


@pytest.mark.parametrize("kind", ROWS)
def test_images_are_those_that_generate_makes(build: Callable[..., Path], run: Run, tmp_path: Path, kind: str) -> None:
    """Rows that span shards and batches, several rows in a batch, and each with what its row says."""
    rows, out = [row | {"note": f"n{i}"} for i, row in enumerate(ROWS[kind])], tmp_path / "out"
    job = run(build(kind), write_table(rows, tmp_path / "a.jsonl"), out, shard_size=90, seed=1000)
    assert (job.images, job.shards) == (200, 3)
    generator = Generator(open_package(tmp_path / f"package-{kind}"), "cpu", threads=1)
    expected: list[tuple[bytes, dict[str, Any], int]] = []
    for i, row in enumerate(rows):
        request = Request(
            row.get("prompt"), row.get("class"), row.get("seed", 1000 + len(expected)), row.get("count", 1),
            row.get("truncation", 1.0),
        )  # fmt: skip
        made = generator.generate(request)
        for pixels, facts in zip(made.images, made.facts, strict=True):
            expected.append((png(pixels, facts), json.loads(facts.model_dump_json()), i))

    found = list(members(out))
    keys = [f"{image // 90:05d}{image % 90:04d}" for image in range(200)]
    assert [name for name, _ in found] == [f"{key}.{suffix}" for key in keys for suffix in ("png", "json")]
    assert [content for name, content in found if name.endswith("png")] == [file for file, _, _ in expected]
    said = [json.loads(content) for name, content in found if name.endswith("json")]
    assert said == [
        {"key": key, "row": i, "columns": {"note": f"n{i}"}} | facts
        for key, (_, facts, i) in zip(keys, expected, strict=True)
    ]

    frame, condition = manifest(out), {"none": [], "class": ["class"], "text": ["prompt"]}[kind]
    assert list(frame.columns) == ["key", "row", *condition, "seed", "truncation", "sha256", "width", "height", "note"]
    assert list(frame["key"]) == keys
    assert list(frame["row"]) == [i for _, _, i in expected]
    assert [int(seed) for seed in frame["seed"]] == [facts["seed"] for _, facts, _ in expected]
    assert list(frame["truncation"]) == [facts["truncation"] for _, facts, _ in expected]
    assert list(frame["sha256"]) == [hashlib.sha256(file).hexdigest() for file, _, _ in expected]
    assert set(frame["width"]) == set(frame["height"]) == {8}
    assert list(frame["note"]) == [f"n{i}" for _, _, i in expected]
    if condition:
        assert list(frame[condition[0]]) == [rows[i][condition[0]] for _, _, i in expected]


READER = """
import json, sys
import webdataset
for key, pixels, said in webdataset.WebDataset(sys.argv[1], shardshuffle=False).decode("rgb8").to_tuple(
    "__key__", "png", "json"
):
    print(json.dumps([key, pixels.tolist(), said["seed"], said["columns"]]))
"""


def test_webdataset_reads_a_job(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    """In a program of its own: webdataset leaves its files to be closed by chance."""
    rows = [{"class": "rose", "count": 5, "note": "x"}, {"class": "daisy", "count": 2}]
    run(build("class"), write_table(rows, tmp_path / "a.jsonl"), tmp_path / "out", shard_size=4)
    command = [sys.executable, "-c", READER, str(tmp_path / "out" / "{00000..00001}.tar")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert [sample[0] for sample in samples] == [f"{i // 4:05d}{i % 4:04d}" for i in range(7)]
    generator = Generator(open_package(tmp_path / "package-class"), "cpu", threads=1)
    for i, (_, pixels, seed, columns) in enumerate(samples):
        made = generator.generate(Request(class_name="rose" if i < 5 else "daisy", seed=i))
        np.testing.assert_array_equal(pixels, made.images[0])
        assert (seed, columns) == (i, {"note": "x" if i < 5 else None})


def test_each_png_says_how_it_was_made(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    run(build("text"), write_table([{"prompt": "a zorp rose", "seed": 4}], tmp_path / "a.jsonl"), tmp_path / "out")
    name, content = next(members(tmp_path / "out"))
    (tmp_path / name).write_bytes(content)
    facts = read_facts(tmp_path / name)
    assert (facts.prompt, facts.seed, facts.unknown_words, facts.count) == ("a zorp rose", 4, ("zorp",), 1)
    with Image.open(tmp_path / name) as image:
        assert image.size == (8, 8)


def test_the_same_job_is_the_same_bytes_whatever_the_threads(
    build: Callable[..., Path], run: Run, hashes: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    package, table = build("text"), write_table(ROWS["text"], tmp_path / "a.jsonl")
    jobs = [run(package, table, tmp_path / f"out{threads}", shard_size=90, threads=threads) for threads in (1, 2)]
    assert hashes(tmp_path / "out1") == hashes(tmp_path / "out2")
    assert len(hashes(tmp_path / "out1")) == 6
    generator = Generator(open_package(package), "cpu", threads=1)
    for shard in (2, 0):  # alone, and in another order
        (tmp_path / "out1" / f"0000{shard}_stats.json").unlink()
        Writer(generator, encoders=1).write(tmp_path / "out1", jobs[0], shard)
    assert hashes(tmp_path / "out1") == hashes(tmp_path / "out2")


def test_a_prompt_is_embedded_once(
    build: Callable[..., Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = Generator.embed

    def counted(self: Generator, prompt: str) -> Any:
        embedded.append(prompt)
        return embed(self, prompt)

    monkeypatch.setattr(Generator, "embed", counted)
    run(build("text"), write_table(ROWS["text"] * 3, tmp_path / "a.jsonl"), tmp_path / "out", shard_size=90)
    assert sorted(embedded) == sorted({row["prompt"] for row in ROWS["text"]})


def test_images_of_several_rows_share_a_run_of_the_graph(
    build: Callable[..., Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    render = Generator.render

    def counted(self: Generator, z: Any, condition: Any) -> Any:
        sizes.append(len(z))
        return render(self, z, condition)

    monkeypatch.setattr(Generator, "render", counted)
    rows = [{"class": name, "truncation": t} for name in ("rose", "daisy") for t in (1.0, 0.5, 0.7)] * 25
    run(build("class"), write_table(rows, tmp_path / "a.jsonl"), tmp_path / "out", shard_size=130)
    assert sizes == [64, 64, 2, 20]


def test_own_columns_of_any_type_reach_the_json(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    when = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    table = pa.table(
        {"class": ["rose"], "when": [when], "day": [date(2024, 5, 6)], "price": [Decimal("1.50")], "raw": [b"\xff\x00"],
         "nested": [{"a": [1.5, float("nan")]}], "text": ['"\n\u00e9']}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    run(build("class"), tmp_path / "a.parquet", tmp_path / "out")
    said = json.loads(dict(members(tmp_path / "out"))["000000000.json"])
    assert said["columns"] == {
        "when": "2024-05-06T07:08:09+00:00", "day": "2024-05-06", "price": "1.50", "raw": "ff00",
        "nested": {"a": [1.5, None]}, "text": '"\n\u00e9',
    }  # fmt: skip
    back = pq.read_table(tmp_path / "out" / "00000.parquet")
    for name in ("when", "day", "price", "raw", "text"):
        assert back[name].to_pylist() == table[name].to_pylist()
        assert back.schema.field(name).type == table.schema.field(name).type


def test_plain_values_are_left_alone() -> None:
    for value in (None, True, 3, 0.5, "x"):
        assert _plain(value) is value
    assert _plain(float("-inf")) is None


@pytest.mark.parametrize(("name", "size"), [("000000000.png", 3000), ("000000000.json", 0), ("1234567890.png", 512)])
def test_a_member_is_what_tarfile_writes(name: str, size: int) -> None:
    content, buffer = bytes(range(256)) * 16, io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(content[:size]))
        written = buffer.getvalue()
    assert b"".join(_member(name, content[:size])) == written


def test_a_tar_ends_as_one_does(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    run(build("none"), write_table([{"count": 3}], tmp_path / "a.jsonl"), tmp_path / "out")
    content = (tmp_path / "out" / "00000.tar").read_bytes()
    assert len(content) % tarfile.RECORDSIZE == 0
    assert content.endswith(bytes(2 * tarfile.BLOCKSIZE))


def test_a_shard_is_done_when_its_files_are_as_its_stats_say(
    build: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = run(build("text"), write_table(ROWS["text"], tmp_path / "a.jsonl"), out, shard_size=90)
    stats = is_done(out, job, 1)
    assert stats == Stats.model_validate_json((out / "00001_stats.json").read_bytes())
    assert (stats.shard, stats.images, stats.unknown_words) == (1, 90, 3)
    assert stats.tar.sha256 == hashlib.sha256((out / "00001.tar").read_bytes()).hexdigest()
    slowest, fastest = (stats.images / (stats.seconds + rounding) for rounding in (5e-4, -5e-4))
    assert slowest - 0.1 < stats.images_per_second < fastest + 0.1
    for name, content in (("00001_stats.json", b"{"), ("00001.tar", b"cut"), ("00001.parquet", b"")):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(content)
        assert is_done(out, job, 1) is None
        (out / name).unlink()
        assert is_done(out, job, 1) is None
        (out / name).write_bytes(whole)
        assert is_done(out, job, 1) == stats


def test_a_stopped_or_broken_shard_leaves_nothing(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = run(build("none"), write_table([{"count": 300}], tmp_path / "a.jsonl"), out, shard_size=300)
    for path in out.glob("00000*"):
        path.unlink()
    before = sorted(path.name for path in out.iterdir())
    writer = Writer(Generator(open_package(tmp_path / "package-none"), "cpu", threads=1))
    told: list[int] = []

    def stop(images: int) -> None:
        told.append(images)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(out, job, 0, stop)
    assert told == [64, 64]
    assert sorted(path.name for path in out.iterdir()) == before
    whole = (out / "job.rows").read_bytes()
    (out / "job.rows").write_bytes(whole[:-10])
    with pytest.raises(Failed, match=r"job\.rows: .*; name another folder"):
        writer.write(out, job, 0)
    pq.write_table(pq.read_table(io.BytesIO(whole)).slice(0, 0), out / "job.rows")
    with pytest.raises(Failed, match="has 0 of 300 images of shard 0"):
        writer.write(out, job, 0)


def test_many_shards_have_names_of_one_length(tmp_path: Path, build: Callable[..., Path], run: Run) -> None:
    job = run(build("none"), write_table([{"count": 3}], tmp_path / "a.jsonl"), tmp_path / "out")
    large = job.model_copy(update={"shards": 1_000_001})
    assert [large.name_of(shard) for shard in (0, 1_000_000)] == ["0000000", "1000000"]
    assert job.name_of(0) == "00000"
