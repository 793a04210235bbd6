"""What a store must not show, taken out of what others say."""

from __future__ import annotations

import base64
import functools
import html
import itertools
import json
import logging
import os
import pkgutil
import re
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from oslo_config import cfg

from imgstore import errors
from imgstore.boundary.settings import texts_in
from imgstore.errors import ImgStoreError, StoreError
from imgstore.location import Location
from imgstore.secret import MASK, Secret

_LIBRARY: Final = str(errors.__package__)
_UNDOING: Final = f"{_LIBRARY}.process.committing"
_LATEST: Final = 128  # secrets got at run time that are remembered, own ones and callers' each
_LONGEST: Final = 1000  # characters of what a backend says
_INSIDE: Final = 8  # characters from which on a secret is found inside words, too
_CREDENTIAL: Final = 4  # characters from which on a caller's credentials are no plain words
_SIGNATURE: Final = 16  # characters from which on a part of a caller's query may give access
_FIELDS: Final = 16  # of a query that are looked at
# A short secret stands alone; what it follows may be escaped.
_BEFORE: Final = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
_AFTER: Final = r"(?!\w)"
# What is left as it is by those who percent-encode: strictly, quote, urllib3 (paths, queries),
# requests, and JavaScript.
_SAFE: Final = ("", "/", "/:@!$&'()*+,;=", "/:@!$&'()*+,;=?", "!#$%&'()*+,/:;=?@[]~", "!'()*")
_RUN: Final = re.compile(r"[A-Za-z0-9]+")
_PERCENT: Final = re.compile(r"%[0-9A-F]{2}")
# What the quotes and "/" become in HTML and XML, by their makers' habits.
_MARKUP: Final = (
    ("'", '"', "/"),
    ("'", "&quot;", "/"),
    ("&apos;", "&quot;", "/"),
    ("&#39;", "&quot;", "/"),
    ("&#39;", "&#34;", "/"),
    ("&#x27;", "&quot;", "/"),
    ("&#x27;", "&quot;", "&#47;"),
    ("&#x27;", "&quot;", "&#x2f;"),
    ("&#x27;", "&quot;", "&#x2F;"),
)
# Keywords whose values are hosts: credentials may stand before them without a scheme.
_HOSTS: Final = re.compile(
    r"(?:^|_)(?:hosts?|address|endpoint|server|url|uri|proxy|proxies)(?:_information|_template)?$"
    r"|^also_owns$"
)
# A URL whose host ends before a path or a query, so that no credentials can stand before it.
_PLAIN_HOST: Final = re.compile(
    r"(?i)(?:https?:)?//(?:\[[^\]\s@/]+\]|[^\s:@\[\]/?#]+)(?::[0-9]{0,5})?[/?#]"
)
_URL_IN_PROSE: Final = re.compile(r"(?:\w[\w+.-]*:)?//\S+")
_LOCAL: Final = frozenset({"file", "filesystem"})
# What Keystone and Cinder call secrets in JSON: OSSN-0085 is about keyrings in logs.
_FIELD: Final = re.compile(
    r"""(?s)(["'](?:\w*_)?(?:keyring|password|secret|adminPass)["']\s*:\s*(["']))"""
    r"""(?:\\.|(?!\2)[^\\])*(\2)"""
)
# Their queries may be signatures that give access.
_SIGNED: Final = frozenset({"http", "https"})


