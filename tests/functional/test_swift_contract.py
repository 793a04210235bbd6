"""The contract on real Swift and Keystone, for each way to store."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from servers.everything import Again
from servers.radosgw import SwiftUser
from servers.swift import TESTER, Swift
from servers.swift_stores import MIB, Containers

from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.reading import Reading

pytestmark = pytest.mark.servers("swift", "keystone")


@pytest.fixture(scope="session")
def tempauth_user(_swift: Swift) -> SwiftUser:
    """A user of Swift's own authentication."""
    return _swift.v1_user(TESTER)


class TestStatic(Containers, StoreContract):
    """Every image of 1 MB and more in segments, as a static large object."""

    large = 7 * MIB + 7
    memory_limit = 40 * MIB
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "upload_workers": 3,
        "upload_memory": 8,
    }


class TestDynamic(Again, Containers, Reading, Concurrency):
    """The same, as a dynamic large object, read in ranges."""

    large = 13 * MIB + 7
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "large_object_type": "dlo",
        "get_workers": 3,
    }


class TestWhole(Again, Containers, Adding, Concurrency):
    """Images as single objects, but for those of unknown size, with Swift's own version 1."""

    large = 4 * MIB + 7
    user = "tempauth_user"
    # The cluster takes no larger objects.
    options: ClassVar[dict[str, Any]] = {"large_object_size": 5, "large_object_chunk_size": 4}
