"""What a driver returns of an image that is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceFile:
    """A stretch of a regular file: ``length`` bytes of descriptor ``fd`` from ``offset``."""

    fd: int
    offset: int
    length: int


def _nothing() -> None:
    return None


@dataclass(eq=False)
class Opened:
    """What a driver's ``_get`` returns: an open image, positioned at the offset asked for.

    ``chunks`` yields the bytes from there on, as many as asked for or up to the end; each MiB of a
    hole that the backend knows as ``imgstore.data.ZEROS``, which is not looked into.
    ``image_size`` is the size of the whole image. ``version`` pins the content (an ETag, a
    modification time, a snapshot); without one a broken read is not resumed. ``close`` releases
    what is held, also when ``chunks`` was never iterated; it may be called twice. ``fd`` is the
    descriptor that ``chunks`` reads from at its own position, for stores that are files;
    ``has_time_limit`` says that ``chunks`` gives up on a read that hangs, which ``fd`` does not.
    ``close_waits`` says that ``close`` asks a server, or takes locks: for a reader that is dropped
    it is called by a thread then, not by the garbage collector, which may run inside any lock.
    ``check`` raises IntegrityError if the image changed since it was opened; it is called once,
    before the last bytes are delivered.
    """

    chunks: Iterator[bytes]
    image_size: int
    version: str | None = None
    close: Callable[[], None] = field(default=_nothing)
    fd: int | None = None
    has_time_limit: bool = False
    close_waits: bool = False
    check: Callable[[], None] = field(default=_nothing)
