"""Small helpers that drivers of others import."""

from __future__ import annotations

import hashlib
import importlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any


def chunkiter(fp: Any, chunk_size: int = 65536) -> Iterator[bytes]:
    """Yield what a file-like object reads, at most ``chunk_size`` bytes at a time."""
    while chunk := fp.read(chunk_size):
        yield chunk


def chunkreadable(iter: Any, chunk_size: int = 65536) -> Iterable[bytes]:  # noqa: A002
    """Return an iterable of chunks of what may have ``read`` or be one itself."""
    return chunkiter(iter, chunk_size) if hasattr(iter, "read") else iter


def get_hasher(hash_algo: str, usedforsecurity: bool = True) -> Any:
    """Return a hash object of hashlib."""
    return hashlib.new(str(hash_algo), usedforsecurity=usedforsecurity)


def synchronized(*args: Any, **kwargs: Any) -> Any:
    """Return a decorator that lets one thread in at a time, by a name; see oslo.concurrency."""
    lockutils = importlib.import_module("oslo_concurrency.lockutils")  # not every service has it
    return lockutils.synchronized_with_prefix("glance_store-")(*args, **kwargs)


def is_uuid_like(val: object) -> bool:
    """Return whether a value is text that is a UUID in its canonical spelling."""
    try:
        return isinstance(val, str) and str(uuid.UUID(val)) == val
    except ValueError:
        return False
