"""Writes of librbd under way."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from imgstore.drivers._librbd.connection import Requests
from imgstore.drivers._librbd.errors import RequestFailed
from imgstore.drivers._librbd.writing import Window

DATA = b"what is written"


class Image:
    """The SDK's, which writes at once; like librbd's it takes bytes and nothing else."""

    def __init__(self, status: int = 0) -> None:
        self.written: list[tuple[bytes, int]] = []
        self._completion = SimpleNamespace(get_return_value=lambda: status)

    def aio_write(self, data: bytes, position: int, done: Callable[[Any], None]) -> None:
        assert type(data) is bytes
        self.written.append((data, position))
        done(self._completion)


def window(image: Image) -> Window:
    watchdog = SimpleNamespace(wait=lambda until: until(None))
    connection = SimpleNamespace(requests=Requests())
    opened: Any = SimpleNamespace(connection=connection, watchdog=watchdog, sdk=image)
    return Window(opened, 100)


def test_bytes_are_not_copied_unless_a_view_shows_a_part_of_them() -> None:
    """Body.stretches yields views; librbd takes none."""
    image = Image()
    filling = window(image)
    filling.send(memoryview(DATA), 0)
    filling.send(DATA, 100)
    filling.send(memoryview(DATA)[5:7], 200)
    filling.drain()
    assert image.written == [(DATA, 0), (DATA, 100), (DATA[5:7], 200)]
    assert all(data is DATA for data, _ in image.written[:2])


def test_a_write_that_failed_ends_the_next() -> None:
    """Also the wait for all of them."""
    filling = window(Image(status=-28))
    filling.send(DATA, 0)
    with pytest.raises(RequestFailed):
        filling.send(DATA, 100)
    with pytest.raises(RequestFailed):
        filling.drain()
    filling.close()