class Redaction:
    """The secrets of one store, and how they are masked in texts, errors and loggers' lines.

    Every secret is found as it is, percent-encoded, escaped as XML, JSON and Python have it, and
    in base64, by itself or within something longer: each of these forms as a whole, so that the
    time grows with the text and with nothing in it. Forms of fewer than 8 characters are masked
    where they stand alone, for they may be parts of words. May be used by many threads.
    """

    __slots__ = ("__weakref__", "_callers", "_kept", "_learnt")

    def __init__(self, secrets: Iterable[str | Secret] = ()) -> None:
        self._kept = _Values(sys.maxsize)
        self._learnt = _Values(_LATEST)
        self._callers = _Values(_LATEST)
        self.keep(*secrets)

    @classmethod
    def of(cls, options: Mapping[str, cfg.Opt], given: Mapping[str, Any]) -> Redaction:
        """Return what the keywords of a constructor hold: secret options, and URLs' credentials."""
        return cls(_secrets_of(options, given))

    def keep(self, *secrets: str | Secret | None) -> None:
        """Add what is secret for as long as the store is there."""
        self._kept.add(secrets)

    def learn(self, *secrets: str | Secret | None) -> None:
        """Add what the store got at run time, such as its token; the 128 used last count."""
        self._learnt.add(secrets)

    def note(self, *given: Location | str | Secret | None) -> None:
        """Add what a caller passed, tokens and locations; the 128 used last count.

        Of a location these are credentials, and a query that may be a signature.
        """
        for each in given:
            self._callers.add(_secrets_in(each) if isinstance(each, Location) else (each,))

    def text(self, text: str, *, callers: bool = True) -> str:
        """Return a text without secrets; those of callers stay in it unless ``callers``."""
        known = (self._kept, self._learnt, self._callers)[: 3 if callers else 2]
        found = {form for values in known for form in values.forms_in(text)}
        for form in sorted(found, key=len, reverse=True):
            if len(form) >= _INSIDE:
                text = text.replace(form, MASK)
            else:
                text = re.sub(f"{_BEFORE}{re.escape(form)}{_AFTER}", MASK, text)
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
            reason, exc.remedy = self.text(exc.reason), self.text(exc.remedy)
            # Not before: of a secret that is cut nobody would know that it is one.
            is_long = isinstance(exc, StoreError) and len(reason) > _LONGEST
            exc.reason = f"{reason[:_LONGEST]}…" if is_long else reason
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

        They are those of this library and of ``module``'s package, whose modules may be imported
        later, and what is named. What callers passed is left to those of this library that are
        not of that package: it may be a word of theirs.
        """
        package = module.rpartition(".")[0] or module
        own = module if package == f"{_LIBRARY}.drivers" else package
        # What drivers undo is logged by the library, in words of the backend.
        for name in (_LIBRARY, _UNDOING, own, *loggers):
            mask = _MASKS.get(name) or _MASKS.setdefault(name, _LogMask(callers=name != _LIBRARY))
            mask.add(self)
            for each in {name} if name in loggers else _loggers(name):
                logging.getLogger(each).addFilter(mask)
        return self

    def __repr__(self) -> str:
        """Show none of them."""
        count = len(self._kept) + len(self._learnt) + len(self._callers)
        return f"<Redaction of {count}>"


class _Values:
    """Secrets with all their forms; where there are too many, those that were used last."""

    __slots__ = ("_known", "_most", "_uses")

    def __init__(self, most: int) -> None:
        self._known: dict[str, tuple[int, _Forms]] = {}
        self._most = most
        self._uses = itertools.count()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._known)

    def add(self, secrets: Iterable[object]) -> None:
        """Add texts, without the spaces around them; what is no text is no secret."""
        for text in (text.strip() for each in secrets for text in texts_in(each)):
            if text:
                known = self._known.get(text)
                # One step: another thread finds it at any time.
                self._known[text] = next(self._uses), known[1] if known else _Forms(text)
        while len(self._known) > self._most:
            known_now = self._known.copy()
            self._known.pop(min(known_now, key=lambda each: known_now[each][0]), None)

    def forms_in(self, text: str) -> list[str]:
        """Return the forms of secrets that a text holds."""
        known = self._known.copy()
        return [form for _, forms in known.values() for form in forms.of(text) if form in text]


class _Forms:
    """A secret as it is, and as others quote, escape and encode it."""

    __slots__ = ("_all", "_in_base64", "_run")

    def __init__(self, text: str) -> None:
        self._in_base64 = frozenset(_in_base64(text))
        forms = {text, *_in_percent(text), *_in_markup(text), *_in_literals(text)}
        # Messages are folded into one line.
        self._all = self._in_base64.union(forms, (" ".join(form.split()) for form in forms))
        # Nobody escapes these, so that a text without them has none but forms in base64.
        self._run = max(_RUN.findall(text), key=len, default="")

    def of(self, text: str) -> frozenset[str]:
        """Return the forms that may be in a text."""
        return self._all if self._run in text else self._in_base64


def _in_percent(text: str) -> set[str]:
    once = {quote(text, safe, errors="surrogatepass") for safe in _SAFE}
    once.add(quote_plus(text, errors="surrogatepass"))
    once |= {_PERCENT.sub(lambda found: found[0].lower(), each) for each in once}
    return once | {quote(each, "", errors="surrogatepass") for each in once}


def _in_markup(text: str) -> Iterator[str]:
    escaped = html.escape(text, quote=False)
    for single, double, slash in _MARKUP:
        yield escaped.replace("/", slash).replace("'", single).replace('"', double)


def _in_literals(text: str) -> Iterator[str]:
    """Yield what JSON and Python make of a text, and Python of JSON, with either quotes."""
    in_json = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    in_json |= {each.replace("/", "\\/") for each in in_json}
    for char in "<>&":  # as Go has them
        in_json |= {each.replace(char, f"\\u{ord(char):04x}") for each in in_json}
    yield from in_json
    for each in {text, *in_json}:
        # The double quote makes Python escape single ones.
        quoted = each + '"'
        in_bytes = repr(quoted.encode(errors="surrogatepass"))[2:-2]
        for literal in (repr(quoted)[1:-2], ascii(quoted)[1:-2], in_bytes):
            yield literal
            yield literal.replace("\\'", "'")


def _in_base64(text: str) -> Iterator[str]:
    """Yield what is in base64 whatever stands around a text, where that is of any length."""
    data = text.encode(errors="surrogatepass")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        whole = encoded[-(-8 * before // 6) : 8 * (before + len(data)) // 6]
        if len(whole) >= _INSIDE:
            yield from (whole, whole.replace("+", "-").replace("/", "_"))
            yield from (quote(whole, ""), whole.replace("/", "\\/"))


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
        if opt is None and keyword != "also_owns":
            continue
        is_host = bool(_HOSTS.search(keyword))
        for text in texts_in(value):
            if opt is not None and opt.secret:
                yield text
            else:
                yield from _credentials(_userinfo(text, is_host=is_host))


def _userinfo(text: str, *, is_host: bool) -> str:
    """Return what stands before the last "@" of a URL or a host, if it can be credentials."""
    scheme, found, rest = text.partition("://")
    if not found:
        is_path = text.startswith("/") and not text.startswith("//")
        rest = text.removeprefix("//") if is_host and not is_path else ""
    elif scheme in _LOCAL:
        rest = ""
    userinfo = rest.rpartition("@")[0]
    # "/" may stand in a password, but without one it begins a path.
    return "" if "/" in userinfo and ":" not in userinfo else userinfo


def without_userinfo(keyword: str, value: Any) -> Any:
    """Return a copy of the value of an option without credentials that stand before hosts."""
    clean = functools.partial(without_userinfo, keyword)
    if isinstance(value, Mapping):
        return {clean(key): clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [clean(each) for each in value]
    if not isinstance(value, str) or _PLAIN_HOST.match(value):
        return value
    userinfo = _userinfo(value, is_host=bool(_HOSTS.search(keyword)))
    return value.replace(f"{userinfo}@", "", 1) if userinfo else value


def without_userinfo_in(prose: str) -> str:
    """Return a text for people, without credentials in the URLs in it."""
    return _URL_IN_PROSE.sub(lambda url: str(without_userinfo("url", url[0])), prose)


def may_hold_userinfo(keyword: str, value: Any) -> bool:
    """Return whether a value that nothing could use may hold credentials, in whatever form.

    What separates entries of a list or a mapping may have been a part of a password.
    """
    text = str(value)
    return "@" in text and ("//" in text or bool(_HOSTS.search(keyword)))


def _credentials(text: str) -> Iterator[str]:
    """Yield the credentials of a URL, and the password or token alone, encoded or not."""
    alone = text.rpartition(":")[2] if text.count(":") != 1 else text.partition(":")[2]
    for each in (text, text.partition(":")[2], alone):
        yield each
        yield unquote(each)


def _secrets_in(location: Location) -> Iterator[str]:
    """Yield the credentials of a location, and a query that may be a signature.

    Short ones and what the path has are words that errors are made of.
    """
    if location.credentials is not None:
        found = _credentials(location.credentials.reveal())
        yield from (each for each in found if len(each) >= _CREDENTIAL)
    if location.scheme in _SIGNED:
        path, _, query = location.rest.partition("#")[0].partition("?")
        values = (value for _, value in itertools.islice(parse_qsl(query), _FIELDS))
        for each in (query, *values):
            if len(each) >= _SIGNATURE and each not in path and each not in unquote(path):
                yield each


class _LogMask(logging.Filter):
    """Masks the secrets of the stores that are there in records of a package's loggers.

    It stays with them: filters may not be taken away while another thread goes by them.
    """

    def __init__(self, *, callers: bool) -> None:
        super().__init__()
        self._callers = callers
        self._watched: dict[weakref.ref[Redaction], None] = {}

    def add(self, redaction: Redaction) -> None:
        """Mask what a redaction knows for as long as it is there."""
        self._watched[weakref.ref(redaction, self._forget)] = None

    def _forget(self, gone: weakref.ref[Redaction]) -> None:
        self._watched.pop(gone, None)

    def filter(self, record: logging.LogRecord) -> bool:
        watched = [redaction for ref in self._watched.copy() if (redaction := ref()) is not None]
        if not watched:
            return True
        try:
            text = record.getMessage()
        except Exception:  # the handlers say so
            return True
        clean = _FIELD.sub(rf"\1{MASK}\3", text)
        for redaction in watched:
            clean = redaction.text(clean, callers=self._callers)
            self._mask_exception(record, redaction)
        if clean != text:
            record.msg, record.args = clean, ()
        return True

    def _mask_exception(self, record: logging.LogRecord, redaction: Redaction) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            exc = redaction.chain(record.exc_info[1])
            record.exc_info = (type(exc), exc, record.exc_info[2])


_MASKS: Final[dict[str, _LogMask]] = {}  # by the names of packages and of single loggers


def _loggers(package: str) -> set[str]:
    """Return the names of a package's loggers, those of modules that nobody imported yet too."""
    known = logging.root.manager.loggerDict.copy()
    return {*_modules(package), *(name for name in known if f"{name}.".startswith(f"{package}."))}


@functools.cache
def _modules(package: str) -> tuple[str, ...]:
    """Return the names of a package and of all modules in it; nothing is imported."""
    return package, *_inside(package, getattr(sys.modules.get(package), "__path__", ()))


def _inside(package: str, path: Iterable[str]) -> Iterator[str]:
    path = list(path)
    for _, name, is_package in pkgutil.iter_modules(path, f"{package}."):
        yield name
        if is_package:
            yield from _inside(name, [os.path.join(each, name.rpartition(".")[2]) for each in path])
