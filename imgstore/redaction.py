"""What a store must not show, taken out of what others say."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, quote, unquote

from oslo_config import cfg

from imgstore.arguments import texts_in
from imgstore.errors import ImgStoreError
from imgstore.location import Location
from imgstore.secret import MASK, Secret

_LEARNT: Final = 1024  # secrets got at run time that are remembered
_INSIDE: Final = 8  # characters from which on a secret is found inside words, too
_PIECE: Final = re.compile(r"\s+|\S")
_RUN: Final = re.compile(r"[A-Za-z0-9]+")
# A short secret stands alone; what it follows may be escaped.
_BEFORE: Final = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
_AFTER: Final = r"(?!\w)"
# What stands before the "@" of a URL; to the last one, for "/" may stand in a password.
_USERINFO: Final = re.compile(r"(?:.*?://)?(.+)@", re.DOTALL)
# What Keystone and Cinder call secrets in JSON: OSSN-0085 is about keyrings in logs.
_FIELD: Final = re.compile(
    r"""(?s)(["'](?:\w*_)?(?:keyring|password|secret|adminPass)["']\s*:\s*(["']))"""
    r"""(?:\\.|(?!\2)[^\\])*(\2)"""
)
# Their queries may be signatures that give access.
_SIGNED: Final = frozenset({"http", "https"})


class Redaction:
    """The secrets of one store, and how they are masked in texts, errors and other loggers' lines.

    Every secret is found as it is, percent-encoded, escaped as XML and JSON have it, and in
    base64, by itself or within something longer. Those of fewer than 8 characters are masked
    where they stand alone, for they may be parts of words. May be used by many threads.
    """

    __slots__ = ("__weakref__", "_kept", "_learnt")

    def __init__(self, secrets: Iterable[str | Secret] = ()) -> None:
        self._kept: dict[str, _Value] = {}
        self._learnt: dict[str, _Value] = {}
        self.keep(*secrets)

    @classmethod
    def of(cls, options: Mapping[str, cfg.Opt], given: Mapping[str, Any]) -> Redaction:
        """Return what the keywords of a constructor hold: secret options, and URLs' credentials."""
        return cls(_secrets_of(options, given))

    def keep(self, *secrets: str | Secret | None) -> None:
        """Add what is secret for as long as the store is there."""
        for text in _texts(secrets):
            if text:
                self._kept.setdefault(text, _Value(text))

    def learn(self, *secrets: str | Secret | None) -> None:
        """Add what was got at run time, such as tokens; the latest thousand count."""
        for text in _texts(secrets):
            if text and text not in self._learnt:
                self._learnt[text] = _Value(text)
                while len(self._learnt) > _LEARNT:
                    self._learnt.pop(next(iter(list(self._learnt))), None)

    def note(self, location: Location) -> Location:
        """Learn the credentials of a location, and its query that may be a signature; return it."""
        self.learn(*_secrets_in(location))
        return location

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        values = [*self._kept.values(), *list(self._learnt.values())]
        found = [value for value in values if value.may_be_in(text)]
        for value in sorted(found, key=len, reverse=True):
            text = value.masked(text)
        return text

    def error(self, error: ImgStoreError, exc: BaseException) -> None:
        """Take secrets out of an error, and out of ``exc``, which becomes its cause.

        A cause whose text holds a secret is replaced by an exception of the same name, which has
        its traceback. Local variables in tracebacks stay as they are.
        """
        if error is not exc:
            error.__cause__ = self.chain(exc)
        self.chain(error)

    def chain(self, exc: BaseException) -> BaseException:
        """Return an exception that shows no secrets, nor does what it comes from."""
        return self._chain(exc, {})

    def _chain(self, exc: BaseException, known: dict[int, BaseException]) -> BaseException:
        known[id(exc)] = exc
        suppressed = exc.__suppress_context__
        for name in ("__cause__", "__context__"):
            inner = getattr(exc, name)
            if inner is None:
                continue
            clean = known.get(id(inner)) or self._chain(inner, known)
            if clean is not inner:
                # Past the class, which may refuse: pyVmomi's do.
                BaseException.__setattr__(exc, name, clean)
                BaseException.__setattr__(exc, "__suppress_context__", suppressed)
        if isinstance(exc, ImgStoreError):
            exc.reason, exc.remedy = self.text(exc.reason), self.text(exc.remedy)
            exc.args = (exc.reason,)
            return exc
        text = _text_of(exc)
        clean_text = self.text(text)
        if clean_text != text:
            known[id(exc)] = _stand_in(exc, clean_text)
        return known[id(exc)]

    def reraise(self, error: BaseException) -> NoReturn:
        """Raise an exception of the caller's objects; what it came upon shows no secrets."""
        try:
            raise error
        finally:
            if error.__context__ is not None:
                clean = self.chain(error.__context__)
                BaseException.__setattr__(error, "__context__", clean)

    def watch(self, module: str, *loggers: str) -> Redaction:
        """Mask secrets in what loggers say, as long as the store is there; return self.

        They are those of this library and of ``module``'s package, and what is named.
        """
        packages = (f"{__package__}.", f"{module.rpartition('.')[0] or module}.")
        known = list(logging.root.manager.loggerDict)
        own = (name for name in known if f"{name}.".startswith(packages))
        for name in {*own, *loggers}:
            logger, mask = logging.getLogger(name), _LogMask(self)
            logger.addFilter(mask)
            weakref.finalize(self, logger.removeFilter, mask).atexit = False
        return self

    def __repr__(self) -> str:
        """Show none of them."""
        return f"<Redaction of {len(self._kept) + len(self._learnt)}>"


