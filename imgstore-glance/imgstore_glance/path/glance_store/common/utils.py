"""Small helpers that drivers of others import."""

from __future__ import annotations

import hashlib
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


def get_hasher(algo: str, usedforsecurity: bool = True) -> Any:
    """Return a hash object of hashlib."""
    return hashlib.new(str(algo), usedforsecurity=usedforsecurity)


def is_uuid_like(value: object) -> bool:
    """Return whether a value is a UUID in any of its usual spellings."""
    try:
        return _plain(str(uuid.UUID(str(value)))) == _plain(str(value))
    except ValueError:
        return False


def _plain(text: str) -> str:
    return text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "").lower()
