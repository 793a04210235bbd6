"""Names of images, given and taken by the image's id: never that of another one of the name.

librbd takes a name for the image that has it by then. So these are its requests to RADOS, in its
order, with the id (cls_rbd; https://docs.ceph.com/en/latest/dev/rbd-layering/ names the objects):
``rbd_id.<name>`` holds an image's id, ``rbd_directory`` both ways between names and ids,
``rbd_trash`` what is in the trash. All functions may be repeated where an answer was lost.
"""

from __future__ import annotations

import errno
import functools
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

from imgstore.drivers._librbd.errors import INSTALL, error_number
from imgstore.errors import AlreadyExists, NotFound
from imgstore.process import lazy

T = TypeVar("T")

_DIRECTORY: Final = "rbd_directory"
_TRASH: Final = "rbd_trash"
_METADATA: Final = "metadata_"
_PAGE: Final = 500
# librados' LIBRADOS_CREATE_EXCLUSIVE and LIBRADOS_CMPXATTR_OP_EQ; a compared byte that differs is
# an error number from 4095 on.
_EXCLUSIVE: Final = 1
_EQUAL: Final = 1
_DIFFERS: Final = 4095
# Sources of what is in the trash (cls::rbd::TrashImageSource).
BY_USER: Final = 0
BY_REMOVAL: Final = 3
BY_USER_OF_PARENT: Final = 4
# States of what is in the trash (cls::rbd::TrashImageState).
_NORMAL: Final = 0
_MOVING: Final = 1
_REMOVING: Final = 2
_RESTORING: Final = 3
_MOVES: Final = timedelta(seconds=30)  # until what is being moved to the trash is there


@dataclass(frozen=True)
class Trashed:
    """An image in the trash: who put it there, and until when it may be restored."""

    id: str
    name: str
    source: int
    deleted: datetime
    deferred: datetime
    state: int = _NORMAL

    @property
    def is_held(self) -> bool:
        """Return whether an operator takes it out of the trash, or has just begun to move it."""
        age = datetime.now(timezone.utc) - self.deleted
        return self.state == _RESTORING or (self.state == _MOVING and age < _MOVES)


def id_of(pool: Any, name: str) -> str | None:
    """Return the id of the image that is opened by a name."""
    data = _found(lambda: pool.read(_id_object(name)))
    return None if data is None else _text(data, 0)[0]


def listed_id(pool: Any, name: str) -> str | None:
    """Return the id that the pool's directory has for a name."""
    return _asked(pool, "dir_get_id", name)


def listed_name(pool: Any, image_id: str) -> str | None:
    """Return the name that the pool's directory has for an image."""
    return _asked(pool, "dir_get_name", image_id)


def exists(pool: Any, image_id: str) -> bool:
    """Return whether there is an image of this id, whatever its name."""
    return _found(lambda: pool.stat(f"rbd_header.{image_id}")) is not None


def has_first_format(pool: Any, name: str) -> bool:
    """Return whether there is an image of this name in RBD's first format, without ids."""
    return _found(lambda: pool.stat(f"{name}.rbd")) is not None


def made_at(pool: Any, name: str) -> datetime:
    """Return when the object that opens an image by a name was made; long ago without one."""
    found = _found(lambda: pool.stat(_id_object(name)))
    return datetime.fromtimestamp(time.mktime(found[1]) if found else 0, timezone.utc)


def is_nameless(pool: Any, image_id: str) -> bool:
    """Return whether a name for this id is what is left of it: it is gone, or in the trash."""
    return not exists(pool, image_id) or in_trash(pool, image_id)


def publish(pool: Any, image_id: str, draft: str, name: str) -> None:
    """Give an image its name instead of ``draft``; raises AlreadyExists if the name is taken.

    Raises NotFound, with nothing changed, if the image has not that draft name any more.
    """
    with _unless(errno.EEXIST), _write(pool, _id_object(name)) as request:
        request.new(_EXCLUSIVE)
        request.write_full(_string(image_id))
    if id_of(pool, name) != image_id:
        raise AlreadyExists("there is an image of this id")
    failed = (errno.ENOENT, errno.ESTALE, errno.EEXIST, errno.EBADF)
    renaming = _string(draft) + _string(name) + _string(image_id)
    _execute(pool, _DIRECTORY, "dir_rename_image", renaming, ignored=failed)
    if (holder := listed_id(pool, name)) != image_id:
        _forget(pool, image_id, name)
        if holder is not None:
            raise AlreadyExists("there is an image of this id")
        raise NotFound("the image was removed before it got its name")
    _forget(pool, image_id, draft)
    entry = trashed(pool, image_id)
    if entry is not None and entry.name == draft:
        remove_entry(pool, image_id)  # of a clean-up that did not end


def to_trash(pool: Any, image_id: str, name: str, *, delay: int = 0) -> None:
    """Move an image to the trash; raises NotFound if it has that name no more.

    Taking its name from it is what deletes it.
    """
    now = time.time()
    spec = struct.pack("<B", BY_USER) + _string(name) + _time(now) + _time(now + delay) + b"\0"
    value = struct.pack("<BBI", 2, 1, len(spec)) + spec
    entry = _string(image_id) + value
    is_added = _execute(pool, _TRASH, "trash_add", entry, ignored=(errno.EEXIST,))
    if not is_added and listed_name(pool, image_id) == name:
        # Another process died here.
        with _write(pool, _TRASH) as request:
            pool.set_omap(request, (f"id_{image_id}",), (value,))
    try:
        is_unlinked = unlink(pool, image_id, name)
    except Exception:
        if listed_name(pool, image_id) is not None:
            if is_added:
                remove_entry(pool, image_id)
            raise
        is_unlinked = True  # its answer was lost
    if is_unlinked:
        return
    if listed_name(pool, image_id) is not None:
        if is_added:
            remove_entry(pool, image_id)
        raise NotFound("the image has another name now")
    if not is_added:
        raise NotFound("the image was deleted meanwhile")