class _Value:
    """One secret, in all its forms."""

    __slots__ = ("_forms", "_needles", "_pattern", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._forms = tuple(_in_base64(text))
        # One of these is in every text that the pattern finds; looking for them costs little.
        self._needles = tuple(max(_RUN.findall(form), key=len, default="") for form in self._all)
        self._pattern: re.Pattern[str] | None = None

    @property
    def _all(self) -> tuple[str, ...]:
        return (self._text, *self._forms)

    def __len__(self) -> int:
        """Return the length of the secret."""
        return len(self._text)

    def may_be_in(self, text: str) -> bool:
        """Return False only for a text without the secret."""
        return any(needle in text for needle in self._needles)

    def masked(self, text: str) -> str:
        """Return a text without the secret."""
        if self._pattern is None:
            own = "".join(map(_escaped, _PIECE.findall(self._text)))
            if len(self._text) < _INSIDE:
                own = f"{_BEFORE}{own}{_AFTER}"
            encoded = ("".join(map(_escaped_base64, form)) for form in self._forms)
            around = r"[A-Za-z0-9+/_-]?"
            patterns = [own, *(f"{around}{each}{around}={{0,2}}" for each in encoded)]
            self._pattern = re.compile("|".join(patterns))
        return self._pattern.sub(MASK, text)


def _escaped(piece: str) -> str:
    """Return a pattern for a character, or for spaces in a row, however they are escaped."""
    if piece.isascii() and piece.isalnum():
        return piece
    forms = sorted({form for char in piece for form in _forms(char)}, key=len, reverse=True)
    words = "|".join(map(re.escape, forms))
    # Messages are folded into one line.
    return rf"(?i:{words}|\s|\+)+" if piece.isspace() else f"(?i:{words})"


def _forms(char: str) -> Iterator[str]:
    percent = quote(char, safe="", errors="replace")
    in_bytes = "".join(f"\\x{byte:02x}" for byte in char.encode(errors="replace"))
    yield from (char, percent, quote(percent))
    yield from (html.escape(char), f"&#{ord(char)};", f"&#x{ord(char):x};")
    yield from (json.dumps(char)[1:-1], f"\\u{ord(char):04x}", f"\\{char}")
    yield from (ascii(char)[1:-1], in_bytes)
    if char == "'":
        yield "&apos;"


def _escaped_base64(char: str) -> str:
    if char.isalnum():
        return char
    return r"(?:[+-]|(?i:%2b))" if char == "+" else r"(?:[/_]|(?i:%2f|\\/))"


def _in_base64(text: str) -> Iterator[str]:
    """Yield what is in base64 whatever stands around a text, where that is of any length."""
    data = text.encode(errors="surrogatepass")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        whole = encoded[-(-8 * before // 6) : 8 * (before + len(data)) // 6]
        if len(whole) >= _INSIDE:
            yield whole


def _text_of(exc: BaseException) -> str:
    """Return all that a traceback shows of an exception."""
    try:
        text = str(exc)
    except Exception:
        text = ""
    inside = getattr(exc, "exceptions", ())  # of a group
    more = [_text_of(each) for each in inside if isinstance(each, BaseException)]
    return "\n".join([text, *map(str, getattr(exc, "__notes__", ())), *more])


def _stand_in(exc: BaseException, text: str) -> BaseException:
    """Return an exception that looks like another in a traceback."""
    kind = type(exc)
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    made: Exception = type(kind.__name__, (Exception,), named)(text.rstrip("\n"))
    made.__cause__, made.__context__ = exc.__cause__, exc.__context__
    made.__suppress_context__ = exc.__suppress_context__
    return made.with_traceback(exc.__traceback__)


def _secrets_of(options: Mapping[str, cfg.Opt], given: Mapping[str, Any]) -> Iterator[str]:
    for keyword, value in given.items():
        opt = options.get(keyword)
        for text in texts_in(value):
            if opt is not None and opt.secret:
                yield text
                continue
            match = _USERINFO.match(text) if opt is not None or keyword == "also_owns" else None
            if match:
                yield from _credentials(match[1])


def _texts(secrets: Iterable[object]) -> Iterator[str]:
    """Yield texts without the spaces around them; nothing for what is no text."""
    yield from (text.strip() for each in secrets for text in texts_in(each))


def _credentials(text: str) -> Iterator[str]:
    """Yield the credentials of a URL, and the password or token alone, encoded or not."""
    alone = text.rpartition(":")[2] if text.count(":") != 1 else text.partition(":")[2]
    for each in (text, text.partition(":")[2], alone):
        yield each
        yield unquote(each)


def _secrets_in(location: Location) -> Iterator[str]:
    """Yield the credentials of a location, and a query that may be a signature."""
    found: list[str] = []
    if location.credentials is not None:
        found += _credentials(location.credentials.reveal())
    if location.scheme in _SIGNED:
        query = location.rest.partition("?")[2].partition("#")[0]
        values = [value for _, value in parse_qsl(query) if len(value) >= _INSIDE]
        found += [query, *values]
    yield from dict.fromkeys(each for each in found if each)


class _LogMask(logging.Filter):
    """Masks secrets in records of a logger."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = weakref.ref(redaction)

    def filter(self, record: logging.LogRecord) -> bool:
        redaction = self._redaction()
        if redaction is None:
            return True
        try:
            text = record.getMessage()
        except Exception:  # the handlers say so
            return True
        clean = _FIELD.sub(rf"\1{MASK}\3", redaction.text(text))
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:
            exc = redaction.chain(record.exc_info[1])
            record.exc_info = (type(exc), exc, record.exc_info[2])
        return True
