"""The filesystem store: its options and how the hooks use the other modules here."""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

from imgstore.boundary.arguments import check_storable
from imgstore.boundary.settings import all_checked, read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.sources import READ_LIMIT
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.drivers._linux import is_mount_point
from imgstore.drivers._placement import Candidate, pick
from imgstore.drivers.filesystem import drafts, settings
from imgstore.drivers.filesystem.calls import Calls, OpenFile
from imgstore.drivers.filesystem.drafts import DeadDraft, Draft
from imgstore.drivers.filesystem.filling import fill, grain_of
from imgstore.drivers.filesystem.options import OPTIONS
from imgstore.drivers.filesystem.paths import (
    DRAFT_PREFIX,
    NOT_REGULAR,
    Tree,
    directory_status,
    made_directory,
    open_directory,
    path_of,
)
from imgstore.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidLocation,
    InvalidRange,
    NotFound,
    StorageFull,
    TimedOut,
    Unavailable,
    Unsupported,
)
from imgstore.location import Location
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
from imgstore.process.committing import mark_in_doubt
from imgstore.process.interrupts import Descriptors
from imgstore.store import Store

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_CHANGED: Final = "the file changed while it was read"
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
# A circle of links, or one that came or went while a path was resolved.
_LINKS: Final = frozenset({errno.ELOOP, errno.EINVAL})
_FIRST: Final = datetime.min.replace(tzinfo=timezone.utc)
_LAST: Final = datetime.max.replace(tzinfo=timezone.utc)


