"""The models that are served: loaded off to the side, put in place, and drained when their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from ganlib.card import ModelCard
from ganlib.inference.sample import Generator
from ganlib.problems import Failed, Refused
from ganlib.serving.batcher import Batcher
from ganlib.serving.logs import LOGGER, note
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Offer, Source, Stamp

State = Literal["READY", "LOADING", "UNAVAILABLE"]
_SOON = 0.5  # seconds between looks until the start is over
_NOT_YET = "the models are being loaded; try again"


class Unknown(LookupError):
    """No such model or version."""


class NotReady(Exception):
    """The model is known and cannot answer, or not yet."""


@dataclass(frozen=True)
class Served:
    """A loaded version.

    Attributes:
        name, version: what clients call it; the version is a whole number.
        generator: its package in the runtime.
        batcher: the queue in front of it.
    """

    name: str
    version: str
    generator: Generator
    batcher: Batcher

    @property
    def card(self) -> ModelCard:
        """What goes in, what comes out, where it is from and how good it is."""
        return self.generator.package.card


@dataclass(frozen=True)
class Entry:
    """A version that is known, and what has become of it.

    Attributes:
        reason: why it is not READY; empty where it is.
    """

    name: str
    version: str
    state: State
    reason: str


@dataclass(frozen=True)
class _Tried:
    """A version that could not be loaded.

    Attributes:
        since: when it was first seen with this stamp, by the monotonic clock.
        final: whether it has stayed the same for so long that nobody can be writing it.
    """

    stamp: Stamp
    reason: str
    since: float
    final: bool


class Models:
    """The versions that some sources offer, as they come and go.

    Whatever takes time happens in one thread of its own: looking, loading, trying out. What is served is a mapping that
    is replaced whole, so whoever looks a model up sees the old versions or the new ones.

    Attributes:
        observe: called after each run, by its thread, with the name, the version, the number of images and the seconds.
        busy: whether that thread is at work.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        runtime: Runtime | None = None,
        *,
        keep: int = 2,
        interval: float = 2.0,
        settle: float = 4.0,
        linger: float = 5.0,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            sources: where versions come from.
            runtime: how they are run; None for the defaults.
            keep: versions of a model that are served at most, the current one and the newest.
            interval: seconds between looks at the sources.
            settle: seconds that a broken version must stay as it is before it counts as broken and not as half copied.
            linger: seconds between a version's going out of sight and its draining: who has looked it up just before
                has handed in its request by then.
            report: takes a line for the operator.
        """
        self.observe: Callable[[str, str, int, float], None] = lambda name, version, images, seconds: None
        self.busy = False
        self._sources = sources
        self._runtime = runtime or Runtime()
        self._keep = keep
        self._interval = interval
        self._settle = settle
        self._linger = linger
        self._report = report
        self._served: Mapping[str, Mapping[str, Served]] = {}
        self._stamps: dict[tuple[str, str], Stamp] = {}
        self._tried: dict[tuple[str, str], _Tried] = {}
        self._offers: Sequence[Offer] = ()
        self._unloaded: frozenset[str] = frozenset()
        self._looked = False
        self._settled = False
        self._away = ""  # why the last look was in vain
        self._closing = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether everything that was offered at the start is loaded or known to be broken, and something is loaded if
        anything is offered."""
        return self._settled and (bool(self._served) or not self._offers)

    def served(self) -> list[Served]:
        """All loaded versions, by name; first the one that the name alone means, then the newest."""
        mapping = self._served
        return [served for name in sorted(mapping) for served in mapping[name].values()]

    def index(self) -> list[Entry]:
        """All known versions, by name, the newest version first."""
        entries = {(offer.name, offer.version): self._entry(offer) for offer in self._offers}
        for served in self.served():
            entries[served.name, served.version] = Entry(served.name, served.version, "READY", "")
        return sorted(entries.values(), key=lambda entry: (entry.name, -int(entry.version)))

    def find(self, name: str | None, version: str | None = None) -> Served:
        """The version that answers a request.

        Args:
            name: `NAME` for its current version, or `NAME@VERSION`; None for the only model.
            version: the version, where the name has none.

        Raises:
            Unknown: where there is no such model or version.
            NotReady: where there is, and it is not loaded.
            Refused: for no name where several models are served, or two versions.
        """
        name, at, behind = (self._only() if name is None else name).partition("@")
        if at and version is not None and version != behind:
            raise Refused(f"model: found version {behind[:80]!r} in the name and {version[:80]!r} beside it; say one")
        version = behind if at else version
        versions = self._served.get(name, {})
        found = next(iter(versions.values()), None) if version is None else versions.get(version)
        if found is None:
            raise self._missing(name, version)
        note(model=found.name, version=found.version)
        return found

    async def start(self) -> None:
        """Load what is offered, and go on looking until `close`.

        Raises:
            Refused, Failed: at the start, where the device is not to be had or a demanded version cannot be loaded.
        """
        await self._in_thread(self._choose)
        while not self._closing.is_set():
            try:
                await self._in_thread(self._look)
            except Exception:
                if not self._settled:
                    raise
                LOGGER.exception("looking for versions failed, what is loaded is served on")
            with contextlib.suppress(TimeoutError):
                seconds = self._interval if self._settled or self._away else min(self._interval, _SOON)
                await asyncio.wait_for(self._closing.wait(), seconds)

    async def load(self, name: str) -> None:
        """Look at the sources now and load what is new of a model; one that was unloaded or found broken too.

        Raises:
            Unknown: where no source offers it.
            Refused: where none of its versions can be loaded.
        """
        await self._in_thread(self._load, name)

    async def unload(self, name: str) -> None:
        """Drop all versions of a model, and finish what they have accepted; it stays away until `load`.

        Raises:
            Unknown: where it is not known.
        """
        await self._in_thread(self._unload, name)

    async def close(self) -> None:
        """Finish the requests that were accepted, and drop all versions."""
        self._closing.set()
        await asyncio.gather(*self._retiring, *(served.batcher.close() for served in self.served()))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., None], *arguments: str) -> None:
        if self._closing.is_set():
            raise NotReady("the server is about to end")
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._thread, self._work, work, *arguments)

    # From here on: in the models' own thread.

    def _work(self, work: Callable[..., None], *arguments: str) -> None:
        self.busy = True
        try:
            work(*arguments)
        finally:
            self.busy = False

    def _choose(self) -> None:
        self._report(f"running on {self._runtime.choice}")

    def _look(self) -> None:
        """Load what is new, drop what is gone or too old."""
        try:
            offers = [(source.demanded, offer) for source in self._sources for offer in source.offers()]
        except OSError as error:
            if str(error) != self._away:
                LOGGER.error("cannot look for versions, what is loaded is served on: %s", error)
            self._away = str(error)
            return
        self._away = ""
        self._offers = [offer for _, offer in offers]
        self._looked = True
        known = {(offer.name, offer.version) for offer in self._offers}
        self._tried = {key: tried for key, tried in self._tried.items() if key in known}
        demanded = {offer.name for demanded, offer in offers if demanded and not self._settled}
        for name, versions in _by_name(self._offers):
            if name not in self._unloaded:
                self._renew(name, versions, name in demanded)
        for name in self._served.keys() - {name for name, _ in known}:
            self._replace(name, {})
        self._settled = self._settled or all(
            offer.name in self._served or self._entry(offer).state != "LOADING" for offer in self._offers
        )

    def _renew(self, name: str, offers: Sequence[Offer], demanded: bool) -> None:
        """Bring a model to its newest versions that can be loaded. Where its current version cannot be, what was served
        is served on.

        Args:
            offers: all of it, the current one first, then the newest.
            demanded: whether one that cannot be loaded is an error.
        """
        good: dict[str, Served] = {}
        for offer in offers:
            if self._closing.is_set():
                return
            if len(good) == self._keep:
                break
            key, before = (name, offer.version), self._served.get(name, {})
            tried, now = self._tried.get(key), before.get(offer.version)
            if now is not None and self._stamps[key] == offer.stamp:
                good[offer.version] = now
                continue
            opened = (
                None if tried is not None and tried.final and tried.stamp == offer.stamp else self._try(offer, demanded)
            )
            if opened is not None:
                good[offer.version] = opened
                self._replace(name, {**before, **good})  # at once, and not when the older ones are there too
            elif now is not None:
                good[offer.version] = now  # its folder was written over with something broken
            if offer.current and offer.version not in good:
                return
        self._replace(name, good)

    def _try(self, offer: Offer, demanded: bool) -> Served | None:
        """Load a version; None where it is broken."""
        key, started = (offer.name, offer.version), time.monotonic()
        title = f"{offer.name}@{offer.version}"
        try:
            generator, batcher = self._runtime.open(
                offer.folder, title, lambda images, seconds: self.observe(*key, images, seconds)
            )
        except Exception as error:
            if demanded:
                raise
            if not isinstance(error, Refused | Failed):
                LOGGER.exception("%s: could not be loaded", title)
            self._put_off(offer, str(error))
            return None
        self._stamps[key] = offer.stamp
        self._tried.pop(key, None)
        self._report(f"{title}: ready, {generator.precision}, after {time.monotonic() - started:.1f} s")
        return Served(*key, generator, batcher)

    def _put_off(self, offer: Offer, reason: str) -> None:
        """Note that a version could not be loaded: as being written, until it has stayed the same for a while."""
        key, now = (offer.name, offer.version), time.monotonic()
        tried = self._tried.get(key)
        since = tried.since if tried is not None and tried.stamp == offer.stamp else now
        self._tried[key] = _Tried(offer.stamp, reason, since, now - since >= self._settle)
        if self._tried[key].final:
            self._report(f"{offer.name}@{offer.version}: not loaded: {reason}")

    def _load(self, name: str) -> None:
        self._unloaded -= {name}
        self._tried = {key: tried for key, tried in self._tried.items() if key[0] != name}
        self._look()
        if not any(offer.name == name for offer in self._offers):
            raise Unknown(self._line(name, None))
        if name not in self._served:
            reasons = [tried.reason for key, tried in self._tried.items() if key[0] == name]
            raise Refused(reasons[0] if reasons else f"model: {name} was not loaded")

    def _unload(self, name: str) -> None:
        if name not in self._served and not any(offer.name == name for offer in self._offers):
            raise Unknown(self._line(name, None))
        self._unloaded |= {name}
        self._replace(name, {})

    def _replace(self, name: str, versions: Mapping[str, Served]) -> None:
        """Put versions in place, in one step, and drain those that they displace."""
        assert self._loop is not None
        before = self._served.get(name, {})
        current = self._current(name)
        ordered = dict(sorted(versions.items(), key=lambda item: (item[0] != current, -int(item[0]))))
        others = {other: theirs for other, theirs in self._served.items() if other != name}
        self._served = others | {name: ordered} if ordered else others
        for served in before.values():
            if versions.get(served.version) is not served:
                self._loop.call_soon_threadsafe(self._retire, served)

    # From here on: in the event loop, or anywhere.

    def _retire(self, served: Served) -> None:
        task = asyncio.get_running_loop().create_task(self._drain(served))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drain(self, served: Served) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), self._linger)
        await served.batcher.close()
        self._report(f"{served.name}@{served.version}: drained and dropped")

    def _entry(self, offer: Offer) -> Entry:
        key, tried = (offer.name, offer.version), self._tried.get((offer.name, offer.version))
        if offer.version in self._served.get(offer.name, {}):
            return Entry(*key, "READY", "")
        if offer.name in self._unloaded:
            return Entry(*key, "UNAVAILABLE", "unloaded")
        if tried is not None and tried.stamp == offer.stamp:
            return Entry(*key, "UNAVAILABLE" if tried.final else "LOADING", tried.reason)
        if self._is_past(offer):
            return Entry(*key, "UNAVAILABLE", f"older than the newest {self._keep}")
        if not offer.current and (first := self._tried.get((offer.name, self._current(offer.name)))) and first.final:
            return Entry(*key, "UNAVAILABLE", f"is not loaded before the current version: {first.reason}")
        return Entry(*key, "LOADING", "being loaded")

    def _is_past(self, offer: Offer) -> bool:
        """Whether as many versions as are kept are served, and come before this one."""
        served = self._served.get(offer.name, {})
        first = {self._current(offer.name)}
        older = all(int(offer.version) < int(version) for version in served.keys() - first)
        return len(served) >= self._keep and not offer.current and older

    def _current(self, name: str) -> str:
        """The version of a model that its source calls current; empty where it calls none so."""
        return next((offer.version for offer in self._offers if offer.name == name and offer.current), "")

    def _only(self) -> str:
        """The name of the only model."""
        names = sorted({offer.name for offer in self._offers})
        if len(names) == 1:
            return names[0]
        if not self._looked:
            raise NotReady(_NOT_YET)
        if not names:
            raise Unknown("model: this server has none yet")
        raise Refused(f"model: missing; this server has {', '.join(names)}")

    def _missing(self, name: str, version: str | None) -> Exception:
        if not self._looked:
            return NotReady(_NOT_YET)
        entries = [entry for entry in self.index() if entry.name == name and version in (None, entry.version)]
        if not entries:
            return Unknown(self._line(name, version))
        entry = next((entry for entry in entries if entry.state == "LOADING"), entries[0])
        return NotReady(f"model: {name}@{entry.version} is {entry.state.lower()}: {entry.reason}")

    def _line(self, name: str, version: str | None) -> str:
        entries = self.index()
        versions = [entry.version for entry in entries if entry.name == name]
        if version is not None and versions:
            return f"model: found version {version[:80]!r} of {name}; this server has {', '.join(versions)}"
        names = ", ".join(sorted({entry.name for entry in entries}))
        return f"model: found {name[:80]!r}; this server has {names or 'none yet'}"


def _by_name(offers: Sequence[Offer]) -> Iterator[tuple[str, list[Offer]]]:
    """Each model's offers, its current version first, then the newest."""
    for name in sorted({offer.name for offer in offers}):
        own = (offer for offer in offers if offer.name == name)
        yield name, sorted(own, key=lambda offer: (not offer.current, -int(offer.version)))