def begin_removal(pool: Any, entry: Trashed) -> bool:
    """Let nobody restore an image any more; False if it is being restored, or not there."""
    return _set_state(pool, entry.id, entry.state, _REMOVING)


def end_removal(pool: Any, image_id: str) -> None:
    """Undo ``begin_removal``."""
    _set_state(pool, image_id, _REMOVING, _NORMAL)


def _set_state(pool: Any, image_id: str, before: int, after: int) -> bool:
    data = _string(image_id) + bytes((after, before))
    return _execute(pool, _TRASH, "trash_state_set", data, ignored=(errno.ENOENT, errno.ESTALE))


def remove_entry(pool: Any, image_id: str) -> None:
    """Remove an image's entry from the trash, and nothing else."""
    _execute(pool, _TRASH, "trash_remove", _string(image_id), ignored=(errno.ENOENT,))


def unlink(pool: Any, image_id: str, name: str) -> bool:
    """Take a name from an image; False if the pool's directory has it for another one, or none."""
    _forget(pool, image_id, name)
    ignored = (errno.ENOENT, errno.ESTALE)
    removed = _string(name) + _string(image_id)
    return _execute(pool, _DIRECTORY, "dir_remove_image", removed, ignored=ignored)


def trash(pool: Any) -> Iterator[Trashed]:
    """Yield what is in the trash.

    The SDK's own iterator raises IndexError for sources that it does not know.
    """
    after = ""
    while True:
        page = _found(functools.partial(_page_of_trash, pool, after)) or []
        for key, value in page:
            yield _trashed(key.removeprefix("id_"), value)
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def _page_of_trash(pool: Any, after: str) -> list[tuple[str, bytes]]:
    read = pool.create_read_op()
    try:
        entries, _ = pool.get_omap_vals(read, after, "id_", _PAGE)
        pool.operate_read_op(read, _TRASH)
        return list(entries)
    finally:
        pool.release_read_op(read)


def in_trash(pool: Any, image_id: str) -> bool:
    """Return whether an image is in the trash."""
    return trashed(pool, image_id) is not None


def trashed(pool: Any, image_id: str) -> Trashed | None:
    """Return an image's entry in the trash."""
    found = _found(lambda: pool.execute(_TRASH, "rbd", "trash_get", _string(image_id)))
    return _trashed(image_id, found[1]) if found else None


def remove_metadata(pool: Any, image_id: str, key: str, value: str) -> None:
    """Remove an image's metadata if its value is this one."""
    with (
        _unless(errno.ENOENT, errno.ECANCELED),
        _write(pool, f"rbd_header.{image_id}") as request,
    ):
        request.omap_cmp(_METADATA + key, value, _EQUAL)
        request.execute("rbd", "metadata_remove", _string(key))


def _forget(pool: Any, image_id: str, name: str) -> None:
    """Remove the object that opens an image by a name, if it is this image's."""
    with _unless(errno.ENOENT, _DIFFERS), _write(pool, _id_object(name)) as request:
        request.cmpext(_string(image_id), 0)
        request.remove()


def _execute(pool: Any, key: str, method: str, data: bytes, *, ignored: tuple[int, ...]) -> bool:
    """Have a method of cls_rbd change an object; False where it answers with an ignored error."""
    try:
        with _write(pool, key) as request:
            request.execute("rbd", method, data)
    except Exception as exc:
        if error_number(exc) not in ignored:
            raise
        return False
    return True


def _asked(pool: Any, method: str, question: str) -> str | None:
    found = _found(lambda: pool.execute(_DIRECTORY, "rbd", method, _string(question)))
    return _text(found[1], 0)[0] if found else None


@contextmanager
def _write(pool: Any, key: str) -> Iterator[Any]:
    """Send what the block puts into a request; nothing if it raises."""
    rados = lazy.load("rados", install=INSTALL)
    with rados.WriteOpCtx() as request:
        yield request
        pool.operate_write_op(request, key)


@contextmanager
def _unless(*numbers: int) -> Iterator[None]:
    """Pass over what rados raises with one of these error numbers, or beyond the last one's."""
    try:
        yield
    except Exception as exc:
        number = error_number(exc)
        if number not in numbers and not (_DIFFERS in numbers and number >= _DIFFERS):
            raise


def _found(call: Callable[[], T]) -> T | None:
    """Return what a request returns, None where there is no such object or entry."""
    try:
        return call()
    except Exception as exc:
        if error_number(exc) != errno.ENOENT:
            raise
        return None


def _trashed(image_id: str, value: bytes) -> Trashed:
    source = value[6]
    name, at = _text(value, 7)
    seconds, _, until, _ = struct.unpack_from("<IIII", value, at)
    deleted, deferred = (datetime.fromtimestamp(each, timezone.utc) for each in (seconds, until))
    state = value[at + 16] if len(value) > at + 16 else _NORMAL
    return Trashed(image_id, name, source, deleted, deferred, state)


def _id_object(name: str) -> str:
    return f"rbd_id.{name}"


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    end = at + 4 + length
    return data[at + 4 : end].decode(errors="surrogateescape"), end


def _time(seconds: float) -> bytes:
    return struct.pack("<II", int(seconds), int(seconds % 1 * 1_000_000_000))
