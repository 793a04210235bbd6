"""The program behind Glance's API, run by the Python that it is installed for.

``glance_program.py VERB OPTIONS``, with the options as JSON: ``database`` or ``api``.

Run it with -P: the modules beside it have the names of packages that Glance imports, and -I would
hide the library that Glance is to use.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
import sys
from typing import Any

# What keystonemiddleware would say of whoever asks.
_ANYBODY = {
    "HTTP_X_IDENTITY_STATUS": "Confirmed",
    "HTTP_X_USER_ID": "tester",
    "HTTP_X_PROJECT_ID": "tests",
    "HTTP_X_ROLES": "admin,member,reader,service",
}


def _here(name: str) -> Any:
    """Import a module beside this one, behind all others."""
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    return importlib.import_module(name)


def database(options: dict[str, Any]) -> None:
    """Make the tables as of the models, without the migrations that lead there."""
    # Several processes share it: readers must not be in the way of a writer. It stays as it is.
    with contextlib.closing(sqlite3.connect(options["database"])) as made:
        made.execute("PRAGMA journal_mode=WAL")
    engine = importlib.import_module("sqlalchemy").create_engine(f"sqlite:///{options['database']}")
    for name in ("models", "models_metadef"):
        importlib.import_module(f"glance.db.sqlalchemy.{name}").register_models(engine)


def api(options: dict[str, Any]) -> None:
    """Serve the API until SIGTERM, with a log of its requests."""
    _here("cinder_program").write_one_at_a_time()
    shared = _here("openstack_program")
    application = importlib.import_module("glance.common.wsgi_app").init_app()

    def trusting(environ: dict[str, Any], start_response: Any) -> Any:
        return application(environ | _ANYBODY, start_response)

    # A request looks for the token there before it asks Keystone.
    cached = shared.ProcessCache.filter()(trusting if options["trusting"] else application)
    logged = shared.AccessLog(cached, options["log"])
    serving = importlib.import_module("werkzeug.serving")
    handler = serving.WSGIRequestHandler
    handler.protocol_version = "HTTP/1.1"
    # Headers and body are sent apart: the second would wait for the first's acknowledgement.
    handler.disable_nagle_algorithm = True
    serving.make_server("127.0.0.1", options["port"], logged, threaded=True).serve_forever()


def main() -> None:
    """Do what the command line says."""
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    sys.argv[1:] = []
    {"database": database, "api": api}[verb](options)


if __name__ == "__main__":
    main()
