"""Location URLs: where an image lies, as other services write and read it."""

from __future__ import annotations

import re
from typing import Final, NoReturn, Protocol, TypeAlias, final

from imgstore.errors import InvalidLocation
from imgstore.secret import MASK, Secret

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Secrets of these may hold "/" unescaped (glance_store before 5.7 wrote them so), hence the
# credentials run to the last "@" of the URL instead of the last one of the authority.
_GREEDY: Final = frozenset({"s3", "s3+http", "s3+https", "swift", "swift+http", "swift+https"})
# An unescaped "/" in a password would otherwise turn half of it into a host and a path.
_WEB: Final = frozenset({"http", "https"})
_WEB_HOST: Final = re.compile(r"(\[[0-9A-Za-z:.%_~-]+\]|[^\s:@\[\]/?#]+)(:[0-9]{0,5})?(?=[/?#]|\Z)")
# Here a query names a place; elsewhere it may be a signature that gives access.
_PLAIN_QUERY: Final = frozenset({"vsphere"})
_DEFAULT_PORTS: Final = ("80", "443")
_LOCAL: Final = frozenset({"file", "filesystem", "memory"})


class Located(Protocol):
    """Something that tells where it lies, such as a StoredImage or a row of a database.

    Where it has text in an attribute ``store`` too, a manager's verbs use the store of that name.
    """

    @property
    def location(self) -> Location | str:
        """Return its location."""


LocationLike: TypeAlias = "Location | str | Located"


@final
class Location:
    """An immutable location URL whose credentials are kept apart and never shown.

    ``url`` is what to persist and print: the text without credentials. ``reveal_url()`` is the
    text as it was given, for the one driver that needs it. ``str`` and ``repr`` show neither
    credentials nor a query that may be a signature. Two locations are equal when scheme and text
    without credentials are. Pickling drops the credentials.

    ``parse`` splits; it decodes nothing and knows no drivers. ``rest`` is what follows ``://``
    without the credentials.
    """

    __slots__ = ("_credentials", "rest", "scheme")

    scheme: str
    rest: str
    _credentials: Secret | None

    def __init__(self, scheme: str, rest: str, credentials: Secret | None = None) -> None:
        """Use ``Location.parse``; drivers build the locations that they write this way."""
        object.__setattr__(self, "scheme", scheme)
        object.__setattr__(self, "rest", rest)
        object.__setattr__(self, "_credentials", credentials)

    @classmethod
    def parse(cls, url: LocationLike) -> Location:
        """Return the location that ``url`` stands for; a Location is returned as it is.

        Raises InvalidLocation, and nothing else, whatever is passed.
        """
        if not isinstance(url, str | Location):
            url = _location_of(url)
        if isinstance(url, Location):
            return url
        match = _SCHEME.match(url)
        if match is None:
            raise InvalidLocation("not a URL", remedy="locations look like scheme://rest")
        if _CONTROL.search(url) or not _encodable(url):
            raise InvalidLocation("the URL holds control characters or lone surrogates")
        scheme, rest = match[1].lower(), url[match.end() :]
        credentials, rest = _split_credentials(scheme, rest)
        if not rest:
            raise InvalidLocation(f"nothing follows {scheme}://")
        if scheme in _WEB and not _WEB_HOST.match(rest):
            raise InvalidLocation(f"{scheme}:// is not followed by host[:port]")
        return cls(scheme, rest, None if credentials is None else Secret(credentials))

    @property
    def url(self) -> str:
        """Return the URL without credentials."""
        return f"{self.scheme}://{self.rest}"

    @property
    def credentials(self) -> Secret | None:
        """Return what stood before the ``@``, undecoded, or None."""
        return self._credentials

    def reveal_url(self) -> str:
        """Return the URL with its credentials; never print or persist it."""
        if self._credentials is None:
            return self.url
        return f"{self.scheme}://{self._credentials.reveal()}@{self.rest}"

    def __str__(self) -> str:
        """Return the URL fit for logs and messages."""
        rest = self.rest
        head, at, tail = rest.rpartition("@")
        if at and self.scheme not in _LOCAL and ":" in head:
            # Perhaps a password with an unescaped "/" in it: this is for display only.
            rest = f"{head.partition(':')[0]}:{MASK}@{tail}"
        if self.scheme not in _PLAIN_QUERY and "?" in rest:
            rest = f"{rest.partition('?')[0]}?{MASK}"
        return f"{self.scheme}://{MASK}@{rest}" if self._credentials else f"{self.scheme}://{rest}"

    def __repr__(self) -> str:
        """Return ``<Location …>``, fit for logs."""
        return f"<Location {self}>"

    def __eq__(self, other: object) -> bool:
        """Compare scheme and text, not credentials."""
        if not isinstance(other, Location):
            return NotImplemented
        return (self.scheme, self.rest) == (other.scheme, other.rest)

    def __hash__(self) -> int:
        """Hash scheme and text, not credentials."""
        return hash((self.scheme, self.rest))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: locations are immutable."""
        raise AttributeError(f"a Location is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: locations are immutable."""
        raise AttributeError(f"a Location is immutable: cannot delete {name!r}")

    def __copy__(self) -> Location:
        """Return self, credentials included."""
        return self

    def __deepcopy__(self, memo: object) -> Location:
        """Return self, credentials included."""
        return self

    def __reduce__(self) -> tuple[type[Location], tuple[str, str]]:
        """Pickle without the credentials."""
        return Location, (self.scheme, self.rest)


def store_of(location: LocationLike) -> str | None:
    """Return the name of the store that an image tells beside its location, if it does."""
    named = None if isinstance(location, str | Location) else _told(location, "store")
    return named if isinstance(named, str) else None


def _told(image: Located, name: str) -> object:
    try:
        return getattr(image, name)
    except AttributeError:
        return None
    except Exception as exc:  # of a row that its database session has let go, say
        kind = type(image).__name__
        raise InvalidLocation(f"the {name} of {kind} cannot be read") from exc


def _location_of(image: Located) -> Location | str:
    location = _told(image, "location")
    if not isinstance(location, str | Location):
        raise InvalidLocation(
            f"a location is text, not {type(image).__name__}",
            remedy="pass a URL, a Location, or an object whose location is one",
        )
    return location


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split_credentials(scheme: str, rest: str) -> tuple[str | None, str]:
    """Split ``user:password@host/path`` into what precedes the ``@`` and what follows."""
    if scheme in _GREEDY:
        head, tail = rest, ""
    else:
        end = re.search(r"[/?#]", rest)
        head, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    credentials, at, host = head.rpartition("@")
    return (credentials, host + tail) if at else (None, rest)


def same_service(one: str, other: str) -> bool:
    """Return whether two ``host[:port][/path]`` name one service.

    http and https are not told apart, nor are their default ports: services move from one to the
    other, and locations of either stay valid.
    """
    return _normal(one) == _normal(other)


def _normal(service: str) -> tuple[str, str]:
    authority, _, path = service.partition("/")
    for port in _DEFAULT_PORTS:
        authority = authority.removesuffix(f":{port}")
    return authority.lower(), path.strip("/")
