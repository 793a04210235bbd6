"""The S3 store: how the hooks use the other modules here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Final

from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.parts import Shares, upload_in_parts
from imgstore.data.ranges import open_ranges
from imgstore.data.streams import Body
from imgstore.drivers.s3 import leftovers
from imgstore.drivers.s3.adding import Adding
from imgstore.drivers.s3.checking import honours_conditions, is_there
from imgstore.drivers.s3.claims import claiming
from imgstore.drivers.s3.client import SDK_LOGGERS, Client, head, told, validator
from imgstore.drivers.s3.committing import Commit
from imgstore.drivers.s3.copying import Copying, Original
from imgstore.drivers.s3.deleting import delete, is_seen
from imgstore.drivers.s3.errors import INSTALL, classify, error_code
from imgstore.drivers.s3.options import OPTIONS
from imgstore.drivers.s3.places import Place, key_of
from imgstore.drivers.s3.reading import Reading
from imgstore.drivers.s3.settings import read
from imgstore.errors import (
    ImgStoreError,
    InvalidLocation,
    NotFound,
    Unavailable,
)
from imgstore.location import Location, same_service
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
from imgstore.process import lazy
from imgstore.process.per_process import PerProcess
from imgstore.secret import Secret
from imgstore.store import Store

LOG = logging.getLogger(__name__)

_UNCONDITIONAL: Final = (
    "the server takes no notice of If-None-Match, so that simultaneous adds of one id may replace "
    "each other; set s3_store_conditional_writes to false to accept that"
)


class S3Store(Store):
    """Images as objects ``<key prefix><image id>`` of one bucket.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without boto3.
    """

    driver = "s3"
    OPTIONS = OPTIONS
    schemes = ("s3", "s3+http", "s3+https")
    sdk_loggers = SDK_LOGGERS
    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )

    def __init__(
        self,
        name: str,
        *,
        host: str,
        bucket: str,
        region_name: str = "",
        access_key: str | Secret | None = None,
        secret_key: str | Secret | None = None,
        session_token: str | Secret | None = None,
        profile: str | None = None,
        create_bucket_on_put: bool = False,
        bucket_url_format: str = "auto",
        key_prefix: str = "",
        large_object_size: int = 100,
        large_object_chunk_size: int = 10,
        thread_pools: int = 10,
        upload_memory: int = 256,
        get_workers: int = 1,
        cacert: str = "",
        insecure: bool = False,
        payload_signing: bool = True,
        conditional_writes: bool = True,
        enable_data_integrity_protection: bool = False,
        request_checksum_calculation: str = "when_required",
        response_checksum_validation: str = "when_required",
        storage_class: str | None = None,
        server_side_encryption: str | None = None,
        sse_kms_key_id: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        retry_mode: str = "legacy",
        max_attempts: int = 7,
        max_pool_connections: int = 50,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store."""
        given = read_options(
            OPTIONS,
            locals(),
            needed=("host", "bucket"),
            check=partial(read, redaction=self._redaction),
        )
        super().__init__(name, **common)
        lazy.require("boto3", "botocore", install=INSTALL)
        self._settings = read(given, self._redaction)
        self._client = PerProcess(partial(Client, self._settings), Client.close)
        # Uploads of this process that are under way, which leftovers() must not list.
        self._live: set[str] = set()
        self._shares = Shares(self._settings.workers)

    @property
    def url_prefix(self) -> str:
        """Return ``s3[+https]://<endpoint>/<bucket>``, and ``/<key prefix>`` if there is one."""
        return self._location("").url.rstrip("/")

    def _url_prefixes(self) -> Iterable[str]:
        """Yield the bucket, if it is the store's alone, by each scheme of its locations."""
        scheme, _, place = self.url_prefix.partition("://")
        schemes = () if self._settings.key_prefix else dict.fromkeys((scheme, *self.schemes))
        return (f"{each}://{place}/" for each in schemes)

    def owns(self, location: Location) -> Ownership:
        """Own the bucket's keys with the prefix; the rest of the endpoint may be readable."""
        place, settings = _named(location), self._settings
        if not same_service(place.service, settings.endpoint.service):
            return Ownership.NO
        is_own = place.bucket == settings.bucket and place.key.startswith(settings.key_prefix)
        return Ownership.YES if is_own else Ownership.MAYBE

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        request = Reading(self._client.get(), _at(location))
        workers = self._settings.get_workers
        return open_ranges(request, offset, length, if_version, workers=workers)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        found = self._found(location)
        size, version = int(told(found, "ContentLength")), validator(found.get("ETag"))
        return Stat(size, version, found.get("LastModified"))

    def _found(self, location: Location) -> dict[str, Any]:
        found = head(self._client.get().s3, _at(location))
        if found is None:
            raise NotFound("there is no such image")
        return found

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        adding = Adding(self._client.get(), self._commit(image_id), live=self._live)
        settings, size = self._settings, body.size
        upload_in_parts(
            body,
            start=adding.start,
            put_whole=adding.put_whole,
            part_size=lambda number: settings.part(number, size),
            shares=self._shares,
            budget=settings.memory,
        )
        return Added(self._location(image_id))

    def _commit(self, image_id: str) -> Commit:
        key = key_of(image_id, self._settings.key_prefix)
        return Commit(self._client.get(), key, is_conditional=self._is_conditional())

    def _is_conditional(self) -> bool:
        return self._client.get().is_conditional(self._ask_for_conditions)

    def _needs_claims(self) -> bool:
        return self._is_conditional() and not self._settings.endpoint.is_amazon

    def _ask_for_conditions(self) -> bool | None:
        """Return whether If-None-Match is honoured; None: ask again, there is no bucket yet."""
        if not self._settings.conditional_writes or self._settings.endpoint.is_amazon:
            return self._settings.conditional_writes
        try:
            answer = honours_conditions(self._client.get())
        except Exception as exc:
            if isinstance(exc, ImgStoreError) or isinstance(classify(exc), Unavailable):
                raise
            return True  # the add itself will say what is wrong
        if answer is False:
            LOG.warning("store %s: %s", self.name, _UNCONDITIONAL)
        return answer

    def _location(self, image_id: str) -> Location:
        """Return the location of an image, as glance_store writes it."""
        settings, endpoint = self._settings, self._settings.endpoint
        scheme = "s3" if endpoint.scheme == "http" else "s3+https"
        key = f"{settings.key_prefix}{image_id}"
        return Location(scheme, f"{endpoint.service}/{settings.bucket}/{key}")

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        seen = self._found(location)  # S3 deletes what is not there without a word
        client, at = self._client.get(), _at(location)
        with claiming(client, at["Key"], self._needs_claims) as alone:
            if not delete(client, at, seen.get("ETag", ""), is_seen(seen), alone=alone):
                raise NotFound("the image was deleted meanwhile")

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        if not isinstance(origin, S3Store):
            return None
        mine, others = self._settings.endpoint, origin._settings.endpoint
        if not same_service(mine.service, others.service):
            return None
        client, found = self._client.get(), origin._found(location)
        size, etag = told(found, "ContentLength"), told(found, "ETag")
        original = Original(client, _at(location), size, etag)
        if origin is not self and not original.is_seen():
            return None
        Copying(client, self._commit(image_id), original, live=self._live).copy()
        return Added(self._location(image_id), size=original.size)

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        client = self._client.get()
        try:
            yield from leftovers.find(client, self.name, live=self._live, older_than=older_than)
        except Exception as exc:
            if error_code(exc) != "NoSuchBucket" or not self._settings.create_bucket_on_put:
                raise

    def _remove_leftover(self, leftover: Leftover) -> None:
        leftovers.remove(self._client.get(), leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        """Put an object of no importance, and delete it; without ``write`` look at the bucket."""
        settings, client = self._settings, self._client.get()
        answer = honours_conditions(client) if write else is_there(client)
        if answer is None and not settings.create_bucket_on_put:
            yield (
                f"the bucket {settings.bucket!r} does not exist; create it, or set "
                "s3_store_create_bucket_on_put"
            )
        if answer is False and settings.conditional_writes:
            yield _UNCONDITIONAL

    def _close(self) -> None:
        self._client.close()


def _at(location: Location) -> dict[str, str]:
    place = _named(location)
    return {"Bucket": place.bucket, "Key": place.key}


def _named(location: Location) -> Place:
    place = Place.of(location)
    if place is None:
        raise InvalidLocation("a location of S3 ends with bucket and key")
    return place
