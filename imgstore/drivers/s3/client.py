"""The SDK's client: requests, and what becomes of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from imgstore.boundary.settings import check_ca_file
from imgstore.drivers import _told
from imgstore.drivers.s3.errors import INSTALL, classify, error_code, is_untrusted, status_of
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import ConfigError, PermissionDenied, Unavailable
from imgstore.process import lazy
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

T = TypeVar("T")

# What botocore says at DEBUG of requests, their signatures and answers.
SDK_LOGGERS: Final = (
    "botocore.auth",
    "botocore.awsrequest",
    "botocore.client",
    "botocore.credentials",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.regions",
    "botocore.retryhandler",
    "botocore.retries.standard",
    "botocore.session",
    "botocore.utils",
    "urllib3.connectionpool",
)
_NOT_CARRIED_OUT: Final = frozenset({"NotImplemented", "ServiceUnavailable", "SlowDown"})

_NEW_BUCKET: Final = Patience(0.2, times=4)


class Client:
    """boto3's client of one store, for all threads of one process: ``s3`` has the operations."""

    def __init__(self, settings: Settings) -> None:
        """Find the credentials and build the client; nothing is connected yet."""
        config = lazy.load("botocore.config", install=INSTALL)
        self._botocore = lazy.load("botocore.exceptions", install=INSTALL)
        self._watching = threading.local()
        self._is_conditional: bool | None = None
        self._has_md5_tags: bool | None = None
        self.settings = settings
        self.sends_md5 = settings.sends_md5
        if isinstance(settings.verify, str):
            check_ca_file("s3_store_cacert", settings.verify)
        options: dict[str, Any] = {"addressing_style": settings.addressing}
        if not settings.payload_signing:
            options["payload_signing_enabled"] = False
        session = _session({name: value.reveal() for name, value in settings.credentials.items()})
        self._credentials: Any = session.get_credentials()
        self.s3: Any = session.client(
            "s3",
            endpoint_url=settings.endpoint.url,
            verify=settings.verify,
            config=config.Config(
                region_name=settings.region or None,
                s3=options,
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                retries={
                    "mode": settings.retry_mode,
                    "total_max_attempts": settings.max_attempts,
                },
                max_pool_connections=settings.max_pool_connections,
                request_checksum_calculation=settings.request_checksums,
                response_checksum_validation=settings.response_checksums,
                tcp_keepalive=True,
            ),
        )
        events = self.s3.meta.events
        if not settings.endpoint.is_amazon:
            events.register("before-call.s3.CopyObject", _name_condition_for_ceph)
        events.register("before-call.s3", self._on_call)
        events.register_first("before-sign.s3", self._on_signing)
        events.register("before-send.s3", self._on_sending)
        # First: the SDK's own handler raises when it gives up.
        events.register_first("needs-retry.s3", self._on_outcome)

    def close(self) -> None:
        """Close the pooled connections."""
        self.s3.close()

    def inside(self, call: Callable[[], T]) -> T:
        """Call, and again with a new bucket if there was none and one may be made."""
        bucket = self.settings.bucket
        try:
            return call()
        except Exception as exc:
            if error_code(exc) != "NoSuchBucket":
                raise
            if not self.settings.create_bucket_on_put:
                raise ConfigError(
                    f"the bucket {bucket!r} does not exist",
                    remedy="create it, or set s3_store_create_bucket_on_put",
                ) from exc
        self._create_bucket()
        # Servers go on saying for a moment that there is none.
        return _NEW_BUCKET.repeat(call, lambda exc: error_code(exc) == "NoSuchBucket")

    def _create_bucket(self) -> None:
        """Create the bucket; one that another add has just created is as good."""
        request: dict[str, Any] = {"Bucket": self.settings.bucket}
        region = self.settings.region
        if region and region != "us-east-1":  # which has no name there
            request["CreateBucketConfiguration"] = {"LocationConstraint": region}
        try:
            self.s3.create_bucket(**request)
        except Exception as exc:
            if error_code(exc) != "BucketAlreadyOwnedByYou":
                raise

    def takes(self, operation: str, parameter: str) -> bool:
        """Return whether the installed SDK knows a parameter of an operation."""
        model = self.s3.meta.service_model.operation_model(operation)
        return parameter in model.input_shape.members

    def is_conditional(self, ask: Callable[[], bool | None]) -> bool:
        """Return whether the server honours If-None-Match: what ``ask`` says, once it knows."""
        if self._is_conditional is None:
            self._is_conditional = ask()
        return self._is_conditional is not False

    def has_md5_tags(self, ask: Callable[[], object]) -> bool:
        """Return whether the server's ETags are MD5s; ``ask`` lets one be seen, if none was."""
        if self._has_md5_tags is None:
            ask()
        return self._has_md5_tags is not False

    def saw_tag(self, answer: Mapping[str, Any], md5: str) -> None:
        """Take note of what the server answered to a put of data with this MD5."""
        self._has_md5_tags = str(answer.get("ETag", "")).strip('"') == md5

    @contextmanager
    def watched(
        self, cancelled: Callable[[], bool] = lambda: False, *, may_repeat: bool = True
    ) -> Iterator[Attempts]:
        """Tell what became of the requests that this thread sends inside.

        Once ``cancelled`` is true a request that failed is not sent again. Without
        ``may_repeat`` one that may have been carried out is not, ever.
        """
        outer = getattr(self._watching, "attempts", None)
        attempts = self._watching.attempts = Attempts(cancelled, may_repeat)
        try:
            yield attempts
        finally:
            self._watching.attempts = outer

    def _on_signing(self, **_: Any) -> None:
        # They may be those of a role or a profile, and be renewed.
        if self._credentials is not None:
            found = self._credentials.get_frozen_credentials()
            self.settings.redaction.learn(found.access_key, found.secret_key, found.token)

    def _on_call(self, **_: Any) -> None:
        self._watching.failure = None  # of an attempt before

    def _on_sending(self, request: Any, event_name: str, **_: Any) -> None:
        _check_credentials(request.headers)
        if self._watching.failure:
            operation, path = event_name.rpartition(".")[2], urlsplit(request.url).path
            LOG.info("%s %s is sent again: %s", operation, path, self._watching.failure)
        attempts = getattr(self._watching, "attempts", None)
        if attempts is not None:
            attempts.pending = True

    def _on_outcome(
        self, response: Any = None, caught_exception: Exception | None = None, **_: Any
    ) -> None:
        """Judge an attempt; the SDK calls this after each, before it decides on another."""
        if response is not None:
            self._watching.failure = f"the service answers {response[0].status_code}"
        elif caught_exception is not None:
            self._watching.failure = classify(caught_exception) or type(caught_exception).__name__
        attempts: Attempts | None = getattr(self._watching, "attempts", None)
        is_last = False
        if attempts is not None:
            is_doubtful = self._is_doubtful(response, caught_exception)
            attempts.pending = False
            attempts.in_doubt |= is_doubtful
            is_last = attempts.cancelled() or (is_doubtful and not attempts.may_repeat)
        if caught_exception is not None:
            # A certificate does not become better.
            if is_last or is_untrusted(caught_exception):
                raise caught_exception
        elif is_last and response is not None and response[0].status_code >= 400:
            raise Unavailable(f"the service answers {response[0].status_code}")

    def _is_doubtful(self, response: Any, exc: Exception | None) -> bool:
        """Return whether a request may have been carried out although no success was seen."""
        if exc is not None:
            unsent = (
                self._botocore.EndpointConnectionError,
                self._botocore.ConnectTimeoutError,
                self._botocore.ProxyConnectionError,
            )
            return not (isinstance(exc, (*unsent, PermissionDenied)) or is_untrusted(exc))
        if response is None:
            return True
        http, parsed = response
        # Without a code of S3 a load balancer speaks; the server behind it may go on.
        code = parsed.get("Error", {}).get("Code") if isinstance(parsed, dict) else None
        return bool(http.status_code >= 500 and code not in _NOT_CARRIED_OUT)


