"""The containers of an image: made where they may be, and removed where they were for it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, TypeVar

from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.deleting import delete_seen
from imgstore.drivers.swift.errors import missing_ok, status_of
from imgstore.drivers.swift.settings import SEGMENTS, Settings
from imgstore.errors import ConfigError
from imgstore.process.committing import attempted
from imgstore.process.patience import Patience

T = TypeVar("T")

_COUNTING: Final = Patience(0.4, times=2)  # a container counts its objects with a delay
_ACLS: Final = ("X-Container-Read", "X-Container-Write")


class Containers:
    """The container ``images``, and the one for segments beside it."""

    def __init__(self, caller: Caller, settings: Settings, images: str) -> None:
        """Remember where they are."""
        self._caller = caller
        self._settings = settings
        self.images = images
        self.segments = f"{images}{SEGMENTS}"
        self._made: list[str] = []

    def make_ready(self, *, with_segments: bool) -> None:
        """Let there be containers; raises ConfigError where the operator has to make one."""
        found = self._caller.head(self.images)
        if found is None:
            self._make_images()
        if with_segments and self._caller.head(self.segments) is None:
            found = found or self._caller.head(self.images) or {}
            policy = found.get("X-Storage-Policy")
            headers = {"X-Storage-Policy": policy} if policy else {}
            if self._settings.multi_tenant:
                headers |= {acl: found[acl] for acl in _ACLS if found.get(acl)}
            self._put(self.segments, headers)

    def inside(self, put: Callable[[], T]) -> T:
        """Put an image's object, and the container first where there is none."""
        with missing_ok():
            return put()
        self._make_images()
        return put()

    def _make_images(self) -> None:
        settings = self._settings
        # While the servers of accounts are down, Swift says of containers that there are none.
        self._caller.ask("HEAD").close()
        if not settings.creates_container and not settings.multi_tenant:
            raise ConfigError(
                f"the container {self.images!r} does not exist",
                remedy="create it, or set swift_store_create_container_on_put",
            )
        acl = ",".join(settings.admins) if settings.multi_tenant else ""
        self._put(self.images, dict.fromkeys(_ACLS, acl) if acl else {})

    def _put(self, name: str, headers: Mapping[str, str]) -> None:
        is_new = self._caller.put(name, headers=headers).status == HTTPStatus.CREATED
        if is_new and self._settings.multi_tenant:
            self._made.append(name)

    def remove_made(self) -> None:
        """Remove what was made here for one image, unless something is in it by now."""
        for name in reversed(self._made):
            self._remove(name)

    def remove(self) -> None:
        """Remove both, unless something is in them."""
        for name in (self.segments, self.images):
            self._remove(name)

    def _remove(self, name: str) -> None:
        attempted(
            lambda: _COUNTING.repeat(lambda: self._delete(name), _is_in_use),
            f"deleting the container {name}",
        )

    def _delete(self, name: str) -> None:
        """Delete an empty container; raises a conflict where it is empty and not known to be."""
        try:
            # Not again: a container that is there then may be another add's.
            delete_seen(self._caller, name, "", lambda _: False, was_just_seen=True)
        except Exception as exc:
            if not _is_in_use(exc) or not self._caller.page(name, "")[0]:
                raise

    def set_acls(self, *, public: bool, read: Sequence[str], write: Sequence[str]) -> None:
        """Say who may read and write them."""
        readers = ["*:*"] if public else [f"{project}:*" for project in read]
        writers = [f"{project}:*" for project in write]
        admins = self._settings.admins
        names = [",".join([*some, *admins]) for some in (readers, writers)]
        headers = dict(zip(_ACLS, names, strict=True))
        self._caller.ask("POST", self.images, headers=headers).close()
        with missing_ok():
            self._caller.ask("POST", self.segments, headers=headers).close()


def _is_in_use(exc: Exception) -> bool:
    return status_of(exc) == HTTPStatus.CONFLICT
