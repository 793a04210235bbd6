"""The program behind Keystone's and Swift's servers, run by the Python that they are installed for.

``openstack_program.py VERB OPTIONS``, with the options as JSON: ``keystone``, ``rings``, or one of
``account``, ``container``, ``object``, ``proxy`` and Swift's other servers.

Run it with -I: the modules beside it have the names of the packages that it imports.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_SERVERS = {
    "account": "swift.account.server",
    "container": "swift.container.server",
    "object": "swift.obj.server",
    "proxy": "swift.proxy.server",
    "container-updater": "swift.container.updater",
    "object-updater": "swift.obj.updater",
}

# None of an object tells anything of its container and account; a login ends no token.
_OF_AN_OBJECT = re.compile(r"/v1(\.0)?/[^/]+/[^/]+/.")
_LOGIN = ("POST", "/v3/auth/tokens")

_App = Callable[..., Iterable[bytes]]


class Changes:
    """A file that grows with each change to what other servers may remember."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._path.touch()

    def count(self) -> int:
        """Return how many there were."""
        return self._path.stat().st_size

    def note(self, method: str, path: str) -> None:
        """Count a request that may have changed tokens, accounts or containers."""
        reads = method in ("GET", "HEAD", "OPTIONS") or (method, path) == _LOGIN
        if not reads and not _OF_AN_OBJECT.match(path):
            with self._path.open("ab") as file:
                file.write(b".")


class AccessLog:
    """WSGI: writes a line of JSON for each request, before its answer goes out.

    A filter for PasteDeploy, too: ``__main__:AccessLog.filter``, with ``log`` and the file of
    `Changes` in its section.
    """

    def __init__(self, app: _App, log: str, changes: Changes | None = None) -> None:
        self._app = app
        self._log = log
        self._changes = changes

    @classmethod
    def filter(cls, _: object, *, log: str, changes: str, **__: str) -> Callable[[_App], AccessLog]:
        """Make what puts the log in front of an application."""
        return lambda app: cls(app, log, Changes(changes))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_LENGTH", "CONTENT_TYPE")
        }
        asked = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
            "query": environ.get("QUERY_STRING", ""),
            "headers": headers,
        }

        def answer(status: str, *more: Any) -> Any:
            # What keystonemiddleware found out about X-Service-Token.
            service = environ.get("HTTP_X_SERVICE_IDENTITY_STATUS", "")
            found = {"status": int(status.partition(" ")[0]), "service": service}
            with Path(self._log).open("a") as log:
                log.write(json.dumps(asked | found) + "\n")
            if self._changes is not None:
                self._changes.note(asked["method"], asked["path"])
            return start_response(status, *more)

        return self._app(environ, answer)


class ProcessCache:
    """What Swift asks of memcached, within one process."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float]] = {}

    @classmethod
    def filter(cls, *_: object, **__: str) -> Callable[[_App], _App]:
        """Give an application the cache, as a filter for PasteDeploy."""
        return _giving("swift.cache", cls())

    def get(self, key: str, *_: object, **__: object) -> Any:
        """Return what was stored; None where that is nothing, or too old."""
        value, end = self._values.get(key, (None, 0.0))
        return value if time.time() < end else None

    def set(self, key: str, value: Any, **how: Any) -> None:
        """Store a value for ``time`` seconds."""
        self._values[key] = (value, time.time() + how.get("time", 0))

    def delete(self, key: str, **_: object) -> None:
        """Forget a value."""
        self._values.pop(key, None)


class Memory:
    """What is remembered as long as nothing changes, so that nobody sees a difference.

    It saves most of what Swift asks of Keystone for a token, and of its other servers for account
    and container. An answer counts from the time when it was asked for.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._known: dict[str, tuple[int, Any]] = {}
        self._asked: dict[str, int] = {}

    @classmethod
    def filter(cls, _: object, *, changes: str, name: str, **__: str) -> Callable[[_App], _App]:
        """Give an application the memory as ``name``, as a filter for PasteDeploy."""
        return _giving(name, cls(Changes(changes)))

    def get(self, key: str, *_: object, **__: object) -> Any:
        """Return what was stored; None where that is nothing, or something changed meanwhile."""
        now = self._changes.count()
        known, value = self._known.get(key, (-1, None))
        if known == now:
            return copy.deepcopy(value)
        # The first of those who ask at once: what a later one stores is as old as that, at worst.
        self._asked.setdefault(key, now)
        return None

    def set(self, key: str, value: Any, **_: object) -> None:
        """Store the answer to what was asked for with `get`."""
        asked = self._asked.pop(key, -1)
        if key.startswith("tokens/") or _lasts(key, value):
            self._known[key] = (asked, copy.deepcopy(value))

    def delete(self, key: str, **_: object) -> None:
        """Forget a value."""
        self._known.pop(key, None)


