from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import batch, worker
from ganlib.files import sha256_of
from ganlib.inference.batch import command
from tests.packages import build_package


@pytest.fixture
def package(tmp_path) -> Path:
    return build_package(tmp_path / "package", "text")


@pytest.fixture
def table(tmp_path) -> Path:
    """Requests for 200 images and one that cannot be done."""
    path = tmp_path / "requests.jsonl"
    rows = [{"prompt": f"a red rose {i}", "count": 2, "note": i} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"prompt": ""}, *rows]))
    return path


@pytest.fixture
def shards(server, monkeypatch):
    """The flow's module, once a server is there for it; a failed task is tried again at once."""
    from flows import shards

    monkeypatch.setattr(shards.write_shard, "retry_delay_seconds", [0, 0])
    return shards


def alone(package: Path, table: Path, out: Path, shard_size: int = 40) -> dict[str, str]:
    """What `ganlib batch` makes."""
    command.batch(package, table, out, str, shard_size=shard_size, device="cpu", threads=1)
    return hashes(out)


def hashes(out: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in out.glob("[0-9]*") if path.suffix != ".json"}


def arguments(package: Path, table: Path, out: Path, *more: str, shard_size: int = 40) -> list[str]:
    size = str(shard_size)
    return [str(package), str(table), "--out", str(out), "--shard-size", size, "--device", "cpu", *more]


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.batch", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_two_workers_make_the_bytes_that_one_makes(runner, package, table, tmp_path, shards, capfd) -> None:
    expected = alone(package, table, tmp_path / "alone")
    out = tmp_path / "out"
    assert batch.main(arguments(package, table, out, "--runner", runner, "--workers", "2")) == 0
    assert hashes(out) == expected
    assert len(expected) == 10
    for name in ("rejects.jsonl", "job.rows", "job.json"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    said, error = capfd.readouterr()
    assert said.startswith(f"1 of 101 rows rejected, see {out / 'rejects.jsonl'}\n")
    assert said.endswith(f"done: 200 images in 5 shards lie in {out}\n")
    assert "temporary server" not in said + error


def test_each_shard_is_a_task_run_and_the_job_an_artifact(package, table, tmp_path, shards) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter
    from prefect.client.schemas.sorting import ArtifactSort

    alone(package, table, tmp_path / "out")
    (tmp_path / "out" / "00001.tar").unlink()
    (tmp_path / "out" / "00003_stats.json").unlink()
    state = shards.batch(package, tmp_path / "out", [1, 3], 2, return_state=True)
    assert state.is_completed()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]}))
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["batch"])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    assert sorted(run.name for run in runs) == ["shard 1", "shard 3"]
    lines = artifact.data.splitlines()
    assert "| images | 80 of this run, 200 in the job |" in lines
    assert "| rows rejected | 1, see rejects.jsonl |" in lines
    assert f"| folder | {tmp_path / 'out'} |" in lines
    assert any(line.startswith("| rate | ") and line.endswith(" images a second |") for line in lines)


def test_a_shard_that_fails_is_tried_again(package, table, tmp_path, shards, monkeypatch) -> None:
    tried: list[int] = []
    write = worker.write

    def unlucky(package, out, shard):
        tried.append(shard)
        if shard == 1 and tried.count(1) < 3:
            raise OSError(5, "Input/output error", "disk")
        return write(package, out, shard)

    monkeypatch.setattr(worker, "write", unlucky)
    assert batch.main(arguments(package, table, tmp_path / "out", "--workers", "2")) == 0
    assert sorted(tried) == [0, 1, 1, 1, 2, 3, 4]
    assert hashes(tmp_path / "out") == alone(package, table, tmp_path / "alone")


def test_a_shard_that_fails_for_good_spares_the_others(package, table, tmp_path, shards, monkeypatch, capsys) -> None:
    write = worker.write

    def unlucky(package, out, shard):
        if shard == 1:
            raise OSError(28, "No space left on device")
        return write(package, out, shard)

    monkeypatch.setattr(worker, "write", unlucky)
    out = tmp_path / "out"
    assert batch.main(arguments(package, table, out)) == 1
    said = capsys.readouterr().err
    assert "flows.batch: shard 1: [Errno 28] No space left on device\n" in said
    assert said.endswith(f"flows.batch: out: {out} has 4 of 5 shards; the same command makes the others\n")
    monkeypatch.setattr(worker, "write", write)
    assert batch.main(arguments(package, table, out)) == 0
    assert hashes(out) == alone(package, table, tmp_path / "alone")


