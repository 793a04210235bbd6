"""The program behind Cinder's services, run by the Python that they are installed for.

``cinder_program.py VERB OPTIONS``, with the options as JSON: ``database``, ``api``, ``scheduler``,
or ``volume`` for one backend. Upstream starts each of them by eventlet or mod_wsgi.

Run it with -I: the modules beside it have the names of the packages that it imports.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def configured(options: dict[str, Any]) -> Any:
    """Read the configuration, and make ready what every service needs; return oslo.config's."""
    # Read by Cinder while it is imported: native threads instead of eventlet's.
    os.environ["OS_CINDER_DISABLE_EVENTLET_PATCHING"] = "1"
    importlib.import_module("cinder.monkey_patch").patch()
    importlib.import_module("cinder.cmd.volume")  # registers what a backend's section may say
    conf = importlib.import_module("oslo_config.cfg").CONF
    write_one_at_a_time()
    importlib.import_module("cinder.objects").register_all()
    logging = importlib.import_module("oslo_log.log")
    logging.register_options(conf)
    conf(["--config-file", options["conf"]], project="cinder")
    importlib.import_module("cinder.common.config").set_middleware_defaults()
    logging.setup(conf, "cinder")
    importlib.import_module("oslo_privsep.priv_context").init(root_helper=["sudo"])
    importlib.import_module("os_brick").setup(conf)
    importlib.import_module("cinder.coordination").COORDINATOR.start()
    importlib.import_module("cinder.rpc").init(conf)
    return conf


def write_one_at_a_time() -> None:
    """Let SQLite's writers wait for each other.

    A transaction that reads and then writes fails at once where another one wrote meanwhile. So
    each that may write says so at its beginning.
    """
    facade = importlib.import_module("oslo_db.sqlalchemy.enginefacade")
    sqlalchemy = importlib.import_module("sqlalchemy")
    produce = facade._TransactionContext._produce_block
    here = threading.local()

    @contextlib.contextmanager
    def produce_block(scope: Any, mode: Any, *more: Any, **named: Any) -> Iterator[Any]:
        before = getattr(here, "writes", False)
        here.writes = facade._WRITER in (mode, scope.mode)
        try:
            with produce(scope, mode, *more, **named) as made:
                yield made
        finally:
            here.writes = before

    def begin(
        _: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any
    ) -> tuple[str, Any]:
        if statement == "BEGIN" and getattr(here, "writes", False):
            statement = "BEGIN IMMEDIATE"
        return statement, parameters

    facade._TransactionContext._produce_block = produce_block
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", begin, retval=True)


def database(options: dict[str, Any]) -> None:
    """Make the tables as of the models, without the migrations that lead there."""
    # Several services share it: readers must not be in the way of a writer. It stays as it is.
    with contextlib.closing(sqlite3.connect(options["database"])) as made:
        made.execute("PRAGMA journal_mode=WAL")
    configured(options)
    models = importlib.import_module("cinder.db.models")
    api = importlib.import_module("cinder.db.api")
    context = importlib.import_module("cinder.context").get_admin_context()
    with api.main_context_manager.writer.using(context):
        engine = context.session.get_bind()
    models.BASE.metadata.create_all(engine)


def api(options: dict[str, Any]) -> None:
    """Serve the API, with a log of its requests."""
    conf = configured(options)
    wsgi = importlib.import_module("oslo_service.wsgi")
    application = wsgi.Loader(conf).load_app(name="osapi_volume")
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    shared = importlib.import_module("openstack_program")
    # A request looks for the token there before it asks Keystone.
    cached = shared.ProcessCache.filter()(application)
    logged = shared.AccessLog(cached, options["log"])
    serving = importlib.import_module("werkzeug.serving")
    handler = serving.WSGIRequestHandler
    handler.protocol_version = "HTTP/1.1"
    # Headers and body are sent apart: the second would wait for the first's acknowledgement.
    handler.disable_nagle_algorithm = True
    serving.make_server("127.0.0.1", options["port"], logged, threaded=True).serve_forever()


def service(options: dict[str, Any]) -> None:
    """Run the scheduler, or with ``backend`` that backend's volume service, until SIGTERM."""
    conf = configured(options)
    constants = importlib.import_module("cinder.common.constants")
    services = importlib.import_module("cinder.service").Service
    backend = options.get("backend")
    if backend:
        host = importlib.import_module("cinder.cmd.volume").host_opt
        conf.register_opt(host, group=backend)
        made = services.create(
            host=f"{conf.host}@{backend}",
            service_name=backend,
            binary=constants.VOLUME_BINARY,
            coordination=True,
        )
        _round_up(made.manager.driver)
    else:
        made = services.create(binary=constants.SCHEDULER_BINARY)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    made.start()
    Path(options["ready"]).touch()
    while True:
        signal.pause()


def _round_up(driver: Any) -> None:
    """Make volumes of types named "even…" of 2 GiB and its multiples, as PowerFlex does of 8.

    Like that driver, say so to Cinder.
    """
    make = driver.create_volume

    def create_volume(volume: Any) -> dict[str, Any]:
        if volume.volume_type_id and volume.volume_type.name.startswith("even"):
            volume.size += volume.size % 2
        return {**(make(volume) or {}), "size": volume.size}

    driver.create_volume = create_volume


_VERBS: dict[str, Callable[[dict[str, Any]], None]] = {
    "database": database,
    "api": api,
    "scheduler": service,
    "volume": service,
}


def main() -> None:
    """Do what the command line says."""
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    sys.argv[1:] = []
    _VERBS[verb](options)


if __name__ == "__main__":
    main()
