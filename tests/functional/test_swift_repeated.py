"""The Swift store when the put of an image is sent again after others acted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers.containers import Container
from servers.losing import Losing
from servers.swift import Swift

from imgstore import errors
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.harness import difference, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS: dict[str, Any] = {"large_object_size": 1, "large_object_chunk_size": 1}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "static": IN_SEGMENTS,
    "dynamic": {**IN_SEGMENTS, "large_object_type": "dlo"},
}
DATA = pattern(2 * MIB)

Make = Callable[..., SwiftStore]


@pytest.fixture
def make(container: Container, swift: Swift, link: Losing) -> Iterator[Make]:
    """Make stores in the test's container, behind the forwarder."""
    user = container.user
    known: dict[str, Any] = {
        "container": container.name,
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
        "endpoint": swift.account_url(user).replace(swift.url, link.url),
        "max_attempts": 2,
    }
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(SwiftStore("swift", **known | options))


@pytest.mark.parametrize("way", WAYS)
class TestOthersImage:
    """Another image is there when the put of this one is refused."""

    def test_ours_may_have_been_there_before(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """Its put was answered by nobody; it was read, and deleted, and another took the id."""
        seen = []

        def replace() -> None:
            seen.append(container.content("image"))
            container.raw.delete_object(container.name, "image")
            container.put("image", b"another's")

        link.lose("PUT", f"{container.name}/image", done=replace)
        with pytest.raises(errors.AlreadyExists) as caught:
            make(**WAYS[way]).add("image", DATA)
        assert caught.value.indeterminate
        assert not difference(seen[0], DATA)
        assert container.content("image") == b"another's"
        assert container.names() == ["image"]

    def test_ours_was_never_there(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """Each answer arrived, so that all is known."""
        at = f"{container.name}/image"
        link.lose("PUT", at, what="throttled", done=lambda: container.put("image", b"another's"))
        with pytest.raises(errors.AlreadyExists) as caught:
            make(**WAYS[way]).add("image", DATA)
        assert link.lost
        assert not caught.value.indeterminate
        assert container.content("image") == b"another's"
        assert container.segments() == []

    def test_another_that_goes(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """Trying again may help; ours may have been there before."""
        at = f"{container.name}/image"

        def remove() -> None:
            container.raw.delete_object(container.name, "image")

        def replace() -> None:
            remove()
            container.put("image", b"another's")
            link.lose("HEAD", at, done=remove)

        link.lose("PUT", at, done=replace)
        store = make(**WAYS[way])
        with pytest.raises(errors.Unavailable, match="removed") as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        store.add("image", DATA)
        assert container.names() == ["image"]


@pytest.mark.parametrize("way", WAYS)
class TestNoConflict:
    """The put, sent again, fails for a reason that says nothing about the first time."""

    def test_ours_is_there(self, make: Make, container: Container, link: Losing, way: str) -> None:
        at = f"{container.name}/image"
        link.lose("PUT", at, done=lambda: link.lose("PUT", at, what="forbidden"))
        make(**WAYS[way]).add("image", DATA)
        assert len(link.lost) == 2
        assert not difference(container.content("image"), DATA)

    def test_ours_may_come(self, make: Make, container: Container, link: Losing, way: str) -> None:
        """The first request may be on its way still."""
        at = f"{container.name}/image"
        link.lose("PUT", at, what="request")
        link.lose("PUT", at, what="forbidden", times=2)  # a token may be over
        with pytest.raises(errors.Unavailable) as caught:
            make(**WAYS[way]).add("image", DATA)
        assert caught.value.indeterminate

    def test_a_refusal_is_no_doubt(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        link.lose("PUT", f"{container.name}/image", what="forbidden", times=2)
        with pytest.raises(errors.PermissionDenied) as caught:
            make(**WAYS[way]).add("image", DATA)
        assert not caught.value.indeterminate
        assert container.names() == container.segments() == []
