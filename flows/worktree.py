"""A git worktree that belongs to one model's retraining, so that nothing is written into anybody's own working tree.

Everything of it lies in the repository's own folder, below `.git/ganlib/retrain/MODEL/`: the worktree, checkpoints that
survive it, records, and the lock that one run at a time holds. It has the branch's head of the git remote, and shares
the project's DVC cache, so what one run has trained is there for the next one, and for people.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flows.command import dvc
from flows.tags import artifact_name
from ganlib.files import whole_file, write_whole
from ganlib.inference import registry
from ganlib.inference.registry import GitFailed
from ganlib.inference.tags import written
from ganlib.problems import Failed, Refused

CHECKPOINTS = ".checkpoints"
NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")  # `dvc install` puts a checkout and a push of all data there
PLAIN_NAMES = ("-c", "core.quotePath=false")  # of files, as they are


@dataclass(frozen=True)
class Worktree:
    """Where one model of a project is retrained.

    Attributes:
        model: its name in params.yaml.
        artifact: its name in the registry.
        origin: the project's folder that people work in.
        state: folder of all that belongs to this retraining.
        root: the worktree.
        project: the project's folder in it.
        remote, branch: of git, where commits come from and go to.
        dvc_remote: of DVC; None stands for its default.
        checkpoints: folder of them.
    """

    model: str
    artifact: str
    origin: Path
    state: Path
    root: Path
    project: Path
    remote: str
    branch: str
    dvc_remote: str | None
    checkpoints: Path

    def git(self, *arguments: str) -> str:
        """Run git in the worktree's project, without hooks.

        Raises:
            GitFailed: where it fails.
        """
        return registry.git(*NO_HOOKS, *PLAIN_NAMES, *arguments, folder=self.project)

    def refresh(self) -> str:
        """Make the worktree what the branch is at the git remote now, and give that commit.

        What an earlier run left is gone, but for files that git ignores: data, trained models, checkpoints.

        Raises:
            Failed: where the remote cannot be reached.
        """
        base = f"{self._references}/base"
        releases = f"refs/tags/{written(self.artifact)}@*:{self._references}/releases/*"
        wanted = (f"+refs/heads/{self.branch}:{base}", f"+{releases}")
        for left in (self.state.parents[2] / self._references).rglob("*.lock"):  # of a killed git: they are ours alone
            left.unlink()
        # no refmap: two runs at once would write the same refs/remotes; nor is people's FETCH_HEAD ours
        options = ("--quiet", "--no-tags", "--refmap=", "--no-write-fetch-head")
        try:
            registry.git("fetch", *options, self.remote, *wanted, folder=self.origin)
        except GitFailed as error:
            raise Failed(
                f"{self.remote}: {self.branch} could not be fetched: {error}; nothing was started and prod is as it "
                "was: see to the remote and run this again"
            ) from error
        head = registry.git("rev-parse", base, folder=self.origin).strip()
        self._check_out(head)
        self._configure_dvc()
        self._keep_checkpoints()
        return head

    def get(self, path: str, commit: str, out: Path) -> None:
        """Bring a file or folder of the project, as a commit has it, from the DVC cache or remote.

        Raises:
            CommandFailed: where neither has it.
        """
        below = (self.project / path).relative_to(self.root).as_posix()
        dvc("get", "--rev", commit, "--out", str(out), str(self.root), below, folder=self.state)

    @property
    def _references(self) -> str:
        """Where this retraining keeps references of its own."""
        return f"refs/ganlib/retrain/{self.state.name}"

    def _check_out(self, head: str) -> None:
        try:
            if not (self.root / ".git").is_file() or not self.project.is_dir():
                raise FileNotFoundError(self.root)  # git would look for a repository above, and find the people's one
            if (
                Path(self.git("rev-parse", "--path-format=absolute", "--git-common-dir").strip())
                != self.state.parents[2]
            ):
                raise FileNotFoundError(self.root)  # a copied repository's, which works for the original still
            administration = Path(self.git("rev-parse", "--absolute-git-dir").strip())
            (administration / "index.lock").unlink(missing_ok=True)  # of a killed git: this run alone works here
            self.git("reset", "--quiet", "--hard", head)
            registry.git(*NO_HOOKS, "clean", "-ffdq", f"--exclude={CHECKPOINTS}", folder=self.root)
        except (FileNotFoundError, GitFailed):
            _remove(self.root)
            registry.git("worktree", "prune", folder=self.origin)
            # force: it is listed still; force again: a git that was killed has left it locked
            add = ("worktree", "add", "--quiet", "--force", "--force", "--detach", str(self.root), head)
            registry.git(*NO_HOOKS, *add, folder=self.origin)
        if not (self.project / "dvc.yaml").is_file():
            raise Refused(f"{self.remote}/{self.branch}: has no dvc.yaml in the project's folder; commit and push it")

    def _configure_dvc(self) -> None:
        """Settings of DVC as they hold in the project's folder: local ones, and paths that are relative to it."""
        folder = dvc_folder(self.origin)
        settings = [folder / name for name in ("config", "config.local") if (folder / name).is_file()]
        stamp = hashlib.sha256(b"".join(file.read_bytes() for file in settings)).hexdigest()
        mark = f"# {folder} {stamp} {self.dvc_remote}\n"
        place = dvc_folder(self.project) / "config.local"
        if place.is_file() and place.read_text().startswith(mark) and place.stat().st_mode & 0o077 == 0:
            return
        sections: dict[str, dict[str, str]] = {"cache": {"dir": str(folder / "cache")}}
        remotes = set()
        for line in dvc("config", "--list", "--show-origin", folder=self.origin):  # the later line holds
            file, tab, setting = line.partition("\t")
            if setting.startswith("remote."):
                remotes.add(setting.partition("=")[0].removeprefix("remote.").rpartition(".")[0])
            if tab and (self.origin / file).resolve() in settings:  # the user's and the machine's hold here anyway
                key, _, value = setting.partition("=")
                section, _, option = key.rpartition(".")
                sections.setdefault(section, {})[option] = value
        if self.dvc_remote is not None and self.dvc_remote not in remotes:
            raise Refused(f"dvc_remote: found {self.dvc_remote!r}, DVC has {', '.join(sorted(remotes)) or 'none'}")
        if self.dvc_remote is not None:
            sections.setdefault("core", {})["remote"] = self.dvc_remote
        lines = []
        for section, options in sections.items():
            kind, _, name = section.partition(".")
            lines.append(f"['{kind} \"{name}\"']" if name else f"[{kind}]")
            lines += [f"{option} = {_quoted(value)}" for option, value in options.items()]
        with whole_file(place) as temporary:
            temporary.touch(0o600)  # it may have passwords of a remote
            temporary.write_text(mark + "\n".join(lines) + "\n")

    def _keep_checkpoints(self) -> None:
        place = self.project / CHECKPOINTS
        self.checkpoints.mkdir(exist_ok=True)
        if tracked := self.git("ls-files", "--", CHECKPOINTS):
            raise Refused(
                f"{tracked.splitlines()[0]}: is in git; `git rm -r --cached {CHECKPOINTS}`, write {CHECKPOINTS}/ into "
                ".gitignore, commit and push"
            )
        if not place.is_symlink() or place.readlink() != self.checkpoints:
            _remove(place)
            place.symlink_to(self.checkpoints, target_is_directory=True)


