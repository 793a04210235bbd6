"""The contract on real Swift and Keystone, for each way to store."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

import pytest
from servers.everything import Again
from servers.radosgw import SwiftUser
from servers.swift import TESTER, Swift
from servers.swift_stores import MIB, Containers

from imgstore import Location
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.harness import Rot
from imgstore.testing.reading import Reading
from imgstore.testing.verifying import Rotting, flip

pytestmark = pytest.mark.servers("swift", "keystone")


@pytest.fixture(scope="session")
def tempauth_user(_swift: Swift) -> SwiftUser:
    """A user of Swift's own authentication."""
    return _swift.v1_user(TESTER)


class Disks(Containers):
    """Containers whose objects are files of a disk."""

    @pytest.fixture
    def rot(self, swift: Swift) -> Rot:
        """Change the last of the image's largest files, whose attributes tell the object's name."""

        def rot(location: Location) -> None:
            name = re.compile(re.escape(location.url.rpartition("/")[2].encode()) + rb"[/\w-]*")
            found = [
                (path.stat().st_size, match[0], path)
                for path in swift._devices.glob("disk/objects/*/*/*/*.data")
                if (match := name.search(os.getxattr(path, "user.swift.metadata")))
            ]
            flip(max(found)[2])

        return rot


class TestStatic(Disks, StoreContract):
    """Every image of 1 MB and more in segments, as a static large object."""

    large = 7 * MIB + 7
    memory_limit = 40 * MIB
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "upload_workers": 3,
        "upload_memory": 8,
    }


class TestDynamic(Again, Disks, Reading, Rotting, Concurrency):
    """The same, as a dynamic large object, read in ranges."""

    large = 13 * MIB + 7
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "large_object_type": "dlo",
        "get_workers": 3,
    }


class TestWhole(Again, Disks, Adding, Rotting, Concurrency):
    """Images as single objects, but for those of unknown size, with Swift's own version 1."""

    large = 4 * MIB + 7
    user = "tempauth_user"
    # The cluster takes no larger objects.
    options: ClassVar[dict[str, Any]] = {"large_object_size": 5, "large_object_chunk_size": 4}
