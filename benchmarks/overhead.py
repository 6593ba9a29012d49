"""Seconds that orchestration adds to stages that do nothing: `python -m benchmarks.overhead`.

A chain of trivial stages is run bare (its commands one after another), by `dvc repro`, by `python -m flows.pipeline`
with a Prefect server that is running, and by the same with a server of its own; and once more by each of the last three
with nothing to do. The ways take turns in one run. Prints the least of each (what else a machine does can only add to
it) with what it adds to a stage, and the ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from flows.pipeline import SETTINGS

STAGE = """
import pathlib, sys
number = int(sys.argv[1])
with open("log.txt", "a") as log:
    log.write(f"{number}\\n")
seed = pathlib.Path("params.yaml").read_text()
pathlib.Path(f"out/{number}").write_text(seed + (pathlib.Path(f"out/{number - 1}").read_text() if number else ""))
"""
BARE, REPRO, FLOW, ALONE = "bare commands", "dvc repro", "flow", "flow with a server of its own"
IDLE = "nothing to do: "


class Chain:
    """A project of stages that each need the one before, in a git and dvc repository."""

    def __init__(self, folder: Path, stages: int) -> None:
        self.folder = folder
        self.commands = [f"python stage.py {number}" for number in range(stages)]
        self._seed = 0
        beside = str(Path(sys.executable).parent)
        self._environment = {**os.environ, **SETTINGS, "PATH": os.pathsep.join([beside, os.environ["PATH"]])}
        self._environment.pop("PREFECT_API_URL", None)  # a flow that is given none starts its own server
        plan = {
            f"stage-{number}": {
                "cmd": command,
                "deps": ["stage.py", *([f"out/{number - 1}"] if number else [])],
                "params": ["seed"],
                "outs": [f"out/{number}"],
            }
            for number, command in enumerate(self.commands)
        }
        (folder / "out").mkdir()
        (folder / "stage.py").write_text(STAGE)
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": plan}))
        self.change()
        self._run("git", "init", "--quiet")
        self._run(sys.executable, "-m", "dvc", "init", "--quiet")

    def change(self) -> None:
        """Make every stage stale."""
        self._seed += 1
        (self.folder / "params.yaml").write_text(f"seed: {self._seed}\n")

    def bare(self) -> None:
        for command in self.commands:
            subprocess.run(["sh", "-c", command], cwd=self.folder, env=self._environment, check=True)

    def repro(self) -> None:
        self._run(sys.executable, "-m", "dvc", "repro", "--quiet")

    def flow(self, server: str | None = None) -> None:
        """`flows.pipeline` with the Prefect server at an address; without one it starts its own."""
        address = {"PREFECT_API_URL": server} if server else {}
        command = [sys.executable, "-m", "flows.pipeline", "--project", str(self.folder)]
        self._run(*command, folder=Path(__file__).parent.parent, environment=self._environment | address)

    def ran(self) -> list[int]:
        """The stages that ran since the last call, in order."""
        log = self.folder / "log.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [int(line) for line in lines]

    def _run(self, *command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        subprocess.run(
            command, cwd=folder or self.folder, env=environment or self._environment, check=True, capture_output=True
        )


def measure(
    chain: Chain, ways: Mapping[str, Callable[[], None]], rounds: int, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of each way and, but for the bare commands, of the same way again with nothing to do, for each round.

    Raises:
        RuntimeError: where a way ran other stages than it should, which makes its time meaningless.
    """
    seconds: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name, run in ways.items():
            chain.change()
            expected = list(range(len(chain.commands)))
            for key in (name,) if name == BARE else (name, IDLE + name):
                began = time.perf_counter()
                run()
                seconds.setdefault(key, []).append(time.perf_counter() - began)
                if (ran := chain.ran()) != expected:
                    raise RuntimeError(f"{key}: ran the stages {ran} and not {expected}")
                expected = []
                report(f"round {turn + 1} of {rounds}: {key}: {seconds[key][-1]:.2f} s")
    return seconds


def table(seconds: Mapping[str, Sequence[float]], stages: int) -> list[str]:
    """Lines with the least of each way, what it adds to each stage over the bare commands, and its ratios."""
    least = {name: min(times) for name, times in seconds.items()}
    lines = [f"{stages} stages, least of {len(seconds[BARE])}", ""]
    lines.append(f"{'':<48}{'seconds':>9}{'added a stage':>15}{'/ bare':>9}{'/ dvc repro':>13}")
    for name, taken in least.items():
        added = ratio = ""
        if not name.startswith(IDLE):
            added = f"{(taken - least[BARE]) / stages:.2f}"
            ratio = f"{taken / least[BARE]:.1f}"
        by_repro = least[IDLE + REPRO] if name.startswith(IDLE) else least[REPRO]
        lines.append(f"{name:<48}{taken:>9.2f}{added:>15}{ratio:>9}{taken / by_repro:>13.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of dvc repro and of the flow.")
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from flows.server import server

    with tempfile.TemporaryDirectory() as folder, server() as address:
        chain = Chain(Path(folder), options.stages)
        ways = {BARE: chain.bare, REPRO: chain.repro, FLOW: lambda: chain.flow(address), ALONE: chain.flow}
        seconds = measure(chain, ways, options.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(table(seconds, options.stages)))


if __name__ == "__main__":
    main()