def test_another_package_at_the_path_is_refused_and_not_tried_again(
    package, table, tmp_path, shards, monkeypatch
) -> None:
    alone(package, table, tmp_path / "out")
    (tmp_path / "out" / "00002_stats.json").unlink()
    other = build_package(tmp_path / "other", "text", seed=2)
    tried: list[int] = []
    write = worker.write
    monkeypatch.setattr(worker, "write", lambda *which: (tried.append(which[2]), write(*which))[1])
    state = shards.batch(other, tmp_path / "out", [2], 1, return_state=True)
    assert state.is_failed()
    (failure,) = state.result(raise_on_failure=False)
    assert failure.startswith(f"shard 2: {other}: its card.json is not that of the job")
    assert tried == [2]
    assert not (tmp_path / "out" / "00002_stats.json").exists()


def test_a_worker_loads_the_package_once(package, table, tmp_path, monkeypatch) -> None:
    alone(package, table, tmp_path / "out")
    for stats in (tmp_path / "out").glob("*_stats.json"):
        stats.unlink()
    loaded: list[object] = []
    generator = worker.Generator
    monkeypatch.setattr(worker, "_WRITERS", {})
    monkeypatch.setattr(worker, "Generator", lambda *how: (loaded.append(how), generator(*how))[1])
    with worker.accepting():
        assert sum(worker.write(package, tmp_path / "out", shard).images for shard in (2, 0, 1, 2)) == 160
    assert [how[1:] for how in loaded] == [("cpu", 1, "float32")]
    with pytest.raises(worker.Stopped):
        worker.write(package, tmp_path / "out", 3)
    assert worker.write(package, tmp_path / "out", 2).images == 40
    assert not list((tmp_path / "out").glob(".*.tar"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_flow_that_is_stopped_leaves_a_folder_that_goes_on(
    number, package, table, tmp_path, server, eventually, monkeypatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    rows = [{"prompt": f"a red rose {i % 10}", "count": 1000} for i in range(8)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    runner = "processes" if number == signal.SIGKILL else "threads"
    with start(*arguments(package, table, out, "--runner", runner, "--workers", "2", shard_size=1000)) as process:
        try:
            assert eventually(lambda: list(out.glob(".*.0000[1-9].tar")) or process.poll() is not None)
            writers = {int(path.name.split(".")[1]) for path in out.glob(".*.tar")}
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    if number == signal.SIGKILL:
        assert process.pid not in writers
        assert eventually(lambda: not any(Path(f"/proc/{writer}").exists() for writer in writers))
    else:
        assert process.returncode == (-signal.SIGTERM if number == signal.SIGTERM else 1)
        interrupted = "flows.batch: interrupted; finished shards stay, and the same command goes on from there\n"
        assert said.endswith(interrupted) or number == signal.SIGTERM
        assert not list(out.glob(".*.tar"))
    assert len(list(out.glob("*_stats.json"))) < 8
    assert alone(package, table, out, 1000) == alone(package, table, tmp_path / "alone", 1000)


def test_a_finished_job_starts_no_prefect(package, table, tmp_path) -> None:
    alone(package, table, tmp_path / "out")
    program = (
        "import sys; from flows import batch; code = batch.main(sys.argv[1:]); "
        "assert not {'prefect', 'torch'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments(package, table, tmp_path / "out")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"done: 200 images in 5 shards lie in {tmp_path / 'out'}\n")


def test_dask_that_is_missing_is_one_line(package, table, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert batch.main(arguments(package, table, tmp_path / "out", "--runner", "dask")) == 2
    assert capsys.readouterr().err == (
        "flows.batch: runner: found dask, which is not installed: `pip install 'ganlib[dask]'`\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more", [["--workers", "0"], ["--runner", "ray"], ["--dask-address", "tcp://127.0.0.1:1"], ["--shard-size", "0"]]
)
def test_a_wrong_request_ends_with_code_2(more, package, table, tmp_path, capsys) -> None:
    try:
        code = batch.main(arguments(package, table, tmp_path / "out", *more))
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert capsys.readouterr().err.strip()
    assert not (tmp_path / "out").exists()


def test_the_environment_is_left_as_it_was(package, table, tmp_path, shards, monkeypatch) -> None:
    for before in ({}, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        with monkeypatch.context() as changed:
            changed.delenv("PREFECT_API_URL", raising=False)
            for name, value in before.items():
                changed.setenv(name, value)
            with batch._known_to_all_threads("http://127.0.0.1:8/api"):
                assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:8/api"
            assert os.environ.get("PREFECT_API_URL") == before.get("PREFECT_API_URL")
