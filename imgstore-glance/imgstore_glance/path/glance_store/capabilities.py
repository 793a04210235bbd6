"""What a store can do, as glance_store has it: bits."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Final

from glance_store import exceptions


class BitMasks(enum.IntEnum):
    """A store's capabilities; each but ALL and DRIVER_REUSABLE contains what it needs itself."""

    NONE = 0b00000000
    ALL = 0b11111111
    READ_ACCESS = 0b00000001
    READ_OFFSET = 0b00000011
    READ_CHUNK = 0b00000101
    READ_RANDOM = 0b00000111
    WRITE_ACCESS = 0b00001000
    WRITE_OFFSET = 0b00011000
    WRITE_CHUNK = 0b00101000
    WRITE_RANDOM = 0b00111000
    RW_ACCESS = 0b00001001
    RW_OFFSET = 0b00011011
    RW_CHUNK = 0b00101101
    RW_RANDOM = 0b00111111
    DRIVER_REUSABLE = 0b01000000


class StoreCapability:
    """The capabilities of a store, at first those that its class has."""

    _CAPABILITIES: ClassVar[int] = BitMasks.NONE

    def __init__(self) -> None:
        self._capabilities = int(self._CAPABILITIES)

    @property
    def capabilities(self) -> int:
        """Return all bits."""
        return self._capabilities

    @staticmethod
    def contains(x: int, y: int) -> bool:
        """Return whether ``x`` has all bits of ``y``."""
        return x & y == y

    def update_capabilities(self) -> None:
        """Look at what the backend can do; stores that find out do it here."""

    def is_capable(self, *capabilities: int) -> bool:
        """Return whether the store has all of these bits."""
        return all(self.contains(self._capabilities, int(each)) for each in capabilities)

    def set_capabilities(self, *dynamic_capabilites: int) -> None:
        """Add bits."""
        for each in dynamic_capabilites:
            self._capabilities |= int(each)

    def unset_capabilities(self, *dynamic_capabilites: int) -> None:
        """Take bits away; what needed them keeps its own."""
        for each in dynamic_capabilites:
            self._capabilities &= ~int(each)


_NEEDED: Final[dict[str, tuple[int, type[exceptions.GlanceStoreException]]]] = {
    "get": (BitMasks.READ_ACCESS, exceptions.StoreGetNotSupported),
    "add": (BitMasks.WRITE_ACCESS, exceptions.StoreAddDisabled),
    "delete": (BitMasks.WRITE_ACCESS, exceptions.StoreDeleteNotSupported),
}


def check(store_op_fun: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse ``get``, ``add`` or ``delete`` of a store that lacks the bits for it."""

    @functools.wraps(store_op_fun)
    def checked(store: StoreCapability, *args: Any, **kwargs: Any) -> Any:
        bits, refusal = _NEEDED.get(store_op_fun.__name__, (0, exceptions.Invalid))
        if store_op_fun.__name__ == "get":
            _check_range(store, kwargs.get("offset") or 0, kwargs.get("chunk_size"))
        if not store.is_capable(bits):
            raise refusal
        return store_op_fun(store, *args, **kwargs)

    return checked


def _check_range(store: StoreCapability, offset: int, chunk_size: int | None) -> None:
    needed = (BitMasks.READ_OFFSET if offset else 0) | (BitMasks.READ_CHUNK if chunk_size else 0)
    if not store.is_capable(needed):
        raise exceptions.StoreRandomGetNotSupported(offset=offset, chunk_size=chunk_size)
