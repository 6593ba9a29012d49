"""From a source in its real form to what the store reads: layouts, splits, choice, and what is put aside."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ganlib.card import DatasetSpec
from ganlib.data import flowers
from ganlib.data.store import load_split
from ganlib.problems import Failed, Refused

Files = Mapping[str, bytes]
Ingest = Callable[..., DatasetSpec]


def table(prepared: Path) -> pd.DataFrame:
    return pd.read_parquet(prepared / "items.parquet")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def metadata(rows: list[dict[str, object]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


# ------------------------------------------------------------------------------------------------------------- flowers


def test_flowers_are_written_with_attributes_captions_and_mentions(tmp_path: Path, ingest: Ingest) -> None:
    spec = ingest(source="flowers", path=None, size=32, count=120, seed=4)
    assert sum(spec.counts.values()) == 120
    assert spec.attributes == flowers.ATTRIBUTES
    assert spec.captions_per_image == 5
    assert DatasetSpec.load(tmp_path / "prepared" / "dataset.json") == spec
    images, attributes = flowers.draw(np.arange(120), seed=4, size=32)
    seen = 0
    for split in ("train", "test"):
        loaded = load_split(tmp_path / "prepared", None, split)
        assert len(loaded.images) == spec.counts[split]
        for row, item in loaded.items.iterrows():
            index = int(item["id"].removeprefix("flower-"))
            np.testing.assert_array_equal(loaded.images[row], images[index])
            colour, shape = attributes["petal_colour"][index], attributes["petal_shape"][index]
            named = f"{flowers.ATTRIBUTES['petal_colour'][colour]} {flowers.ATTRIBUTES['petal_shape'][shape]}"
            assert spec.classes[loaded.labels[row]] == named
            assert item["attribute/petal_colour"] == colour
            assert len(item["mentions"]) == len(loaded.captions(row)) == 5
            seen += 1
    assert seen == 120
    train = load_split(tmp_path / "prepared", None, "train").images
    assert spec.mean == pytest.approx(train.mean((0, 1, 2)))
    assert spec.std == pytest.approx(train.std((0, 1, 2)))


def test_the_same_settings_write_the_same_bytes(tmp_path: Path, ingest: Ingest) -> None:
    settings = {"source": "flowers", "path": None, "size": 32, "count": 40}
    ingest(**settings)
    first = hashes(tmp_path / "prepared")
    ingest(**settings)
    assert hashes(tmp_path / "prepared") == first
    assert set(first) == {"images.npy", "items.parquet", "dataset.json"}


# ------------------------------------------------------------------------------------------------------------- layouts


def test_class_folders_are_the_same_in_a_folder_a_zip_and_a_tar(
    container: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    container(
        {f"wrapped/twice/{name}": content for name, content in pictures.items()}
        | {"wrapped/.DS_Store": b"x", "README.md": b"x", "wrapped/twice/LICENSE": b"x"}
    )
    spec = ingest(test_share=0.3)
    assert spec.classes == ("cat", "dog")
    assert not spec.refused
    assert len(spec.sources) == 1
    rows = table(tmp_path / "prepared")
    assert sorted(rows["id"]) == sorted(f"wrapped/twice/{name}" for name in pictures)
    images = np.load(tmp_path / "prepared" / "images.npy")
    for image, (_, row) in zip(images, rows.iterrows(), strict=True):
        name, number = row["id"].removesuffix(".png").split("/")[2:]
        assert spec.classes[row["label"]] == name
        assert (image == (20 * int(number), 100 if name == "cat" else 200, 7)).all()
    assert list(rows["split"]) == ["train"] * spec.counts["train"] + ["test"] * spec.counts["test"]


def test_deliveries_are_taken_together(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    """One that has files of one class alone too, and with what DVC lays beside them."""
    names = sorted(pictures)  # cats first
    deliveries = {"monday": names[:2], "tuesday": names[2:]}
    files = {f"{day}/{name}": pictures[name] for day, those in deliveries.items() for name in those}
    files |= {f"{day}/SHA256SUMS": b"sums" for day in deliveries}
    place = folder(files | {"monday.dvc": b"outs", ".gitignore": b"/monday"})
    spec = ingest()
    assert (spec.classes, spec.refused, sum(spec.counts.values())) == (("cat", "dog"), {}, 12)
    assert set(table(tmp_path / "prepared")["id"]) == {name for name in files if not name.endswith("SHA256SUMS")}

    (place / "first" / "cat").mkdir(parents=True)
    (place / "first" / "cat" / "1.png").write_bytes(pictures[names[0]])
    with pytest.raises(
        Refused, match=r"found first/cat/1\.png beside the delivery monday/, which its SHA256SUMS makes"
    ):
        ingest()


def test_a_table_is_the_same_in_a_folder_a_zip_and_a_tar(
    container: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    rows = [
        {"file_name": name, "captions": [f"a {name[:3]}", "an animal"], "label": name[:3], "split": split}
        for name, split in zip(pictures, ["test", "train"] * 6, strict=True)
    ]
    container({f"data/{name}": content for name, content in pictures.items()} | {"data/metadata.jsonl": metadata(rows)})
    spec = ingest()
    assert spec.counts == {"train": 6, "test": 6}
    assert spec.captions_per_image == 2
    loaded = load_split(tmp_path / "prepared", None, "test")
    assert sorted(loaded.items["id"]) == sorted(f"data/{name}" for name in list(pictures)[::2])
    for row in range(6):
        assert loaded.captions(row) == [f"a {loaded.items['id'][row][5:8]}", "an animal"]


def test_train_and_test_folders_above_class_folders(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    files = {f"{'test' if '/5' in name else 'train'}/{name}": content for name, content in pictures.items()}
    folder(files | {"README.md": b"x"})
    spec = ingest()
    assert spec.counts == {"train": 10, "test": 2}
    assert spec.classes == ("cat", "dog")
    assert sorted(load_split(tmp_path / "prepared", None, "test").items["id"]) == ["test/cat/5.png", "test/dog/5.png"]


def test_a_table_in_each_split_folder(folder: Callable[[Files], Path], pictures: Files, ingest: Ingest) -> None:
    names = list(pictures)
    files = {f"{'train' if number < 9 else 'test'}/{number}.png": pictures[name] for number, name in enumerate(names)}
    for split, numbers in (("train", range(9)), ("test", range(9, 12))):
        rows = [f"{number}.png,picture {number}" for number in numbers]
        files[f"{split}/metadata.csv"] = "\n".join(["file_name,text", *rows]).encode()
    folder(files)
    spec = ingest()
    assert spec.counts == {"train": 9, "test": 3}
    assert spec.classes == ()
    assert spec.captions_per_image == 1


def test_loose_images_have_no_classes(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    folder({name.replace("/", "-"): content for name, content in pictures.items()} | {"README.md": b"hello"})
    spec = ingest()
    assert spec.classes == ()
    assert sum(spec.counts.values()) == 12
    assert set(table(tmp_path / "prepared")["label"]) == {-1}


def test_the_hash_of_a_folder_follows_its_content(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    path = folder(pictures)
    first = ingest().sources
    assert list(first) == ["source/ (12 files)"]
    assert ingest().sources == first
    (path / "cat" / "0.png").write_bytes(pictures["cat/1.png"])
    assert ingest().sources != first


# ---------------------------------------------------------------------------------------------------------- deliveries


def delivered(**deliveries: Files) -> dict[str, bytes]:
    """The files of each delivery in its folder, with what makes it one."""
    files = {f"{day}/{name}": content for day, own in deliveries.items() for name, content in own.items()}
    return files | {f"{day}/SHA256SUMS": b"sums" for day in deliveries}


def of_class(pictures: Files, name: str, within: str = "") -> dict[str, bytes]:
    return {f"{within}{file}": content for file, content in pictures.items() if file.startswith(name)}


def test_each_delivery_is_read_by_its_tables_or_by_its_class_folders(
    container: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    """A single class folder beside a table with labels is a class, in the folders around it or without."""
    rows = [{"file_name": name, "label": "ant"} for name in of_class(pictures, "cat")]
    tabled = of_class(pictures, "cat") | {"metadata.jsonl": metadata(rows), "dog/unlisted.png": b"not listed"}
    container(delivered(monday=tabled, tuesday=of_class(pictures, "dog", "images/")))
    spec = ingest()
    assert (spec.classes, spec.refused) == (("ant", "dog"), {})
    labels = {row["id"]: spec.classes[row["label"]] for _, row in table(tmp_path / "prepared").iterrows()}
    assert labels == {f"monday/cat/{number}.png": "ant" for number in range(6)} | {
        f"tuesday/images/dog/{number}.png": "dog" for number in range(6)
    }


def test_a_class_called_train_beside_a_table_is_a_class(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    rows = [{"file_name": name, "label": "bus"} for name in of_class(pictures, "cat")]
    trains = {name.replace("dog", "train"): content for name, content in of_class(pictures, "dog").items()}
    folder(delivered(monday=of_class(pictures, "cat") | {"metadata.jsonl": metadata(rows)}, tuesday=trains))
    spec = ingest()
    assert (spec.classes, spec.refused, sum(spec.counts.values())) == (("bus", "train"), {}, 12)


def test_a_table_beside_deliveries_is_not_passed_over(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    folder(delivered(monday=pictures) | {"metadata.csv": b"file_name,label\nmonday/cat/0.png,ant\n"})
    with pytest.raises(Refused, match=r"source: found metadata\.csv beside the delivery monday/, .* SHA256SUMS of its"):
        ingest()


def split_up(pictures: Files) -> dict[str, bytes]:
    return {f"{'test' if '/5' in name else 'train'}/{name}": content for name, content in pictures.items()}


def test_splits_are_decided_for_each_delivery(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    folder(delivered(monday=split_up(pictures), tuesday=of_class(pictures, "cat", "train/")))
    spec = ingest()
    assert (spec.classes, spec.counts) == (("cat", "dog"), {"train": 16, "test": 2})
    folder(delivered(wednesday=pictures))
    with pytest.raises(Refused, match="12 of 30 items at source have no split, others do"):
        ingest()


@pytest.mark.parametrize("tabled", ["monday", "tuesday"])
def test_splits_of_tables_and_of_folders_are_the_same(
    tabled: str, folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    """Where the delivery with a table alone has splits, and where that without alone has some."""
    names = list(pictures)
    splits = ["train", "test"] * 6 if tabled == "monday" else [None] * 12
    rows = [{"file_name": n, "label": n[:3], "split": split} for n, split in zip(names, splits, strict=True)]
    with_table = dict(pictures) | {"metadata.jsonl": metadata(rows)}
    folder(delivered(monday=with_table, tuesday=pictures if tabled == "monday" else split_up(pictures)))
    with pytest.raises(Refused, match="12 of 24 items at source have no split, others do"):
        ingest()


def test_splits_without_classes_are_decided_for_each_delivery(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    """A folder train with files in it is a split among splits, and a class beside classes."""
    loose = {f"{'test' if '/5' in name else 'train'}/{name.replace('/', '-')}": c for name, c in pictures.items()}
    trains = {name: content for name, content in loose.items() if name.startswith("train")}
    path = folder(delivered(monday=loose, tuesday=trains))
    spec = ingest()
    assert (spec.classes, spec.counts) == ((), {"train": 20, "test": 2})
    for file in (path / "monday" / "test").iterdir():
        file.unlink()
    folder(delivered(monday=pictures))
    for file in (path / "monday" / "train").iterdir():
        file.unlink()
    assert ingest().classes == ("cat", "dog", "train")


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_more_around_the_classes_of_one_delivery_is_refused(
    split: str, folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    named = {f"{split}{name}": content for name, content in pictures.items()}
    wrapped = {f"images/{name}": content for name, content in named.items()}
    path = folder(delivered(monday=named, zoo=wrapped, zoo_again=wrapped))
    with pytest.raises(
        Refused,
        match=rf"source: found zoo/images/{split}cat/\d\.png, where cat lies in the folder images, and "
        rf"monday/{split}cat/\d\.png, where cat is a class; lay",
    ):
        ingest()
    for name in named:
        (path / "monday" / name).unlink()
    assert ingest().classes == ("cat", "dog")  # all alike: a folder around the whole


def test_folders_below_a_class_are_not_looked_at(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    """Not even where they are called as another class is, as long as both are seen to be classes."""
    mixed = {"mixed/cat/0.png": pictures["cat/0.png"], "mixed/young/0.png": pictures["dog/0.png"]}
    young = {"dog/young/0.png": pictures["dog/0.png"], "dog/old/0.png": pictures["dog/1.png"]}
    folder(delivered(monday=of_class(pictures, "cat"), tuesday=mixed | of_class(pictures, "cat"), wednesday=young))
    spec = ingest(test_share=0.0)
    assert (spec.classes, sum(spec.counts.values())) == (("cat", "dog", "mixed"), 16)


# ----------------------------------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize(
    "name", ["more.zip", "more.ZIP", "more.tar", "more.tar.gz", "more.tgz", "monday/more.tar.xz", "monday/cat/more.zip"]
)
@pytest.mark.parametrize("manifest", [True, False])
def test_an_archive_among_the_files_is_refused(
    name: str, manifest: bool, folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    files = delivered(monday=pictures) if manifest else {f"monday/{file}": pictures[file] for file in pictures}
    folder(files | {name: b"PK"})
    with pytest.raises(Refused, match=rf"source: found the archive {name} .* unpack it .* alone in ingest\.path"):
        ingest()


def test_an_archive_alone_or_beside_a_table_is_refused(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    path = folder({"pictures.zip": b"PK"})
    with pytest.raises(Refused, match=r"source: found the archive pictures\.zip"):
        ingest()
    rows: list[dict[str, object]] = [{"file_name": name, "text": "a pet"} for name in pictures]
    folder(dict(pictures) | {"metadata.jsonl": metadata(rows), "notes.txt": b"x", "unlisted.png": b"x"})
    with pytest.raises(Refused, match=r"source: found the archive pictures\.zip"):
        ingest()
    (path / "pictures.zip").unlink()
    assert sum(ingest().counts.values()) == 12  # other files may lie beside a table


def test_classes_that_differ_only_in_case_are_refused(
    container: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    container(delivered(monday=pictures, tuesday={"CAT/0.png": pictures["cat/0.png"]}))
    with pytest.raises(
        Refused, match=r"source: found the classes cat \(monday/cat/\d\.png\) and CAT \(tuesday/CAT/0\.png\), which"
    ):
        ingest()


def test_labels_of_a_table_may_differ_only_in_case(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    """Letters do, large and small."""
    rows: list[dict[str, object]] = [{"file_name": name, "label": name[:3]} for name in pictures]
    rows[3]["label"] = "Cat"
    folder(dict(pictures) | {"metadata.jsonl": metadata(rows)})
    assert set(ingest().classes) == {"cat", "Cat", "dog"}


# ----------------------------------------------------------------------------------------------------- choice and split


def test_a_split_by_share_does_not_move_when_files_are_added(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    picture = next(iter(pictures.values()))
    folder({f"cat/{number}.png": picture for number in range(100)})  # one folder: no classes yet
    ingest(test_share=0.3)
    before = table(tmp_path / "prepared").set_index("id")["split"]
    folder({f"ant/{number}.png": picture for number in range(50)})
    ingest(test_share=0.3)
    after = table(tmp_path / "prepared").set_index("id")["split"]
    assert (after[before.index] == before).all()
    assert 0.2 < (after == "test").mean() < 0.4
    ingest(test_share=0.3, seed=1)
    assert (table(tmp_path / "prepared").set_index("id")["split"][before.index] != before).any()


def test_classes_and_limit(folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest) -> None:
    folder(pictures)
    spec = ingest(classes=["dog"])
    assert spec.classes == ("dog",)
    assert sum(spec.counts.values()) == 6
    ingest(limit=5, test_share=0.0)
    five = set(table(tmp_path / "prepared")["id"])
    assert len(five) == 5
    ingest(limit=8, test_share=0.0)
    assert five < set(table(tmp_path / "prepared")["id"])
    ingest(limit=5, test_share=0.0, seed=1)
    assert set(table(tmp_path / "prepared")["id"]) != five
    with pytest.raises(Refused, match=r"ingest\.classes: found 'dgo'; did you mean 'dog'\?"):
        ingest(classes=["cat", "dgo"])


def test_a_limit_keeps_the_splits_of_the_source(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    folder({f"{'test' if '/5' in name else 'train'}/{name}": content for name, content in pictures.items()})
    for seed in range(5):
        ingest(limit=3, seed=seed)
        rows = table(tmp_path / "prepared")
        assert all(row["split"] == row["id"].split("/")[0] for _, row in rows.iterrows())


def test_numbered_classes_are_in_the_order_of_numbers(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    picture = next(iter(pictures.values()))
    folder(
        {f"{number}/a.png": picture for number in (10, 9, 1)} | {f"{number}/b.png": picture for number in (10, 9, 1)}
    )
    assert ingest(test_share=0.0).classes == ("1", "9", "10")


# -------------------------------------------------------------------------------------------------------- put aside


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def test_bad_files_are_counted_by_reason_and_the_rest_is_kept(
    container: Callable[[Files], Path], pictures: Files, encode: Callable[..., bytes], tmp_path: Path, ingest: Ingest
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    bad = {
        "cat/cut.jpg": encode(noise, "JPEG")[:900],
        "cat/page.jpg": b"<!doctype html><title>404</title>",
        "dog/bomb.png": bomb(),
        "dog/notes.txt": b"nothing to see",
    }
    container(pictures | bad)
    lines: list[str] = []
    spec = ingest(report=lines.append, max_refused=0.25)
    assert spec.refused == {"not_an_image": 2, "oversized": 1, "truncated": 1}
    assert spec.refused_examples["truncated"] == ("cat/cut.jpg",)
    assert set(spec.refused_examples["not_an_image"]) == {"cat/page.jpg", "dog/notes.txt"}
    assert "1 truncated (cat/cut.jpg)" in lines[-1]
    rows = table(tmp_path / "prepared")
    assert sorted(rows["id"]) == sorted(pictures)
    images = np.load(tmp_path / "prepared" / "images.npy")
    assert images.shape == (12, 8, 8, 3)
    for image, name in zip(images, rows["id"], strict=True):  # rows and pictures still belong together
        assert (image[..., 0] == 20 * int(name[4])).all()
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == [
        "dataset.json",
        "images.npy",
        "items.parquet",
    ]


def test_too_many_bad_files_fail_and_leave_what_was_there(
    folder: Callable[[Files], Path], pictures: Files, tmp_path: Path, ingest: Ingest
) -> None:
    folder(pictures)
    ingest()
    before = hashes(tmp_path / "prepared")
    folder({"cat/page.jpg": b"<html>"})
    with pytest.raises(
        Failed,
        match=r"7\.7% of source is unusable, and ingest\.max_refused is 5\.0%: 1 not_an_image \(cat/page\.jpg: HTML",
    ):
        ingest()
    assert hashes(tmp_path / "prepared") == before
    assert not list(tmp_path.glob(".*prepared"))


def test_what_a_table_gets_wrong_is_put_aside(folder: Callable[[Files], Path], pictures: Files, ingest: Ingest) -> None:
    rows: list[dict[str, object]] = [{"file_name": name, "text": "a pet", "label": name[:3]} for name in pictures]
    rows += [
        {"file_name": "cat/0.png", "text": "again", "label": "cat"},
        {"file_name": "gone.png", "text": "gone", "label": "cat"},
        {"file_name": "../../etc/passwd", "text": "outside", "label": "cat"},
    ]
    rows[1]["label"] = None
    rows[2]["text"] = " "
    folder(dict(pictures) | {"metadata.jsonl": metadata(rows)})
    spec = ingest(max_refused=0.5)
    assert spec.refused == {"duplicate_id": 1, "missing": 2, "no_caption": 1, "no_label": 1}
    assert sum(spec.counts.values()) == 10
    with pytest.raises(Failed, match=r"33\.3% of source is unusable"):
        ingest()


def test_nothing_usable_is_one_line(tmp_path: Path, folder: Callable[[Files], Path], ingest: Ingest) -> None:
    with pytest.raises(Refused, match=r"ingest\.path: .*source: no such file"):
        ingest()
    path = folder({"README.md": b"x"})
    with pytest.raises(Refused, match="no images: neither class folders"):
        ingest()
    (path / "metadata.csv").write_bytes(b"file_name,label\n")
    with pytest.raises(Refused, match="nothing to take from source"):
        ingest()
    (path / "metadata.jsonl").write_bytes(b"")
    with pytest.raises(Refused, match="several tables"):
        ingest()
    (path / "metadata.jsonl").unlink()
    (path / "metadata.csv").write_bytes(b"file_name,label\nREADME.md,cat\n")
    with pytest.raises(Refused, match=r"none of 1 images at source can be used; 1 not_an_image \(README\.md"):
        ingest(max_refused=1.0)
    assert not (tmp_path / "prepared").exists()


def test_splits_for_some_items_alone_are_refused(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    rows = [
        {"file_name": name, "split": split} for name, split in zip(pictures, ["train", "test", None] * 4, strict=True)
    ]
    folder(dict(pictures) | {"metadata.jsonl": metadata(rows)})
    with pytest.raises(Refused, match="4 of 12 items at source have no split"):
        ingest()


def test_a_test_share_of_one_leaves_nothing_to_train_on(
    folder: Callable[[Files], Path], pictures: Files, ingest: Ingest
) -> None:
    folder(pictures)
    with pytest.raises(Refused, match=r"no training images among 12; ingest\.test_share is 1\.0"):
        ingest(test_share=1.0)


@pytest.mark.parametrize("path", ["$GANLIB_TEST_SOURCE/inner", "${GANLIB_TEST_SOURCE}/inner"])
def test_the_path_may_come_from_the_environment(
    path: str,
    folder: Callable[[Files], Path],
    pictures: Files,
    tmp_path: Path,
    ingest: Ingest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder({f"inner/{name}": content for name, content in pictures.items()})
    monkeypatch.delenv("GANLIB_TEST_SOURCE", raising=False)
    with pytest.raises(Refused, match=r"ingest\.path: .* GANLIB_TEST_SOURCE is not set"):
        ingest(path=path)
    monkeypatch.setenv("GANLIB_TEST_SOURCE", str(tmp_path / "source"))
    assert sum(ingest(path=path).counts.values()) == 12


# ---------------------------------------------------------------------------------------------------------- the store


def test_the_store_pairs_every_caption_with_its_embedding(tmp_path: Path, ingest: Ingest) -> None:
    ingest(source="flowers", path=None, size=32, count=30)
    embedded = tmp_path / "embedded"
    embedded.mkdir()
    captions = [text for several in table(tmp_path / "prepared")["captions"] for text in several]
    codes = np.array([[len(text), zlib.crc32(text.encode()) % 1000] for text in captions], dtype=np.float32)
    np.save(embedded / "embeddings.npy", codes)
    for split in ("train", "test"):
        loaded = load_split(tmp_path / "prepared", embedded, split)
        assert loaded.embeddings is not None
        for item in range(len(loaded.images)):
            own = loaded.embeddings[loaded.first_caption[item] : loaded.first_caption[item + 1]]
            expected = [[len(text), zlib.crc32(text.encode()) % 1000] for text in loaded.captions(item)]
            np.testing.assert_array_equal(own, expected)
    np.save(embedded / "embeddings.npy", codes[:-1])
    with pytest.raises(Refused, match="149 embeddings for 150 captions"):
        load_split(tmp_path / "prepared", embedded, "train")
    with pytest.raises(Refused, match="no images in the split 'validation'"):
        load_split(tmp_path / "prepared", None, "validation")
