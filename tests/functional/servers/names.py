"""Host names that lead where a test wants them, in this process."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def resolving(name: str, address: str) -> Iterator[None]:
    """Let `name` and every name below it lead to `address`; other names are looked up as ever."""
    suffix = f".{name.strip('.').lower()}"
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **keywords: Any) -> Any:
        text = host.decode("ascii") if isinstance(host, bytes) else str(host)
        known = f".{text.rstrip('.').lower()}".endswith(suffix)
        return look_up(address if known else host, *arguments, **keywords)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = look_up
