"""A driver of imgstore that raises what it is told to."""

from __future__ import annotations

from oslo_config import cfg

from imgstore.drivers.memory import MemoryStore


class ToldStore(MemoryStore):
    """Images in memory; hooks raise ``raises``, and count their calls, and reads fail midway."""

    driver = "told"
    OPTIONS = {
        "needed": cfg.StrOpt("told_needed", default="x"),
        "secret": cfg.StrOpt("told_secret", secret=True),
    }
    raises = None
    raises_midway = None
    owning = None
    calls = 0

    def __init__(self, name, *, needed="x", secret=None, **common):
        super().__init__(name, **common)
        if needed == "refused":
            raise ValueError("told_needed is refused")
        self.read_retries = 0

    def owns(self, location):
        return self.owning or super().owns(location)

    def _told(self):
        type(self).calls += 1
        if self.raises is not None:
            raise self.raises

    def _get(self, location, offset, length, **more):
        self._told()
        opened = super()._get(location, offset, length, **more)
        if self.raises_midway is not None:
            opened.chunks = self._broken(opened.chunks)
        return opened

    def _broken(self, chunks):
        yield next(iter(chunks))[:1]
        raise self.raises_midway

    def _stat(self, location, *, context):
        self._told()
        return super()._stat(location, context=context)

    def _size(self, location, *, context):
        self._told()
        return super()._size(location, context=context)

    def _add(self, image_id, body, *, context):
        self._told()
        return super()._add(image_id, body, context=context)

    def _delete(self, location, *, context):
        self._told()
        super()._delete(location, context=context)

    def _set_acls(self, location, **given):
        self._told()
        type(self).acls = given
