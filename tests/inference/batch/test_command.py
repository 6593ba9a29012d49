"""`ganlib batch` as a person runs it: killed, stopped, out of room, twice at once, and finished already."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from ganlib.inference.batch import progress
from ganlib.inference.batch.job import Job
from ganlib.problems import Failed, Refused

Run = Callable[..., Job]
Hashes = Callable[[Path], dict[str, str]]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `ganlib batch`; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(package: Path, table: Path, out: Path, *options: str, limit: int | None = None) -> subprocess.Popen[str]:
        def before() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began us in the background
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [sys.executable, "-m", "ganlib", "batch", str(package), str(table), "--out", str(out), *options]
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Requests for 6,000 images of 3,000 rows, after one that is rejected."""
    path = tmp_path / "requests.csv"
    rows = [f'"a red rose, {i % 50}",2,row {i}' for i in range(3000)]
    path.write_text("\n".join(["prompt,count,note", ",1,bad", *rows]) + "\n")
    return path


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)


MOMENTS = {  # what is seen in the folder when the process is killed
    "before the plan": "job.json",
    "within the plan": ".*.job.rows",
    "within the first shard": ".*.00000.tar",
    "between two shards": "00000_stats.json",
    "within a later shard": ".*.00002.tar",
}


def test_a_killed_job_goes_on_to_the_same_bytes(
    build: Callable[..., Path], run: Run, hashes: Hashes, start: Callable[..., subprocess.Popen[str]], table: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """SIGKILL at five moments of one job, and then to its end."""
    package = build("text")
    run(package, table, tmp_path / "whole", shard_size=1500)
    out = tmp_path / "out"
    for moment, pattern in MOMENTS.items():
        process = start(package, table, out, "--shard-size", "1500")
        if moment == "before the plan":
            wait_for(process, (out / ".lock").exists)
        else:
            wait_for(process, lambda pattern=pattern: list(out.glob(pattern)))
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert not (out / "00003_stats.json").exists()
    code, said, error = finish(start(package, table, out, "--shard-size", "1500"))
    assert (code, error) == (0, "")
    assert "6000 images of 3000 rows in 4 shards, " in said
    assert hashes(out) == hashes(tmp_path / "whole")
    assert len(hashes(out)) == 8
    assert [path.name for path in out.glob(".*")] == [".lock"]
    assert (out / "rejects.jsonl").read_bytes() == (tmp_path / "whole" / "rejects.jsonl").read_bytes()
    assert (out / "job.json").read_bytes() == (tmp_path / "whole" / "job.json").read_bytes()


@pytest.mark.parametrize("there", [(".tar",), (".tar", ".parquet"), (".parquet", "_stats.json")])
def test_a_shard_that_is_not_whole_is_made_again(
    build: Callable[..., Path], run: Run, hashes: Hashes, tmp_path: Path, there: tuple[str, ...]
) -> None:
    """As a process leaves it that was killed between two of its files, or a person who has removed one."""
    package, table, out = build("none"), tmp_path / "a.jsonl", tmp_path / "out"
    table.write_text('{"count": 20}\n')
    run(package, table, out, shard_size=8)
    before = hashes(out)
    for path in out.glob("00001*"):
        if not path.name.endswith(there):
            path.unlink()
    lines: list[str] = []
    run(package, table, out, lines, shard_size=8)
    assert hashes(out) == before
    assert lines[0] == "tiny-none on cpu, float32: 20 images of 1 rows in 3 shards, 2 are there"
    assert lines[1].startswith("wrote 8 images to ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_the_line_says_how_to_go_on(
    build: Callable[..., Path], start: Callable[..., subprocess.Popen[str]], table: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    process = start(build("text"), table, out, "--shard-size", "1000")
    wait_for(process, lambda: list(out.glob(".*.00001.tar")))
    process.send_signal(number)
    assert finish(process)[::2] == (
        1, "ganlib: interrupted; finished shards stay, and the same command goes on from there\n",
    )  # fmt: skip
    assert [path.name for path in out.glob(".*")] == [".lock"]
    assert (out / "00000_stats.json").exists()


def test_no_room_is_one_line_and_leaves_nothing_half_written(
    build: Callable[..., Path], run: Run, hashes: Hashes, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A limit for a file's size: the tar of the second shard, of other prompts, does not fit."""
    package, table, out = build("text"), tmp_path / "a.jsonl", tmp_path / "out"
    rows = [{"prompt": "a rose", "count": 100}, {"prompt": "a rose " * 200, "count": 100}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = start(package, table, out, "--shard-size", "100", limit=300_000)
    code, _, error = finish(process)
    assert code == 1
    assert error.count("\n") == 1
    assert error.startswith("ganlib: out: ")
    assert "File too large; finished shards stay, and the same command goes on from there" in error
    assert {path.name for path in out.iterdir()} == {
        ".lock", "job.json", "job.rows", "00000.tar", "00000.parquet", "00000_stats.json",
    }  # fmt: skip
    run(package, table, out, shard_size=100)
    run(package, table, tmp_path / "whole", shard_size=100)
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system")
def test_a_full_disk_is_one_line_and_the_job_goes_on_when_there_is_room(
    build: Callable[..., Path], run: Run, hashes: Hashes, tmp_path: Path
) -> None:
    package, table, disk = build("none"), tmp_path / "a.jsonl", tmp_path / "disk"
    table.write_text('{"count": 1000}\n')
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(Failed, match="No space left on device; finished shards stay, and the same command"):
            run(package, table, disk / "out", shard_size=250)
        names = {path.name for path in (disk / "out").iterdir()}
        assert "00000_stats.json" in names
        assert [name for name in names if name.startswith(".")] == [".lock"]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        run(package, table, disk / "out", shard_size=250)
        run(package, table, tmp_path / "whole", shard_size=250)
        assert hashes(disk / "out") == hashes(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_finished_job_says_so_and_runs_nothing(
    build: Callable[..., Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, table, out = build("text"), tmp_path / "a.jsonl", tmp_path / "out"
    table.write_text('{"prompt": "a zorp rose", "count": 3}\n{"prompt": "a rose"}\n')
    run(package, table, out, shard_size=2)
    monkeypatch.setattr("ganlib.inference.batch.command.Writer", None)
    lines: list[str] = []
    run(package, table, out, lines, shard_size=2)
    assert lines == [
        "tiny-text on cpu, float32: 4 images of 2 rows in 2 shards, 2 are there",
        "3 images have words in their prompt that tiny-text does not know, see their .json",
        f"done: 4 images in 2 shards lie in {out}",
    ]


def test_a_second_job_in_the_folder_is_refused_while_the_first_runs(
    build: Callable[..., Path], start: Callable[..., subprocess.Popen[str]], table: Path, tmp_path: Path
) -> None:
    package, out = build("text"), tmp_path / "out"
    first = start(package, table, out, "--shard-size", "500")
    wait_for(first, lambda: list(out.glob(".*.00000.tar")))
    code, _, error = finish(start(package, table, out, "--shard-size", "500"))
    assert (code, error) == (
        2, f"ganlib: out: another job is at work in {out}; wait for it, or name another folder\n",
    )  # fmt: skip
    code, said, error = finish(first)
    assert (code, error) == (0, "")
    assert said.endswith(f"done: 6000 images in 12 shards lie in {out}\n")


def test_what_is_wrong_is_refused_with_code_2(
    build: Callable[..., Path], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    table = tmp_path / "a.csv"
    table.write_text("class\nrose\nrosa\n")
    processes = {
        "the lock": start(build("class"), table, tmp_path / "a", "--strict"),
        "a missing table": start(tmp_path / "package-class", tmp_path / "b.csv", tmp_path / "b"),
        "no precision": start(tmp_path / "package-class", table, tmp_path / "c", "--precision", "int8"),
    }
    said = [finish(process) for process in processes.values()]
    assert [code for code, _, _ in said] == [2, 2, 2]
    assert "a.csv: 1 of 2 rows was rejected, row 1: class: found 'rosa'" in said[0][2]
    assert said[1][2] == f"ganlib: {tmp_path / 'b.csv'}: no such file\n"
    assert said[2][2] == f"ganlib: precision: found int8; {tmp_path / 'package-class'} has float32\n"
    assert all(error.count("\n") == 1 for _, _, error in said)


def test_a_folder_that_cannot_be_made_is_one_line(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "a.jsonl").write_text('{"count": 1}\n')
    with pytest.raises(Failed, match=r"^out: .*file.*: Not a directory; "):
        run(build("none"), tmp_path / "a.jsonl", tmp_path / "file" / "out")


def test_a_lock_is_given_back(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"count": 1}\n')
    run(build("none"), tmp_path / "a.jsonl", tmp_path / "out")
    with FileLock(tmp_path / "out" / ".lock", timeout=0):
        pass
    with pytest.raises(Refused, match="shard_size 1000, and this one has 2"):
        run(tmp_path / "package-none", tmp_path / "a.jsonl", tmp_path / "out", shard_size=2)
    with FileLock(tmp_path / "out" / ".lock", timeout=0):
        pass


def test_long_work_says_how_far_it_is(
    build: Callable[..., Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    (tmp_path / "a.jsonl").write_text('{"count": 150}\n')
    lines: list[str] = []
    run(build("none"), tmp_path / "a.jsonl", tmp_path / "out", lines, shard_size=100)
    assert [line.split(",")[0] for line in lines[1:-2]] == [f"{n} of 150 images" for n in (64, 100, 150)]
    assert all(line.endswith(" s left") for line in lines[1:-2])


def test_a_job_may_run_in_any_thread(build: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"count": 1}\n')
    package, done = build("none"), list[Job]()
    thread = threading.Thread(target=lambda: done.append(run(package, tmp_path / "a.jsonl", tmp_path / "out")))
    thread.start()
    thread.join()
    assert done[0].images == 1


def test_torch_is_never_imported(build: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a rose"}\n')
    code = (
        "import sys; from pathlib import Path; from ganlib.inference.batch.command import batch; "
        "batch(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), str); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(build("text")), str(tmp_path / "a.jsonl"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