@contextlib.contextmanager
def worktree(
    project: Path,
    model: str,
    remote: str = "origin",
    branch: str = "main",
    dvc_remote: str | None = None,
    checkpoints: str | None = None,
) -> Iterator[Worktree]:
    """The worktree of a model's retraining, while no other run uses it. `refresh` brings it to life.

    Args:
        project: the project's folder, in a git repository.
        model: its name in params.yaml.
        remote, branch: of git.
        dvc_remote: of DVC; None stands for its default.
        checkpoints: a folder that machines share, relative to the project's; None keeps them here.

    Raises:
        Refused: where the folder is in no git repository, or not in one with DVC, or the git remote is unknown.
        Failed: where another run holds it, or the shared folder is not there.
    """
    project = project.resolve()
    artifact = artifact_name(project, model)
    top, common = (
        Path(registry.git("rev-parse", "--path-format=absolute", what, folder=project).strip())
        for what in ("--show-toplevel", "--git-common-dir")
    )
    known = registry.git("remote", folder=project).split()
    if remote not in known:
        raise Refused(f"remote: found {remote!r}, git has {', '.join(known) or 'none'}; `git remote add {remote} URL`")
    dvc_folder(project)
    state = common / "ganlib" / "retrain" / written(artifact).replace("/", "+")
    state.mkdir(parents=True, exist_ok=True)
    root = state / "worktree"
    kept = state / CHECKPOINTS.removeprefix(".")
    if checkpoints is not None:
        shared = (project / Path(checkpoints).expanduser()).resolve()
        if not shared.is_dir():
            raise Failed(
                f"checkpoints: {shared} is no folder; nothing was started: mount or make it and run this again"
            )
        kept = shared / state.name
    lock = FileLock(state / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = (state / "holder").read_text() if (state / "holder").is_file() else "unknown"
        raise Failed(
            f"{model}: another run retrains it (process {holder}); wait for it or stop it, then run this again"
        ) from None
    try:
        write_whole(state / "holder", str(os.getpid()).encode())
        place = root / project.relative_to(top)
        yield Worktree(model, artifact, project, state, root, place, remote, branch, dvc_remote, kept)
    finally:
        lock.release()


def dvc_folder(project: Path) -> Path:
    """The folder `.dvc` that a project's settings of DVC lie in: its own, or that of a folder around it.

    Raises:
        Refused: where there is none.
    """
    for folder in (project, *project.parents):
        if (folder / ".dvc").is_dir():
            return folder / ".dvc"
        if (folder / ".git").exists():
            break
    raise Refused(f"{project}: has no DVC; run `dvc init`, add a remote, and commit .dvc/config")


def _remove(place: Path) -> None:
    """Remove a file, a link or a folder, where it is."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _quoted(value: str) -> str:
    """A value as DVC's settings are read: in quotes of a kind that it does not have."""
    quote = next((quote for quote in ('"', "'") if quote not in value), "'''")
    return f"{quote}{value}{quote}"