class FilesystemStore(Store):
    """Images as files ``<datadir>/<image id>``, written under no name and published at once.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults.
    """

    driver = "file"
    OPTIONS = OPTIONS
    alternatives = (frozenset({"datadir", "datadirs"}),)
    schemes = ("file", "filesystem")
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES

    def __init__(
        self,
        name: str,
        *,
        datadir: str | os.PathLike[str] = settings.DEFAULT_DATADIR,
        datadirs: Sequence[str | os.PathLike[str]] = (),
        metadata_file: str | os.PathLike[str] | None = None,
        file_perm: int = 0,
        chunk_size: int = 262144,
        thin_provisioning: bool = False,
        timeout: int = 0,
        thread_pool_size: int = 10,
        threadpool_threshold: int = 75,
        fsync: bool = True,
        require_mount: bool = False,
        **common: Any,
    ) -> None:
        """Check the settings; directories are looked at when they are used."""
        given = read_options(OPTIONS, locals(), check=_meanings)
        super().__init__(name, **common)
        self.datadirs: list[settings.DataDir]
        self.datadirs, self._mode, self._metadata = _meanings(given)
        # A read allocates as much as it may return.
        self._chunk_size = min(given["chunk_size"], READ_LIMIT)
        self._block = grain_of(self._chunk_size)
        self._thin = given["thin_provisioning"]
        self._fsync = given["fsync"]
        self._require_mount = given["require_mount"]
        self._calls = Calls(
            timeout=given["timeout"],
            size=given["thread_pool_size"],
            threshold=given["threadpool_threshold"],
        )
        self._roots = tuple(entry.path for entry in self.datadirs)
        self._tree = Tree([*self._roots, *map(path_of, self.also_owns)])
        self._prepared: set[str] = set()
        # Directories that were there once: where one is missing later, a share is not mounted.
        self._seen: set[str] = set()

    @classmethod
    def reserved_defaults(cls, name: str) -> Mapping[str, Any]:
        """Give each reserved store a directory of its own."""
        return {"datadir": f"/var/lib/glance/{name}", "datadirs": []}

    @property
    def url_prefix(self) -> str:
        """Return the URL of the preferred data directory."""
        return f"file://{self._roots[0]}"

    def _url_prefixes(self) -> Iterable[str]:
        return (f"file://{root.rstrip('/')}/" for root in self._roots)

    def owns(self, location: Location) -> Ownership:
        """Own what lies directly in a data directory; links may lead other paths there."""
        is_own = os.path.dirname(path_of(location)) in self._roots
        return Ownership.YES if is_own else Ownership.MAYBE

    # Reading

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        path = path_of(location)
        file = OpenFile(self._calls)
        try:
            status = self._of_image(file.open, self._tree.open_image, path)
            version = _version_of(status)
            if if_version not in (None, version):
                raise IntegrityError(_CHANGED)
            size = status.st_size
            if offset > size:
                raise InvalidRange(f"offset {offset} is beyond the image's {size} bytes")
            if offset:
                file(os.lseek, offset, os.SEEK_SET)
        except BaseException:
            file.close()
            raise
        # The library trims the last chunk, so an iterator without a Python frame will do.
        chunks = iter(file.reader(self._chunk_size), b"")
        check = functools.partial(_check_version, file, version)
        return Opened(chunks, size, version, file.close, file.fd, file.has_time_limit, check=check)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        status = self._of_image(self._calls, self._tree.image_status, path_of(location))
        return Stat(status.st_size, _version_of(status), _moment(status.st_ctime))

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        self._of_image(self._calls, self._tree.unlink_image, path_of(location))

    def _of_image(self, run: Callable[..., Any], call: Callable[..., T], path: str) -> T:
        """Return ``run(call, path)``, and tell a missing image from a share that is not mounted."""
        root = os.path.dirname(path)
        try:
            result: T = run(call, path)
            if root in self._roots:
                self._seen.add(root)
            return result
        except OSError as exc:
            if exc.errno in _LINKS:
                raise InvalidLocation(NOT_REGULAR) from exc
            if exc.errno not in _ABSENT:
                raise
            if root in self._roots:
                if self._require_mount:
                    self._calls(self._require_mounted, root)
                self._note(root)
            raise NotFound("there is no such file") from exc

    def _note(self, root: str) -> None:
        """Remember that a data directory is there, if it is."""
        if root not in self._seen and self._calls(os.path.isdir, root):
            self._seen.add(root)

    # Writing

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        check_storable(image_id, "a data directory", own=DRAFT_PREFIX)
        for root in self._roots:
            self._prepare(root)
        root = self._choose(image_id, body)
        draft = Draft(self._calls)
        try:
            with draft, draft:
                self._make_draft(draft, root)
                fill(body, draft, thin=self._thin, block_size=self._block, sync=self._fsync)
                if not draft.settle(mode=self._mode, sync=self._fsync):
                    LOG.warning("store %s may not set permissions of image %s", self.name, image_id)
                draft.publish(image_id, sync=self._fsync, alone=self._alone)
            path = f"{root.rstrip('/')}/{image_id}"
            added = Added(Location("file", path), self._metadata(path))
        except BaseException as exc:
            if not draft.may_be_published:
                raise
            error = self._translate(exc, "add")
            mark_in_doubt(error)  # also an interrupt
            if error is exc:
                raise
            raise error from exc
        return added  # not above: no handler sees an interrupt before the return

    def _choose(self, image_id: str, body: Body) -> str:
        """Return the directory for a new image; raises AlreadyExists, StorageFull."""
        if self._require_mount:
            for root in self._roots:  # an id may be taken in any of them
                self._calls(self._require_mounted, root)
        size = body.size
        single = len(self._roots) == 1
        # Writing and publishing find out too; looking first saves work for nothing, if it is much.
        if single and size is not None and size <= MIB:
            return self._roots[0]
        if self._calls(self._is_taken, image_id, self._roots):
            raise AlreadyExists("an image of this id exists")
        if size is not None and body.file is not None:
            # A file with holes needs less than its size.
            size = min(size, os.fstat(body.file.fd).st_blocks * 512)
        if single:
            if size and not self._thin:
                self._calls(self._require_room, self._roots[0], size, body)
            return self._roots[0]
        if size is not None:
            size = max(size, 1)  # an empty image too needs a directory that can be written
        faults: dict[str, OSError] = {}
        candidates = [
            Candidate(entry.path, entry.priority, functools.partial(self._free, entry.path, faults))
            for entry in self.datadirs
        ]
        try:
            return pick(candidates, size)[0]
        except StorageFull:
            self._raise_any(faults)
            raise

    def _raise_any(self, faults: Mapping[str, OSError]) -> None:
        """Raise why directories could not be used, where that is more than a full disk.

        One that is read-only beside others is left alone on purpose.
        """
        for root, fault in sorted(faults.items(), key=lambda each: each[1].errno == errno.EROFS):
            if fault.errno == errno.ENOENT:
                raise self._vanished(root) from fault
            if fault.errno != errno.EROFS or len(faults) == len(self._roots):
                raise fault

    @staticmethod
    def _vanished(root: str) -> Unavailable:
        return Unavailable(
            f"the data directory {root} was there and has vanished",
            remedy="mount its file system; if it was removed, make it, or call check()",
        )

    @staticmethod
    def _require_room(root: str, size: int, body: Body) -> None:
        """Raise StorageFull if ``size`` bytes cannot fit, as far as the file system tells."""
        try:
            status = os.statvfs(root)
        except OSError:  # writing will tell
            return
        blocks = status.f_bavail if os.geteuid() else status.f_bfree  # root may use the reserve
        free = blocks * status.f_frsize
        if not status.f_blocks or size <= free or status.f_flag & os.ST_RDONLY:
            return
        if body.file is not None and os.fstat(body.file.fd).st_dev == os.stat(root).st_dev:
            return  # it may share the blocks of its source
        raise StorageFull(
            f"{root} has {free} bytes free, the image needs {size}", remedy="free or add space"
        )

    def _free(self, root: str, faults: dict[str, OSError]) -> int:
        """Return the bytes that may be written to a directory, 0 where ``faults`` gets why not."""
        try:
            status = self._calls(os.statvfs, root)
        except OSError as exc:
            LOG.warning("store %s: free space of %s is unknown: %s", self.name, root, exc)
            faults[root] = exc
            return 0
        if status.f_flag & os.ST_RDONLY:
            faults[root] = OSError(errno.EROFS, os.strerror(errno.EROFS), root)
            return 0
        return int(status.f_bavail * status.f_frsize)

    @staticmethod
    def _is_taken(image_id: str, roots: Iterable[str]) -> bool:
        return any(drafts.exists(None, os.path.join(root, image_id)) for root in roots)

    def _alone(self, image_id: str) -> AbstractContextManager[int | None]:
        """Keep the id out of all data directories while it is published in one of them."""
        return nullcontext() if len(self._roots) == 1 else self._alone_in_all(image_id)

    @contextmanager
    def _alone_in_all(self, image_id: str) -> Iterator[int]:
        first = Descriptors()
        with first, first:
            self._open_first(first)
            with drafts.locked(first.last):
                if self._is_taken(image_id, self._roots):
                    raise AlreadyExists("an image of this id exists")
                yield first.last

    def _open_first(self, held: Descriptors) -> None:
        """Open the same directory in every process, whatever the order in its configuration."""
        for root in sorted(self._roots):
            with suppress(FileNotFoundError):
                open_directory(held, root)
                return
        raise self._vanished(self._roots[0])

    def _make_draft(self, draft: Draft, root: str) -> None:
        open_checked = self._open_for_writing if self._require_mount else None
        try:
            draft.make(root, open_checked)
        except FileNotFoundError as exc:
            raise self._vanished(root) from exc

    def _open_for_writing(self, held: Descriptors, root: str) -> int:
        """Open a data directory, making sure about the mount that the descriptor is in."""
        directory = open_directory(held, root)
        if self._require_mount and not is_mount_point(directory):
            raise self._unmounted(root)
        return directory

    def _require_mounted(self, root: str) -> None:
        held = Descriptors()
        with held, held:
            try:
                self._open_for_writing(held, root)
            except FileNotFoundError:
                raise self._unmounted(root) from None

    @staticmethod
    def _unmounted(root: str) -> Unavailable:
        return Unavailable(
            f"{root} is not a mount point",
            remedy="mount it, or unset filesystem_store_require_mount",
        )

    def _prepare(self, root: str) -> None:
        """Before the first add: make the directory and clear what the dead left."""
        if root in self._prepared:
            return
        # Threads may do this side by side; none waits for another that hangs.
        look = self._look_again if root in self._seen else self._make_directory
        try:
            self._calls(look, root)
        except FileNotFoundError:  # vanished; another directory may do
            return
        try:
            for draft in self._calls(drafts.dead_drafts, root):
                self._calls(drafts.remove_draft, draft)
        except PermissionError as exc:  # remove_leftovers() raises it; adds go on
            LOG.warning("store %s cannot clean up in %s: %s", self.name, root, exc)
        self._prepared.add(root)

    def _make_directory(self, root: str) -> None:
        if self._require_mount:
            self._require_mounted(root)
        self._widen(root, made_directory(root))
        self._seen.add(root)

    def _look_again(self, root: str) -> None:
        if self._require_mount:
            self._require_mounted(root)
        self._widen(root, directory_status(root))

    def _widen(self, root: str, status: os.stat_result) -> None:
        """Let those enter a directory who may read its images."""
        bits = settings.directory_bits(self._mode)
        if bits & ~status.st_mode:
            try:
                os.chmod(root, stat.S_IMODE(status.st_mode) | bits)
            except OSError as exc:
                LOG.warning("store %s may not set permissions of %s: %s", self.name, root, exc)

    # Looking after it

    def _leftovers(self, older_than: timedelta) -> Iterable[Leftover]:
        limit = datetime.now(timezone.utc) - older_than
        for root in self._roots:
            self._note(root)
            for draft in self._calls(drafts.dead_drafts, root):
                modified = _moment(draft.modified)
                if modified <= limit:
                    path = os.path.join(root, draft.name)
                    yield Leftover(self.name, path, modified, draft.size, draft)

    def _remove_leftover(self, leftover: Leftover) -> None:
        draft: DeadDraft = leftover.key
        if not self._calls(drafts.remove_draft, draft):
            raise NotFound("it is gone or in use")

    def _check(self, *, write: bool = True) -> Iterator[str]:
        seen: dict[tuple[int, int], str] = {}
        for root in self._roots:
            try:
                if write:
                    self._calls(self._make_directory, root)
                    self._try_draft(root)
                else:
                    self._calls(self._look_at, root)
                status = self._calls(os.stat, root)
                first = seen.setdefault((status.st_dev, status.st_ino), root)
                if first is not root:
                    yield f"{root}: it is the same directory as {first}; list it once"
            except Exception as exc:
                yield f"{root}: {self._translate(exc, 'check')}"

    def _try_draft(self, root: str) -> None:
        """Make and drop a draft; raises what an add would, e.g. where locks are missing."""
        draft = Draft(self._calls)
        with draft, draft:
            self._make_draft(draft, root)
            try:
                draft(os.pwrite, b"\0", 0)
            except OSError as exc:
                if exc.errno == errno.EOPNOTSUPP:
                    raise Unsupported("the file system cannot hold images") from exc
                raise
            draft.abandon()

    def _look_at(self, root: str) -> None:
        """Raise what an add would, as far as can be told without one."""
        if self._require_mount:
            self._require_mounted(root)
        try:
            directory_status(root)
        except FileNotFoundError:
            has_vanished = root in self._seen
            raise NotFound(
                "there is no such directory",
                remedy="mount its file system, or make it"
                if has_vanished
                else "make it, or let the first add do so",
            ) from None
        self._seen.add(root)
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _moment(seconds: float) -> datetime:
    """Return a file's time; one outside the years 1 to 9999 becomes the first or last moment."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return _FIRST if seconds < 0 else _LAST


def _meanings(given: Mapping[str, Any]) -> list[Any]:
    """Return what options mean: directories, a mode, and metadata; raises ConfigError."""
    return all_checked(
        lambda: settings.data_dirs(given["datadir"], given["datadirs"]),
        lambda: settings.file_mode(given["file_perm"]),
        lambda: settings.MetadataFile(given["metadata_file"]),
    )


def _version_of(status: os.stat_result) -> str:
    """Return what identifies a file's content, as far as its status can: times have a granularity.

    That of the kernel's clock tick, up to 10 ms, or of what the file system can keep. The change
    time is left out: names, links, owners and permissions change it, even ``chown`` to what they
    are. So a write whose modification time was set back cannot be told.
    """
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _check_version(file: OpenFile, version: str) -> None:
    try:
        now = _version_of(file(os.fstat))
    except (OSError, TimedOut):  # such as of a file that was removed on another host
        return
    if now != version:
        raise IntegrityError(_CHANGED)
