"""The contract on Ceph's object gateway, for each way to address it and to transfer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from servers.everything import EVERYTHING, Again, Slow
from servers.names import resolving
from servers.radosgw import NAME, RadosGateway, User
from servers.s3_stores import S3Buckets, login

from imgstore import Location
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.copying import Copying
from imgstore.testing.expecting import Expecting
from imgstore.testing.failures import Failures
from imgstore.testing.harness import Rot
from imgstore.testing.lifecycle import Lifecycle
from imgstore.testing.locations import Locations
from imgstore.testing.pinning import Pinning
from imgstore.testing.ranges import Ranges
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources
from imgstore.testing.sources import Sources
from imgstore.testing.verifying import Rotting

pytestmark = pytest.mark.servers("radosgw", "ceph")

MIB = 1024 * 1024


class Buckets(S3Buckets):
    """Buckets of Ceph's gateway."""

    client = "s3_raw"
    scheme: ClassVar[Any] = "http"

    @pytest.fixture
    def host(self, radosgw: RadosGateway) -> str:
        return radosgw.url(self.scheme)

    @pytest.fixture
    def given(self, radosgw: RadosGateway, host: str, s3_user: User) -> dict[str, Any]:
        secure = {"cacert": str(radosgw.ca)} if self.scheme == "https" else {}
        return {"host": host, **login(s3_user), **secure, **self.options}

    @pytest.fixture
    def rot(self, ceph_admin: Any) -> Iterator[Rot]:
        """Change the largest of the RADOS objects that have the key in their names."""
        with ceph_admin.open_ioctx("default.rgw.buckets.data") as pool:

            def rot(location: Location) -> None:
                key = location.url.rpartition("/")[2]
                names = [found.key for found in pool.list_objects() if key in found.key]
                name = max(names, key=lambda name: pool.stat(name)[0])
                (byte,) = pool.read(name, 1)
                pool.write(name, bytes([byte ^ 1]))

            yield rot

    @pytest.fixture(autouse=True)
    def _secrets(self, s3_user: User) -> None:
        type(self).secrets = (s3_user.access_key, s3_user.secret_key)


class TestHttp(Buckets, StoreContract):
    """Path style over http, with signed payloads."""


class Virtual(Buckets):
    """The bucket in the host's name."""

    options: ClassVar[dict[str, Any]] = {"bucket_url_format": "virtual"}

    @pytest.fixture
    def host(self, radosgw: RadosGateway) -> Iterator[str]:
        with resolving(NAME, "127.0.0.1"):
            yield radosgw.url(self.scheme, host=NAME)


class TestHttps(Again, Virtual, Adding, Reading, Ranges, Resources):
    """Virtual hosts over https, verified by a CA file; parts carry an MD5."""

    memory_limit = 60 * MIB
    scheme = "https"


@pytest.mark.heavy
class TestVirtualHttp(Again, Virtual, Reading):
    """Virtual hosts over http."""


@pytest.mark.heavy
class TestPathHttps(Again, Buckets, Reading):
    """Path style over https."""

    scheme = "https"


class Parts(Again, Buckets):
    """Every image that is larger than a part in parts, unsigned, two at a time."""

    large = 13 * MIB + 7
    memory_limit = 40 * MIB
    failures = Slow.failures if EVERYTHING else ("OSError", "KeyboardInterrupt")
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 0,
        "large_object_chunk_size": 5,
        "thread_pools": 2,
        "payload_signing": False,
        "key_prefix": "image-",
    }


class TestParts(
    Parts, Adding, Sources, Failures, Expecting, Rotting, Copying, Concurrency, Lifecycle, Resources
):
    """What depends on how an image is written."""


@pytest.mark.heavy
class TestPartsAreRead(Parts, Reading, Ranges, Pinning, Locations):
    """What does not: to a reader they are one object."""


class TestUnconditional(Again, Buckets, Adding):
    """As with a server that takes no notice of If-None-Match."""

    options: ClassVar[dict[str, Any]] = {"conditional_writes": False}


class TestChecksums(Again, Buckets, Adding, Reading):
    """The SDK's own checksums, which this server does not know."""

    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 0,
        "large_object_chunk_size": 5,
        "enable_data_integrity_protection": True,
        "request_checksum_calculation": "when_supported",
        "response_checksum_validation": "when_supported",
    }


class TestParallelReads(Again, Buckets, Reading, Ranges, Concurrency):
    """Ranges side by side."""

    large = 19 * MIB + 7
    options: ClassVar[dict[str, Any]] = {"get_workers": 3}
