"""Stores on the tests' Cinder."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from servers.cinder import Cinder
from servers.keystone import KeystoneUser


def login(user: KeystoneUser) -> dict[str, Any]:
    """Return the options with which a store logs in."""
    return {
        "auth_address": user.url,
        "user_name": user.name,
        "password": user.password,
        "project_name": user.project,
    }


def cinder_store(server: Cinder, kind: str | None = "fast", **options: Any) -> Any:
    """Make a store of the volumes of one type, as the server's user unless `options` say else."""
    driver = importlib.import_module("imgstore.drivers.cinder")
    plain = {
        "volume_type": kind,
        "mount_point_base": str(server.mounts),
        "poll_interval": 0.05,
        "wait_for_delete": True,
        **login(server.user),
    }
    return driver.CinderStore(kind or "cinder", **plain | options)


@contextlib.contextmanager
def as_client(server: Cinder) -> Iterator[None]:
    """Let this process be a client: with the `mount` that it needs, and a directory for locks."""
    wanted = {"PATH": server.path, "OSLO_LOCK_PATH": str(server.locks)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
