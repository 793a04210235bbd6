"""The S3 store on moto's server: what AWS has and Ceph's gateway does not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from servers.everything import Again
from servers.moto import NAME, Moto, any_user
from servers.names import resolving
from servers.s3_stores import S3Buckets, login

from imgstore import errors
from imgstore.drivers.s3 import S3Store
from imgstore.testing import StoreContract
from imgstore.testing.harness import content, new_id, pattern

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


@pytest.fixture(scope="module")
def locked(moto_raw: Any) -> str:
    """A bucket that keeps every object for a day: a PUT without a digest is refused."""
    name = "locked"
    moto_raw.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    retention = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    moto_raw.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention},
    )
    return name


class TestObjectLock:
    """A bucket whose objects are kept for some time, whatever is asked of it."""

    @pytest.fixture(params=["whole", "in parts"])
    def store(self, request: pytest.FixtureRequest, moto: Moto, locked: str) -> Iterator[S3Store]:
        parts = {"large_object_size": 0, "large_object_chunk_size": 5}
        options: dict[str, Any] = parts if request.param == "in parts" else {}
        with S3Store("s3", bucket=locked, host=moto.url(), **login(any_user()), **options) as made:
            yield made

    def test_images_are_added_and_deleted(self, store: S3Store) -> None:
        """Copies are not: moto's server wants a digest of them, which AWS does not."""
        data, image_id = pattern(6 * MIB), new_id()
        image = store.add(image_id, data)
        assert content(store, image.location) == data
        with pytest.raises(errors.AlreadyExists):
            store.add(image_id, data)
        store.delete(image.location)
        with pytest.raises(errors.NotFound):
            store.get(image.location)

    def test_such_a_store_has_no_problem(self, store: S3Store) -> None:
        assert store.check() == []
