"""One client: threads that use a store until they are told to stop, or killed.

``python -m storm.clients PLAN`` imports all that is slow to import, and forks a client for each
line "<number> <seed>" that it reads; it writes the number of its process.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgstore import Capability, Store, errors
from storm.history import Outcome, Recorder
from storm.plan import Plan

_SEEN = 3  # of the newest images of an id that are told to others
# After these errors a deletion has not been done, and will not be.
_NOT_DELETED = (errors.NotFound, errors.InUse, errors.PermissionDenied, errors.InvalidArgument)


class Source:
    """Delivers data in pieces, with pauses in between."""

    def __init__(self, data: bytes, chance: random.Random) -> None:
        self._data = memoryview(data)
        self._chance = chance
        self._pieces = chance.choice((1, 2, 5))

    def read(self, n: int, /) -> bytes:
        if self._chance.random() < 0.3:
            time.sleep(self._chance.uniform(0, 0.05))
        most = min(n, max(1, len(self._data) // self._pieces))
        piece, self._data = self._data[:most], self._data[most:]
        return bytes(piece)


class Client:
    """The threads of one process, and their store."""

    def __init__(self, plan: Plan, number: int, seed: int) -> None:
        directory = Path(plan.directory)
        self._plan = plan
        self._number = number
        self._seed = seed
        self._recorder = Recorder(directory / f"{number:04}.jsonl", number)
        self._board = directory / "board"
        self._stop = threading.Event()
        self._sizes: set[int] = set()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Use a store until SIGTERM, and close it."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        with self._plan.make(self._number) as store:
            threads = [
                threading.Thread(target=self._use, args=(store, f"{self._seed} {index}"))
                for index in range(self._plan.threads)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.05)  # signals are taken here

    def _use(self, store: Store, seed: str) -> None:
        chance = random.Random(seed)
        kinds, weights = zip(*self._plan.weights.items(), strict=True)
        while not self._stop.is_set():
            (kind,) = chance.choices(kinds, weights)
            image_id = self._plan.image_id(time.monotonic(), chance.randrange(self._plan.ids))
            getattr(self, f"_{kind}")(store, chance, image_id)
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 0.05))

    # The verbs.

    def _add(self, store: Store, chance: random.Random, image_id: str) -> None:
        data = self._data(chance)
        about = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
        source = data if chance.random() < 0.4 else Source(data, chance)
        size = chance.choice((None, len(data)))
        with self._recorded("add", image_id, **about) as told:
            url = store.add(image_id, source, size=size).location.url
            told["url"] = self._place(url)
            self._tell(image_id, url)

    def _copy(self, store: Store, chance: random.Random, image_id: str) -> None:
        target = self._plan.image_id(time.monotonic(), chance.randrange(self._plan.ids))
        url = self._known(image_id, chance)
        if target == image_id or not url or Capability.DELETE not in store.capabilities:
            return
        with self._recorded("copy", target, source=image_id) as told:
            copied = store.copy(url, target)
            told |= {"url": self._place(copied.location.url), "size": copied.size}
            told["digest"] = copied.digests.get("sha256", "")
            self._tell(target, copied.location.url)

    def _read(self, store: Store, chance: random.Random, image_id: str) -> None:
        if not (url := self._known(image_id, chance)):
            return
        with self._recorded("read", image_id, url=self._place(url)) as told:
            digest, size = hashlib.sha256(), 0
            with store.get(url) as reader:
                for chunk in reader:
                    digest.update(chunk)
                    size += len(chunk)
                    if chance.random() < 0.1:
                        time.sleep(chance.uniform(0, 0.05))
            told |= {"digest": digest.hexdigest(), "size": size}

    def _delete(self, store: Store, chance: random.Random, image_id: str) -> None:
        if url := self._known(image_id, chance):
            with self._recorded("delete", image_id, url=self._place(url)):
                store.delete(url)

    def _clean(self, store: Store, chance: random.Random, image_id: str) -> None:
        older_than = 0 if self._plan.cleans else 86400
        with self._recorded("clean", "") as told:
            told["text"] = ", ".join(
                leftover.name for leftover in store.remove_leftovers(older_than=older_than)
            )

    @contextlib.contextmanager
    def _recorded(self, kind: Any, image_id: str, **about: Any) -> Iterator[dict[str, Any]]:
        """Write down an operation and what came of it."""
        number = self._recorder.begin(kind, image_id, **about)
        told: dict[str, Any] = {}
        try:
            yield told
        except errors.ImgStoreError as exc:
            self._recorder.end(number, **_failure(kind, exc))
        except Exception as exc:
            name = f"outside: {type(exc).__name__}"
            self._recorder.end(number, outcome="failed", error=name, text=repr(exc)[:500])
        else:
            self._recorder.end(number, outcome="ok", **told)

    def _data(self, chance: random.Random) -> bytes:
        """Return bytes that no other add has, and as many as no other add has."""
        low, high = chance.choice(self._plan.sizes)
        size = self._plan.size(chance.randint(low, high), self._number)
        with self._lock:
            while size in self._sizes:
                size = self._plan.size(size + 256, self._number)
            self._sizes.add(size)
        return chance.randbytes(size)

    # Where images are.

    def _place(self, url: str) -> str:
        """Return what counts of where an image is: all or nothing."""
        return url if self._plan.distinct else ""

    def _tell(self, image_id: str, url: str) -> None:
        if not self._plan.places:
            with (self._board / image_id).open("a") as board:
                board.write(f"{url}\n")

    def _known(self, image_id: str, chance: random.Random) -> str:
        """Return where an image of the id may be."""
        if self._plan.places:
            return chance.choice(self._plan.places).replace("{id}", image_id)
        try:
            urls = (self._board / image_id).read_text().splitlines()
        except FileNotFoundError:
            return ""
        return chance.choice(urls[-_SEEN:]) if urls else ""


def _failure(kind: str, exc: errors.ImgStoreError) -> dict[str, Any]:
    outcome: Outcome = "unknown" if exc.indeterminate else "failed"
    if kind == "delete" and not isinstance(exc, _NOT_DELETED):
        outcome = "unknown"
    name = type(exc).__name__
    is_plain = name in {"AlreadyExists", "NotFound"} and not exc.retryable
    return {
        "outcome": outcome,
        "error": name,
        "retryable": exc.retryable,
        "text": "" if is_plain else str(exc)[:300],
    }


def main() -> None:
    """Fork clients as told, until nobody tells any more."""
    plan = Plan.load(Path(sys.argv[1]))
    plan.make().close()  # imports the SDK
    gc.freeze()
    children = set[int]()
    for line in sys.stdin:
        # Only now, when the storm has a descriptor of each: until then nobody gets their numbers.
        while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            children.discard(ended)
        number, seed = map(int, line.split())
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            Client(plan, number, seed).run()
            return  # as processes end that are done
        children.add(child)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    for child in children:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
