"""Answers of servers that lack what a driver needs: the error says what."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pyVmomi

from imgstore import errors
from imgstore.drivers import _keystone
from imgstore.drivers._told import told
from imgstore.drivers.swift import SwiftStore, claims, leftovers, manifests
from imgstore.drivers.swift.identity import Keystone
from imgstore.drivers.vmware import VmwareStore, datastores
from imgstore.drivers.vmware.tasks import Tasks

NAME = "imgstore-claim-image/0-60"


@pytest.mark.parametrize(
    "answer", [{}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": []}, [], None, "a"]
)
def test_what_is_not_told(answer: Any) -> None:
    with pytest.raises(errors.Unsupported, match=r"no [ab]; look for a server.* all of X's API"):
        told(answer, "a", "b", service="X")


@pytest.mark.parametrize("value", [0, "", False, [], {}])
def test_what_is_told(value: object) -> None:
    """Nothing is something, too."""
    assert told({"a": {"b": value}}, "a", "b", service="X") is value


def take(entry: dict[str, Any]) -> None:
    leftovers._Group("c", "i", "t", "c").take(entry)


@pytest.mark.parametrize(
    ("read", "entry", "name"),
    [
        (lambda entry: claims.is_expired(entry, {}), {}, "name"),
        (lambda entry: claims.is_expired(entry, {}), {"name": NAME}, "last_modified"),
        (claims.modified, {"last_modified": "yesterday"}, "last_modified"),
        (claims.modified, {"last_modified": None}, "last_modified"),
        (take, {"last_modified": "2026-01-01T00:00:00"}, "name"),
        (take, {"name": "x"}, "last_modified"),
        (manifests.path_in, {"name": None}, "path"),
    ],
)
def test_listings_of_swift(read: Callable[[Any], Any], entry: dict[str, Any], name: str) -> None:
    with pytest.raises(errors.Unsupported, match=f"answer has no {name}; .*all of Swift's"):
        read(entry)


TOKEN = {"user": {"id": "u"}, "project": {"id": "p"}}


@pytest.mark.parametrize(
    ("answer", "kind", "name"),
    [
        ({}, errors.Unsupported, "no token"),
        ({"token": None}, errors.Unsupported, "no token"),
        ({"token": {"project": {"id": "p"}}}, errors.Unsupported, "no user"),
        ({"token": {**TOKEN, "project": {}}}, errors.Unsupported, "no id"),
        ({"token": {**TOKEN, "roles": [{}]}}, errors.Unsupported, "no id"),
        ([], errors.ConfigError, "without JSON"),
    ],
)
def test_answers_of_keystone(answer: Any, kind: type[Exception], name: str) -> None:
    """An answer without trusts, say, of a proxy."""
    login = {"auth_address": "https://keys.example.org", "user": "p:u", "key": "k"}
    made = SwiftStore("swift", **login)
    session = SimpleNamespace(
        request=lambda *_, **__: SimpleNamespace(json=lambda: answer, status_code=200)
    )
    (account,) = made._settings.accounts.values()
    keystone = Keystone(made._settings, account, session)
    vars(keystone)["_user_id"] = "known by an earlier login"
    with pytest.raises(kind, match=name):
        keystone.trust("token")


def test_endpoints_without_an_address() -> None:
    catalogue = [{"type": "volumev3", "endpoints": [{"interface": "public"}]}]
    with pytest.raises(errors.Unsupported, match=r"no url; .*Keystone"):
        _keystone.endpoint_in(catalogue, "volumev3", "public", install="imgstore[cinder]")


def test_datastores_that_are_not_described() -> None:
    with pytest.raises(errors.Unsupported, match=r"no summary\.accessible; .*vSphere"):
        datastores._fault({"summary.name": "images"})


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ([], "task"),
        ([(None, {})], "info.state"),
        ([(None, {"info.state": "error"})], "info.error"),
    ],
)
def test_tasks_that_are_not_described(found: list[Any], name: str) -> None:
    login = {"server_host": "h", "server_username": "u", "server_password": "p"}
    made = VmwareStore("vmware", **login, datastores=["dc:one"])
    session = SimpleNamespace(stub=None)
    api: Any = SimpleNamespace(
        vim=pyVmomi.vim,
        vmodl=pyVmomi.vmodl,
        call=lambda ask, **_: ask(session),
        retrieve=lambda *_: iter(found),
    )
    tasks = Tasks(made._settings, api)
    with pytest.raises(errors.Unsupported, match=f"no {name}; .*vSphere"):
        tasks.run(lambda _: SimpleNamespace(_GetMoId=lambda: "task-1"))
