"""A value that is never shown by accident."""

from __future__ import annotations

import hmac
from typing import Final, final

MASK: Final = "***"


@final
class Secret:
    """Text that prints as ``***`` in ``str``, ``repr``, format strings and logs.

    ``reveal()`` returns the text. Equality is constant-time; hashing and pickling are refused so
    that a secret cannot become a dictionary key or travel by accident.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # the data model's way to say "unhashable"

    def __init__(self, value: str | Secret) -> None:
        """Wrap ``value``; wrapping a Secret again changes nothing."""
        self._value: str = value._value if isinstance(value, Secret) else value

    def reveal(self) -> str:
        """Return the text itself."""
        return self._value

    def __bool__(self) -> bool:
        """Return whether the text is not empty."""
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare with another Secret; text is never equal to a Secret."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self), _bytes(other))

    def __repr__(self) -> str:
        """Return ``Secret(***)``."""
        return f"Secret({MASK})"

    def __str__(self) -> str:
        """Return ``***``."""
        return MASK

    def __reduce__(self) -> str:
        """Refuse to be pickled."""
        raise TypeError("a Secret cannot be pickled")


def _bytes(secret: Secret) -> bytes:
    return secret.reveal().encode(errors="surrogatepass")
