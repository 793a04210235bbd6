"""The driver half of a store: what only one backend knows."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from oslo_config import cfg

from imgstore import errors
from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import check_texts
from imgstore.boundary.showing import shown_settings
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.location import Location
from imgstore.model import Added, Capability, Leftover, Ownership, Stat

if TYPE_CHECKING:
    from typing_extensions import Self

    from imgstore.store import Store


class Driver(ABC):
    """The hooks that a driver fills in; drivers derive from Store, which adds the verbs.

    A driver declares ``OPTIONS``, ``schemes`` and ``capabilities``, and fills in

    - ``owns(location)``, ``_get(location, offset, length, *, if_version, context)``,
      ``_stat(location, *, context)`` or ``_size(location, *, context)``,
      ``_add(image_id, body, *, context)``, ``_delete(location, *, context)``, ``_classify(exc)``;
    - where it can do more: ``_copy``, ``_set_acls``, ``_leftovers``, ``_remove_leftover``,
      ``_check``, ``_holds``, ``_close``, ``url_prefix``, ``_url_prefixes``,
      ``reserved_defaults``, ``settings_elsewhere``, ``unread_in_files``, ``faults_together``.

    ``help(Driver._add)`` tells the contract of one.

    Hooks are called for permitted operations only, with locations whose scheme and root fit; they
    finish the containment check where that needs I/O. They raise their SDK's errors as they are,
    which ``_classify`` maps. They never log and raise. They may be called from many threads: a
    store does not change after ``__init__``, the state of an upload lives in local variables.

    ``_redaction`` knows the values of secret options, the credentials in others, and what callers
    pass: what a driver gets at run time, it tells it by ``learn``. Errors, their causes, what
    ``_check`` yields and the lines of loggers are shown without them.

    ``OPTIONS`` maps each keyword of the constructor to its oslo.config option; an option whose
    keyword has no default is required. Constructors never touch the network.
    """

    driver: ClassVar[str] = ""
    OPTIONS: ClassVar[Mapping[str, cfg.Opt]] = {}
    # Keywords of which one replaces the others: set for a store, it hides what shared settings
    # say about its alternatives.
    alternatives: ClassVar[tuple[frozenset[str], ...]] = ()
    # Keywords whose text may have several lines, such as keys in PEM; headers cannot hold them.
    multiline: ClassVar[frozenset[str]] = frozenset()
    schemes: ClassVar[tuple[str, ...]] = ()
    # Names of loggers of the SDK whose lines may hold secrets; they are masked. Those of the
    # driver's own package are in any case.
    sdk_loggers: ClassVar[tuple[str, ...]] = ()
    capabilities: Capability = Capability(0)
    read_retries: int = 3

    _redaction: Redaction
    _shown: Mapping[str, Any]

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Note what is secret, and refuse what no header can hold, before the driver sees it."""
        if cls._size is Driver._size and cls._stat is Driver._stat:
            raise TypeError(f"{cls.__name__} fills in neither _stat nor _size")
        given = _by_name(cls.__init__, args, given)
        check_texts(cls.OPTIONS, given, multiline=cls.multiline)
        driver = super().__new__(cls)
        secrets = Redaction.of(cls.OPTIONS, given)
        driver._redaction = secrets.watch(cls.__module__, *cls.sdk_loggers)
        driver._shown = shown_settings(cls.OPTIONS, given, cls.alternatives)
        return driver

    @abstractmethod
    def owns(self, location: Location) -> Ownership:
        """Tell without I/O whether a location of one of ``schemes`` lies in this store.

        Raise InvalidLocation for one that no store of this driver could have written.
        """

    @abstractmethod
    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        """Open an image at ``offset``; ``length`` is positive, or None for all that follows.

        More than ``length`` may be delivered, the library trims. With ``if_version`` only that
        version may be opened, otherwise raise IntegrityError. Raises InvalidRange if the backend
        refuses the offset as beyond the end. Without Capability.RANGES, offset is 0 and length
        None.
        """

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        """Return the image's size in bytes; raise when it cannot be told, never guess.

        A driver fills in this hook or ``_stat``; each is made from the other.
        """
        return self._stat(location, context=context).size

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        """Return size, version and time of an image, with as many requests as ``_size``.

        The version is the one that ``_get`` opens, in the same words.
        """
        return Stat(self._size(location, context=context))

    def _holds(self, location: Location, *, context: RequestContext | None) -> bool:
        """Tell whether an image lies here, where ``owns`` says that it may; by default by its size.

        A hook that raises NotFound says that there is none.
        """
        self._size(location, context=context)
        return True

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        """Store ``body`` under ``image_id``, all or nothing, never over an existing image.

        Write under a temporary name or upload id until ``body.read`` returned nothing or a short
        block, commit last, and undo everything on any BaseException. Raise AlreadyExists if the
        id is taken. A commit whose answer was lost is asked after; one's own success is success,
        and where that cannot be told raise with ``indeterminate=True`` and delete nothing that
        may be committed. ``body`` is neither closed nor rewound here, and its sizes are checked
        already.
        """
        raise NotImplementedError

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        """Delete an image; raise NotFound if there is none."""
        raise NotImplementedError

    def _classify(self, exc: Exception) -> errors.ImgStoreError | type[errors.ImgStoreError] | None:
        """Map an SDK's error to one of ours; None leaves it to the table of errno values.

        Return an instance where the SDK's text may hold secrets or help nobody.
        """

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        """Let the backend copy an image of ``origin`` here, like ``_add``; None: it cannot.

        Called with Capability.COPY only.
        """
        raise NotImplementedError

    def _set_acls(
        self,
        location: Location,
        *,
        public: bool,
        read: Sequence[str],
        write: Sequence[str],
        context: RequestContext | None,
    ) -> None:
        """Set who may read and write an image. Called with Capability.ACLS only."""
        raise NotImplementedError

    def _leftovers(self, older_than: timedelta) -> Iterable[Leftover]:
        """Yield what unfinished adds of dead processes left at least ``older_than`` ago.

        The library passes on only what is of that age by its ``modified``.
        """
        return ()

    def _remove_leftover(self, leftover: Leftover) -> None:
        """Remove one; raise NotFound if it is gone or turned out to be alive."""
        raise NotImplementedError

    def _check(self, *, write: bool = True) -> Iterable[str]:
        """Talk to the backend and yield what is wrong, each with its remedy.

        Without ``write`` make and change nothing: no directory, no object, no lock. The library
        always passes it; the default is for hooks from before it which call their base's.
        """
        return ()

    def _close(self) -> None:
        """Release clients and threads; called once."""

    @property
    def url_prefix(self) -> str | None:
        """Return what URLs that this store writes begin with, or None if there is no such text.

        Of several places it is the preferred one's.
        """
        return None

    def _url_prefixes(self) -> Iterable[str]:
        """Yield what URLs begin with of images directly below its places, each up to a slash.

        ``owns`` is YES for them, and an add's URL begins with one, if there are any. Nothing where
        no text tells, or as long as it is not known. By default it is ``url_prefix``, if that ends
        with a slash.
        """
        prefix = self.url_prefix or ""
        return (prefix,) if prefix.endswith("/") else ()

    @classmethod
    def reserved_defaults(cls, name: str) -> Mapping[str, Any]:
        """Return keywords whose defaults differ for the reserved store ``name``.

        They must keep reserved stores apart from each other and from all others.
        """
        raise errors.ConfigError(
            f"the driver {cls.driver!r} cannot hold a reserved store",
            remedy="use the driver 'file'",
        )

    @classmethod
    def settings_elsewhere(cls, conf: cfg.ConfigOpts) -> Mapping[str, Any]:
        """Return keywords that an application's configuration has in groups of other libraries."""
        return {}

    @classmethod
    def unread_in_files(cls, values: Mapping[str, Any]) -> Iterable[errors.ConfigError]:
        """Yield what files say that keywords' ``values`` name, and nothing reads.

        A file that cannot be used is for the constructor to refuse.
        """
        return ()

    @classmethod
    def faults_together(cls, stores: Sequence[Store]) -> Iterable[tuple[Store, errors.ConfigError]]:
        """Yield which of the stores of this driver cannot be beside the others, and why not."""
        return ()


def _by_name(
    constructor: Callable[..., None], args: Sequence[Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all arguments of a constructor by their names, as far as they can be told."""
    try:
        bound = inspect.signature(constructor).bind_partial(None, *args, **given)
    except (TypeError, ValueError):  # which the constructor says better, or nobody can tell
        return dict(given)
    return {**bound.arguments, **given}
