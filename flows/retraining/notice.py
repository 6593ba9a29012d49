"""Who wants to know is told by a command. That it fails changes nothing. A promotion that a run has not come to tell,
because it was killed, is told by the next one.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable

from flows.retraining.look import Findings
from flows.retraining.settings import Settings
from flows.worktree import Worktree
from ganlib.files import write_whole

TIME = 60.0  # seconds that the command is given
UNTOLD = "untold.json"


def tell(settings: Settings, message: str, warn: Callable[[str], None]) -> None:
    """Give a message to the command of the settings, where there is one."""
    if settings.notify is None:
        return
    command = shlex.split(settings.notify)
    try:
        subprocess.run(
            command, input=message + "\n", text=True, timeout=TIME, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        warn(f"notify: {error}")


def intend(tree: Worktree, commit: str, message: str) -> None:
    """Write down what is to be told once a commit holds prod."""
    write_whole(tree.state / UNTOLD, json.dumps({"commit": commit, "message": message}).encode())


def told(tree: Worktree) -> None:
    """Nothing is left to be told."""
    (tree.state / UNTOLD).unlink(missing_ok=True)


def tell_late(tree: Worktree, settings: Settings, found: Findings, warn: Callable[[str], None]) -> None:
    """Tell what an earlier run has not told, where it came true."""
    file = tree.state / UNTOLD
    if file.is_file() and found.champion is not None:
        intended = json.loads(file.read_bytes())
        if intended["commit"] == found.champion.commit:
            tell(settings, f"{intended['message']} (by a run that was cut off then)", warn)
    told(tree)
