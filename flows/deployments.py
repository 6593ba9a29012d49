"""What prefect.yaml deploys, and the place for it at a Prefect server: `python -m flows.deployments`.

It makes the work pool with its queues and their limits, the deployments, and the automation that ends runs whose
process is gone. Run again, it changes what has changed and nothing else. Exit codes: 0 done, 1 it failed, 2 no server
or project was named.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.command import CommandFailed, run
from flows.pipeline import SETTINGS
from ganlib.problems import Failed, Refused

POOL = "machines"
QUEUES = {"training": 1, "batch": None}  # with the runs that each lets run at once, in the whole pool
SILENCE = 300.0  # seconds without a sign of life after which a run counts as crashed; prefect.yaml sets one in 30
LAST = 30  # lines of `prefect deploy` that are shown where it fails
CRASHED = "ganlib: runs whose process is gone"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.deployments", description="Deploy what prefect.yaml says.")
    parser.add_argument("--file", type=Path, default=Path("prefect.yaml"), help="default: prefect.yaml")
    options = parser.parse_args(arguments)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        deploy(options.file)
    except (Refused, Failed) as error:
        print(f"flows.deployments: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


def deploy(file: Path, silence: float = SILENCE) -> None:
    """Make the pool, its queues, the deployments of a file and the automation, at the configured server.

    Args:
        file: prefect.yaml.
        silence: see `end_the_dead`.

    Raises:
        Refused: where there is no such file, or no server is configured.
        Failed: where the server or `prefect deploy` fails.
    """
    if not file.is_file():
        raise Refused(f"file: found {file}, which is no file; expected prefect.yaml")
    if not PREFECT_API_URL.value():
        raise Refused("PREFECT_API_URL: not set; `make up` starts a server and does all this")
    try:
        with get_client(sync_client=True) as client:
            make_pool(client)
            end_the_dead(client, silence)
    except HTTPError as error:
        raise Failed(f"PREFECT_API_URL: {PREFECT_API_URL.value()} does not answer as it should: {error}") from error
    try:
        run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)], Path())
    except CommandFailed as error:
        print(*error.lines[-LAST:], sep="\n", file=sys.stderr)
        raise Failed(f"{file}: prefect deploy has ended with exit code {error.code}; see above") from error
    print(f"deployed at {PREFECT_API_URL.value()}: what {file} says, on the pool {POOL}", flush=True)


def make_pool(client: SyncPrefectClient) -> None:
    """The work pool, of processes, with its queues; what is there stays as somebody may have set it."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))
    for name, limit in QUEUES.items():
        try:
            client.read_work_queue_by_name(name, work_pool_name=POOL)
        except ObjectNotFound:
            client.create_work_queue(name, concurrency_limit=limit, work_pool_name=POOL)


def end_the_dead(client: SyncPrefectClient, silence: float = SILENCE) -> None:
    """The automation without which a run whose process was killed together with its worker would count as running for
    ever, and keep its place in the queue.

    Args:
        client: of the server.
        silence: seconds without a sign of life; runs of this pool give one every PREFECT_FLOWS_HEARTBEAT_FREQUENCY.
    """
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification({"prefect.resource.role": "work-pool", "prefect.resource.name": POOL}),
        for_each={"prefect.resource.id"},
        after={f"prefect.flow-run.{sign}" for sign in ("Pending", "Running", "heartbeat")},
        expect={"prefect.flow-run.*"},  # any state that it may end in, and the next heartbeat
        posture=Posture.Proactive,
        within=timedelta(seconds=silence),
    )
    message = f"no sign of life for {silence:g} s: its process is gone; run it again, it goes on from there"
    automation = AutomationCore(
        name=CRASHED, trigger=trigger, actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)]
    )
    there = client.find_automation(CRASHED)
    if there is None:
        client.create_automation(automation)
    else:
        client.update_automation(there.id, automation)


if __name__ == "__main__":
    sys.exit(main())
