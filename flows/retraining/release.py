"""A challenger that passed the gate becomes prod: committed, pushed, proved to be in the remote, and only then tagged.

Each step finds out what is done already, so a release that was cut off anywhere is finished by the next run. Nobody
sees anything of it before the last one, which brings all tags to the git remote or none.
"""

from __future__ import annotations

from flows.command import CommandFailed, Report, dvc
from flows.packages import verify_remote
from flows.registry import PROD, publish
from flows.retraining.look import Findings, hashes, own_stages
from flows.tags import identity
from flows.worktree import NO_HOOKS, Worktree
from ganlib.inference import registry
from ganlib.inference.registry import GitFailed
from ganlib.problems import Failed, Refused

CHALLENGER = "challenger"
_OVERTAKEN = ("[rejected]", "non-fast-forward", "fetch first", "cannot lock ref")


class Overtaken(Failed):
    """Somebody has pushed or promoted meanwhile: everything is to be looked at again, upon what they did."""


def commit(tree: Worktree, found: Findings, message: str) -> str:
    """Commit what the retraining has changed, and give the commit; the head itself where nothing has changed.

    What is committed is what is tracked, the arrivals, dvc.lock, and what DVC leaves to git: outputs that it does not
    cache and .gitignore files. What else a stage has left lying about is not.
    """
    tree.git("add", "--update", "--", ".")
    outputs = list(hashes((tree.project / "dvc.lock").read_text()))
    untracked = ("ls-files", "--others", "--exclude-standard", "--")
    new = tree.git(*untracked, "dvc.lock", ":(glob)**/.gitignore", *found.arrivals.files, *outputs).splitlines()
    if new:
        tree.git("add", "--", *new)
    if not tree.git("diff", "--cached", "--name-only", found.head):
        return found.head
    who = identity(tree.project)
    registry.git(*NO_HOOKS, "commit", "--quiet", "--message", message, folder=tree.project, environment=who)
    return tree.git("rev-parse", "HEAD").strip()


def push_data(tree: Worktree, found: Findings, made: str, report: Report) -> None:
    """Push what the challenger is and was made of to the DVC remote, and prove that its package is there.

    Raises:
        Failed: where the remote cannot be written.
    """
    try:
        dvc("push", *own_stages(tree, found), *found.arrivals.files, folder=tree.project, report=report)
    except CommandFailed as error:
        raise Failed(
            f"the DVC remote could not be written: {error.reason}; nothing was published and prod is as it was: see to "
            "the remote and run this again, what was trained is kept"
        ) from error
    verify_remote(tree.project, made, tree.model)


def push_commit(tree: Worktree, found: Findings, made: str) -> None:
    """Bring the commit to the branch, as its next one.

    Raises:
        Overtaken: where somebody has pushed to it meanwhile.
        Failed: where the remote cannot be reached or does not take it.
    """
    if made == found.head:
        return
    try:
        push = ("push", "--quiet", tree.remote, f"{made}:refs/heads/{tree.branch}")
        registry.git(*NO_HOOKS, *push, folder=tree.origin)  # a remote may be a path that is relative to it
    except GitFailed as error:
        refusals = [line for line in error.said.splitlines() if line.lstrip().startswith("!")]
        if any(word in line for word in _OVERTAKEN for line in refusals):
            raise Overtaken(f"{tree.remote}/{tree.branch} has moved on meanwhile") from error
        raise Failed(
            f"{tree.remote}: {tree.branch} was not pushed: {error}; prod is as it was: see to the remote, or name a "
            "branch that may be pushed to in retrain.yaml, and run this again, what was trained is kept"
        ) from error


def promote(tree: Worktree, found: Findings, made: str) -> str:
    """Register the commit and give it challenger and prod; all of that appears at once, and is done once.

    Returns:
        the version.

    Raises:
        Overtaken: where another one was promoted meanwhile.
        Failed: where the remote cannot be reached.
    """
    champion = found.champion.version if found.champion else None
    try:
        return publish(tree.origin, tree.model, made, (PROD, CHALLENGER), tree.remote, champion, verified=True)
    except Refused as error:
        if "meanwhile" in str(error):
            raise Overtaken(str(error)) from error
        raise
    except Failed as error:
        raise Failed(f"{error}; prod is as it was: see to it and run this again, what was trained is kept") from error