def _session(credentials: Mapping[str, str]) -> Any:
    """Return a session of the SDK; keys win over a profile of the environment that is missing."""
    boto3 = lazy.load("boto3", install=INSTALL)
    botocore = lazy.load("botocore.session", install=INSTALL)
    core = botocore.Session()
    is_missing = core.get_config_variable("profile") not in {None, *core.available_profiles}
    if is_missing and "aws_access_key_id" in credentials:
        core = botocore.Session(session_vars={"profile": (None, None, None, None)})
    return boto3.session.Session(botocore_session=core, **credentials)


def _name_condition_for_ceph(params: dict[str, Any], **_: Any) -> None:
    """State the condition on a copy's source by the name that Ceph's gateway reads, too.

    It leaves out "source" from the names of these headers: RGWCopyObj_ObjStore_S3::get_params in
    https://github.com/ceph/ceph/blob/v16.2.15/src/rgw/rgw_rest_s3.cc
    """
    headers = params["headers"]
    etag = headers.get("x-amz-copy-source-if-match")
    if etag:
        headers["x-amz-copy-if-match"] = etag


@dataclass(eq=False)
class Attempts:
    """What became of requests; ``in_doubt``: one may have been carried out unseen."""

    cancelled: Callable[[], bool]
    may_repeat: bool
    in_doubt: bool = False
    pending: bool = False  # sent, and never judged: an answer that could not be read

    @property
    def unknown(self) -> bool:
        """Return whether the outcome of any attempt is unknown."""
        return self.in_doubt or self.pending


def _check_credentials(headers: Mapping[str, Any]) -> None:
    """Raise PermissionDenied for what the SDK found elsewhere; http.client would quote it."""
    for name in ("Authorization", "X-Amz-Security-Token"):
        value = headers.get(name) or ""
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if not (text.isascii() and text.isprintable()):
            raise PermissionDenied(
                "the credentials that the AWS SDK found hold characters that HTTP cannot send",
                remedy="look for a newline at the end of a key or token in its files or variables",
            )


def head(s3: Any, at: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the service says of an object, None if there is none.

    Names of metadata are in lower case: servers and proxies change that of headers.
    """
    try:
        found: dict[str, Any] = s3.head_object(**at)
    except Exception as exc:
        if status_of(exc) != HTTPStatus.NOT_FOUND:
            raise
        return None
    found["Metadata"] = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
    return found


def told(answer: Mapping[str, Any], name: str) -> Any:
    """Return what an answer has to tell; raises Unsupported where it does not."""
    return _told.told(answer, name, service="S3")


def validator(etag: str | None) -> str | None:
    """Return an ETag if a version can be asked for by it; a weak one never matches (RFC 9110)."""
    return None if not etag or etag.startswith("W/") else etag


def server_time(answer: Mapping[str, Any]) -> datetime:
    """Return the server's clock at the time of an answer; ages are told by no other."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