def _lasts(key: str, about: Any) -> bool:
    """Tell whether no object changes what Swift knows of an account or a container."""
    if not key.startswith(("account/", "container/")) or not 200 <= int(about["status"]) < 300:
        return False
    # With a quota the number of bytes matters.
    return not any("quota" in name for kind in ("meta", "sysmeta") for name in about[kind])


def _giving(name: str, cache: object) -> Callable[[_App], _App]:
    def give(app: _App) -> _App:
        def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ[name] = cache
            return app(environ, start_response)

        return call

    return give


def keystone(options: dict[str, Any]) -> None:
    """Serve Keystone over http and https; a database that is not there yet is made first."""
    sys.argv[1:] = []  # Keystone reads the command line
    if not Path(options["database"]).exists():
        # A child, as Keystone can be set up in a process only once.
        child = os.fork()
        if child == 0:
            _make_database(options)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit("the database could not be made")
    application = importlib.import_module("keystone.wsgi.api").application
    serving = importlib.import_module("werkzeug.serving")
    handler = serving.WSGIRequestHandler
    handler.protocol_version = "HTTP/1.1"
    # Headers and body are sent apart: the second would wait for the first's acknowledgement.
    handler.disable_nagle_algorithm = True
    logged = AccessLog(application, options["log"], Changes(options["changes"]))
    tls = (options["certificate"], options["key"])
    servers = [
        serving.make_server("127.0.0.1", options[scheme], logged, threaded=True, ssl_context=how)
        for scheme, how in (("http", None), ("https", tls))
    ]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


def _make_database(options: dict[str, Any]) -> None:
    """Make the tables as of the models, without the migrations that lead there, and the admin."""
    # Two Keystones share it: readers must not be in the way of a writer. It stays as it is.
    with contextlib.closing(sqlite3.connect(options["database"])) as database:
        database.execute("PRAGMA journal_mode=WAL")
    importlib.import_module("keystone.server").configure(config_files=[options["conf"]])
    bootstrapper = importlib.import_module("keystone.cmd.bootstrap").Bootstrapper()
    sql = importlib.import_module("keystone.common.sql")
    with sql.session_for_write() as session:
        engine = session.get_bind()
    sql.ModelBase.metadata.create_all(engine)
    for name, value in options["bootstrap"].items():
        setattr(bootstrapper, name, value)
    bootstrapper.bootstrap()


def rings(options: dict[str, Any]) -> None:
    """Write the rings of one device: ``directory``, and a port for each kind of server."""
    builder = importlib.import_module("swift.common.ring").RingBuilder
    for kind, port in options["ports"].items():
        ring = builder(2, 1, 0)
        place = {"ip": "127.0.0.1", "port": port}
        copies = {f"replication_{name}": value for name, value in place.items()}
        device = {"region": 1, "zone": 1, "device": "disk", "weight": 1, "meta": ""}
        ring.add_dev(device | place | copies)
        ring.rebalance(seed=1)
        ring.get_ring().save(os.path.join(options["directory"], f"{kind}.ring.gz"))


def swift(kind: str, options: dict[str, Any]) -> None:
    """Run one of Swift's servers with its configuration, and the swift.conf beside that."""
    conf = options["conf"]
    # Others read it while they are imported.
    utils: Any = importlib.import_module("swift.common.utils")
    utils.SWIFT_CONF_FILE = os.path.join(os.path.dirname(conf), "swift.conf")
    _never_wait_for_the_disk()
    sys.argv = [f"swift-{kind}", conf, "--verbose", *options.get("arguments", ())]
    importlib.import_module(_SERVERS[kind]).main()


def _never_wait_for_the_disk() -> None:
    """Leave files to the kernel: no test ends with it, and what a killed server wrote is there."""
    os.fsync = os.fdatasync = lambda _: None
    database: Any = importlib.import_module("swift.common.db")
    connect = database.get_db_connection

    def hasty(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA synchronous = OFF").close()
        return connection

    database.get_db_connection = hasty


def main() -> None:
    """Do what the command line says."""
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    if verb == "keystone":
        keystone(options)
    elif verb == "rings":
        rings(options)
    else:
        swift(verb, options)


if __name__ == "__main__":
    main()
