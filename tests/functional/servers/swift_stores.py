"""Stores in containers: what holds for those of any server of Swift's API."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

import pytest

from imgstore import Capability, Location, Store, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.harness import Harness, content, new_id
from servers.containers import AnyUser, Container
from servers.containers import container as make_container
from servers.everything import Slow
from servers.kept import Kept
from servers.keystone import ApplicationCredential, KeystoneUser
from servers.radosgw import SwiftUser

MIB = 1024 * 1024

Make = Callable[..., SwiftStore]


class Containers(Slow):
    """A store in a container of the class's own, emptied after every test."""

    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
    # Without the one that has an "@" in it: in Swift's locations that ends credentials.
    good_ids = tuple(name for name in Harness.good_ids if "@" not in name)
    foreign_locations = (
        "swift://elsewhere.example.org/v3/container/image",
        "swift+http://127.0.0.1:1/v3/container/image",
        "swift+http://tests%3Auser:key@127.0.0.1:1/v3/container/image",
        "swift+config://other/container/image",
        "swift+http://127.0.0.1/image",
        "swift+http://image",
    )
    kept_connections = 4  # of three workers, and of what is asked beside them
    options: ClassVar[dict[str, Any]] = {}
    user: ClassVar[str] = "swift_user"
    server: ClassVar[str] = "swift"

    @pytest.fixture
    def store(
        self, request: pytest.FixtureRequest, images: Container, kept: Kept
    ) -> Iterator[Store]:
        request.getfixturevalue(self.server)
        options = login(images.user) | self.options
        yield kept.get(lambda: SwiftStore("swift", container=images.name, **options))
        images.empty()

    @pytest.fixture
    def leaves(self, images: Container) -> Callable[[], list[str]]:
        return lambda: [*images.names(), *images.segments()]

    @pytest.fixture(autouse=True)
    def _secrets(self, images: Container) -> None:
        user = images.user
        type(self).secrets = (user.key if isinstance(user, SwiftUser) else user.password,)


def login(user: AnyUser) -> dict[str, str]:
    """Return the options, or the lines of a reference file, by which a store is a user."""
    if isinstance(user, SwiftUser):
        who = {"auth_version": "1", "user": user.name, "key": user.key}
    elif isinstance(user, ApplicationCredential):
        named = {"id": user.id, "secret": user.secret}
        who = {f"application_credential_{each}": named[each] for each in named}
    else:
        who = {
            "user": f"{user.project}:{user.name}",
            "key": user.password,
            "user_domain_name": user.domain,
            "project_domain_name": user.domain,
        }
    return {"auth_address": user.url, **who}


def old_url(user: KeystoneUser | SwiftUser, place: str, *, safe: str = "/", **other: str) -> str:
    """Return a location in which glance_store wrote the user and its, or another, key."""
    about = {"key" if name == "password" else name: text for name, text in login(user).items()}
    about |= other
    service = user.url.partition("://")[2]
    return f"swift+http://{quote(about['user'])}:{quote(about['key'], safe=safe)}@{service}/{place}"


def place(store: SwiftStore) -> str:
    return f"{store.url_prefix}/image"


def serves(store: SwiftStore) -> Location:
    """Do all that there is to do with an image; return where it was."""
    location = store.add(new_id(), b"image").location
    assert content(store, location) == b"image"
    assert store.size(location) == 5
    store.delete(location)
    with pytest.raises(errors.NotFound):
        store.size(location)
    return location


def fails(store: SwiftStore, error: type[Exception], match: str) -> None:
    """Do all that there is to do with an image, and see each of it fail in one way."""
    for verb in (
        lambda: store.add("image", b"1"),
        lambda: store.add("image", iter([b"1"])),
        lambda: store.get(place(store)),
        lambda: store.size(place(store)),
        lambda: store.delete(place(store)),
    ):
        with pytest.raises(error, match=match):
            verb()
    assert re.search(match, "".join(store.check()))


class VersionOne:
    """Version 1 of authentication, with two `users` of a server."""

    @pytest.fixture
    def places(self, users: list[SwiftUser]) -> Iterator[list[Container]]:
        """Give a container of each, with an image."""
        with make_container(users[0]) as one, make_container(users[1]) as other:
            one.put("image", b"one")
            other.put("image", b"other")
            yield [one, other]

    @pytest.fixture
    def make(self) -> Iterator[Make]:
        with contextlib.ExitStack() as stack:
            yield lambda where, user=None, **options: stack.enter_context(
                SwiftStore(
                    "swift", **{"container": where.name, **login(user or where.user), **options}
                )
            )

    def test_each_has_an_account(self, make: Make, places: list[Container]) -> None:
        for where in places:
            store = make(where)
            assert serves(store).url.startswith(f"swift+{where.user.url}/{where.name}/")
            assert store.check() == []

    def test_old_locations_name_either(self, make: Make, places: list[Container]) -> None:
        one, other = (old_url(each.user, f"{each.name}/image") for each in places)
        store = make(places[0])
        assert [content(store, url) for url in (one, other)] == [b"one", b"other"]
        store.delete(other)
        assert [each.names() for each in places] == [["image"], []]

    @pytest.mark.parametrize("wrong", [{"key": "n0t-it"}, {"name": "no:body"}])
    def test_a_wrong_key(self, make: Make, places: list[Container], wrong: dict[str, str]) -> None:
        """It is refused, and not shown."""
        store = make(places[0], replace(places[0].user, **wrong), max_attempts=1)
        fails(store, errors.PermissionDenied, "credentials|key")
        with pytest.raises(errors.PermissionDenied) as caught:
            store.size(place(store))
        assert "n0t-it" not in "".join(traceback.format_exception(caught.value))
