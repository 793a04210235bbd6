"""The S3 store on moto's server: what AWS has and Ceph's gateway does not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from servers.everything import Again
from servers.moto import NAME, Moto, any_user
from servers.names import resolving
from servers.s3_stores import S3Buckets, login

from imgstore.testing import StoreContract

pytestmark = pytest.mark.servers("moto")

MIB = 1024 * 1024


class Buckets(S3Buckets):
    """Buckets of moto's server."""

    client = "moto_raw"
    secrets = (any_user().access_key, any_user().secret_key)

    @pytest.fixture
    def host(self, moto: Moto) -> str:
        return moto.url()

    @pytest.fixture
    def given(self, host: str) -> dict[str, Any]:
        return {"host": host, **login(any_user()), **self.options}


@pytest.mark.heavy
class TestWhole(Again, Buckets, StoreContract):
    """Images in one piece, whose PUT has the condition."""


class TestParts(Again, Buckets, StoreContract):
    """Images in parts, whose completion has the condition."""

    large = 13 * MIB + 7
    memory_limit = 40 * MIB
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 0,
        "large_object_chunk_size": 5,
        "thread_pools": 2,
    }


@pytest.mark.heavy
class TestVirtual(Again, Buckets, StoreContract):
    """The bucket in the host's name."""

    options: ClassVar[dict[str, Any]] = {"bucket_url_format": "virtual"}

    @pytest.fixture
    def host(self, moto: Moto) -> Iterator[str]:
        with resolving(NAME, "127.0.0.1"):
            yield moto.url(host=NAME)
