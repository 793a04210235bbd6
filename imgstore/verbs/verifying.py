"""Reading a whole image to judge it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from imgstore.context import RequestContext
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.errors import IntegrityError
from imgstore.location import Location

if TYPE_CHECKING:
    from imgstore.store import Store


def verify(store: Store, at: Location, body: Body, context: RequestContext | None) -> None:
    """Read one version of an image through ``body``, which has no source yet, to the end.

    Raises IntegrityError if another image lies there afterwards, NotFound if none does.
    """
    with store._open(at, 0, None, context, operation="verify") as reader:
        body.source = reader
        with closing(body), body:  # twice: an interrupt may come when the first begins
            for _ in body.stretches(lambda: MIB):
                pass
        version, size = reader.version, reader.image_size
    now = store._stat(at, context=context)
    if now.size != size or (None not in (version, now.version) and now.version != version):
        raise IntegrityError("the image was replaced while it was read")
