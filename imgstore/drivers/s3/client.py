"""The SDK's client, and what its errors mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from imgstore import _lazy
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    IntegrityError,
    InvalidRange,
    NotFound,
    PermissionDenied,
    StorageFull,
    StoreError,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)
from imgstore.secret import Secret

INSTALL: Final = "imgstore[s3]"


class Client:
    """boto3's client of one store, for all threads of one process: ``s3`` has the operations."""

    def __init__(self, settings: Settings) -> None:
        """Find the credentials and build the client; nothing is connected yet."""
        boto3 = _lazy.load("boto3", install=INSTALL)
        config = _lazy.load("botocore.config", install=INSTALL)
        self._exceptions = _lazy.load("botocore.exceptions", install=INSTALL)
        self._attempts = threading.local()
        options: dict[str, Any] = {"addressing_style": settings.addressing}
        if not settings.sign_payload:
            options["payload_signing_enabled"] = False
        session = boto3.session.Session(
            **{
                name: value.reveal() if isinstance(value, Secret) else value
                for name, value in settings.credentials.items()
            }
        )
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
        # First: the SDK's own handler raises when it gives up.
        self.s3.meta.events.register_first("needs-retry.s3", self._note_attempt)

    def close(self) -> None:
        """Close the pooled connections."""
        self.s3.close()

    def takes(self, operation: str, parameter: str) -> bool:
        """Return whether the installed SDK knows a parameter of an operation."""
        model = self.s3.meta.service_model.operation_model(operation)
        return parameter in model.input_shape.members

    @contextmanager
    def watched(self) -> Iterator[Attempts]:
        """Tell what became of the requests that this thread sends inside."""
        watch = self._attempts.watch = Attempts()
        try:
            yield watch
        finally:
            self._attempts.watch = None

    def _note_attempt(self, response: Any = None, caught_exception: Any = None, **_: Any) -> None:
        """Take note of an attempt; the SDK calls this after each, before it decides on another."""
        watch = getattr(self._attempts, "watch", None)
        if watch is None:
            return
        watch.count += 1
        if caught_exception is None:
            status = response[0].status_code if response is not None else 500
            watch.unknown |= status >= 500
        else:
            unsent = (
                self._exceptions.EndpointConnectionError,
                self._exceptions.ConnectTimeoutError,
                self._exceptions.ProxyConnectionError,
                self._exceptions.SSLError,
            )
            watch.unknown |= not isinstance(caught_exception, unsent)


class Attempts:
    """``count`` attempts were made; ``unknown``: one of them may have been carried out unseen."""

    def __init__(self) -> None:
        self.count = 0
        self.unknown = False


def error_code(exc: BaseException) -> str:
    """Return the code of an error that the service answered, "" for any other exception.

    Answers to HEAD have no body; their code is the HTTP status.
    """
    response = getattr(exc, "response", None)
    error = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(error.get("Code", ""))


def status_of(exc: BaseException) -> int:
    """Return the HTTP status of an error that the service answered, 0 for any other exception."""
    response = getattr(exc, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def head(s3: Any, at: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the service says of an object, None if there is none."""
    try:
        found: dict[str, Any] = s3.head_object(**at)
    except Exception as exc:
        if status_of(exc) != HTTPStatus.NOT_FOUND:
            raise
        return None
    return found


def server_time(answer: Mapping[str, Any]) -> datetime:
    """Return the server's clock at the time of an answer; ages are told by no other."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else datetime.now(timezone.utc)


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what boto3, botocore and urllib3 raise to one of our errors; None for all else."""
    botocore = _lazy.load("botocore.exceptions", install=INSTALL)
    if isinstance(exc, botocore.ClientError):
        return _answered(exc)
    kinds: list[tuple[str, ImgStoreError]] = [
        ("NoCredentialsError", PermissionDenied("no credentials were found", remedy=_NO_KEYS)),
        ("PartialCredentialsError", PermissionDenied("credentials lack a part", remedy=_NO_KEYS)),
        ("CredentialRetrievalError", PermissionDenied(_first_line(exc), remedy=_NO_KEYS)),
        ("TokenRetrievalError", PermissionDenied(_first_line(exc), remedy=_NO_KEYS)),
        ("SSOError", PermissionDenied(_first_line(exc), remedy=_NO_KEYS)),
        ("MetadataRetrievalError", PermissionDenied(_first_line(exc), remedy=_NO_KEYS)),
        ("ProfileNotFound", ConfigError(_first_line(exc), remedy="correct s3_store_profile")),
        ("SSLError", PermissionDenied("the endpoint's certificate is not trusted", remedy=_CA)),
        ("ConnectTimeoutError", TimedOut("the endpoint does not accept connections in time")),
        ("ReadTimeoutError", TimedOut("the endpoint does not answer in time")),
        ("EndpointConnectionError", Unavailable("the endpoint cannot be connected to")),
        ("ProxyConnectionError", Unavailable("the proxy cannot be connected to")),
        ("ConnectionClosedError", Unavailable("the endpoint closed the connection")),
        ("ResponseStreamingError", Unavailable("the connection broke while data arrived")),
        ("IncompleteReadError", IntegrityError("the data ended early", retryable=True)),
        ("FlexibleChecksumError", IntegrityError("the data does not match its checksum")),
        ("ConnectionError", Unavailable("the connection to the endpoint failed")),
        ("HTTPClientError", Unavailable("the connection to the endpoint failed")),
        ("ParamValidationError", StoreError(_first_line(exc))),
        ("BotoCoreError", ConfigError(_first_line(exc), remedy="look at the options of the store")),
    ]
    found = next((e for name, e in kinds if isinstance(exc, getattr(botocore, name, ()))), None)
    if found is None and type(exc).__module__.startswith("urllib3."):
        return Unavailable(f"the connection broke: {type(exc).__name__}")
    return found


_NO_KEYS: Final = (
    "set s3_store_access_key and s3_store_secret_key, or give the AWS SDK a profile or a role"
)
_CA: Final = "name the bundle of its authority in s3_store_cacert"
_REGION: Final = "set s3_store_region_name to the bucket's region"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; QuotaExceeded is Ceph's,
# XMinioStorageFull MinIO's.
_CODES: Final[dict[type[ImgStoreError], str]] = {
    NotFound: "404 NoSuchKey NotFound",
    PermissionDenied: "401 403 AccessDenied AccountProblem AllAccessDisabled ExpiredToken "
    "InvalidAccessKeyId InvalidPayer InvalidSecurity InvalidToken NotSignedUp "
    "SignatureDoesNotMatch TokenRefreshRequired UserSuspended",
    StorageFull: "507 EntityTooLarge InsufficientStorage QuotaExceeded StorageFull "
    "TooManyBuckets XMinioStorageFull",
    InvalidRange: "416 InvalidRange",
    Throttled: "429 BandwidthLimitExceeded OperationAborted RequestLimitExceeded "
    "RequestThrottled SlowDown SlowDownRead SlowDownWrite Throttling TooManyRequests "
    "TooManyRequestsException",
    TimedOut: "408 RequestTimeout",
    Unavailable: "500 502 503 504 InternalError ServiceUnavailable",
    IntegrityError: "BadDigest InvalidDigest InvalidPart XAmzContentSHA256Mismatch",
    Unsupported: "405 501 MethodNotAllowed NotImplemented",
}
_CLASSES: Final = {code: kind for kind, codes in _CODES.items() for code in codes.split()}


def _answered(exc: Exception) -> ImgStoreError:
    """Return the error for what the service answered."""
    code, status = error_code(exc), status_of(exc)
    told = getattr(exc, "response", {}).get("Error", {}).get("Message")
    reason = f"the service answers {status} {code}" if code != str(status) else _status(status)
    if told and str(told) not in {code, "None"}:
        reason += f": {' '.join(str(told).split())[:200]}"
    special: dict[str, ImgStoreError] = {
        "NoSuchBucket": NotFound(reason, remedy="check the bucket in the location"),
        "BucketAlreadyExists": ConfigError(reason, remedy="choose another name: it is taken"),
        "PermanentRedirect": ConfigError(reason, remedy=_REGION),
        "301": ConfigError(reason, remedy=_REGION),
        "AuthorizationHeaderMalformed": ConfigError(reason, remedy=_REGION),
        "IllegalLocationConstraintException": ConfigError(reason, remedy=_REGION),
        "InvalidLocationConstraint": ConfigError(reason, remedy=_REGION),
        "InvalidStorageClass": ConfigError(reason, remedy="correct s3_store_storage_class"),
        "RequestTimeTooSkewed": PermissionDenied(reason, remedy="set this machine's clock"),
        "InvalidObjectState": StoreError(reason, remedy="restore the object from its archive"),
        "PreconditionFailed": IntegrityError("the image changed while it was read"),
        "412": IntegrityError("the image changed while it was read"),
        "NoSuchUpload": StoreError(
            f"{reason}: the upload was removed while it was under way",
            remedy="look for lifecycle rules and clean-ups that remove young uploads",
        ),
    }
    if code in special:
        return special[code]
    kind = _CLASSES.get(code) or _CLASSES.get(str(status))
    if kind is None:
        kind = Unavailable if status >= 500 else StoreError
    return kind(reason)


def _status(status: int) -> str:
    return f"the service answers {status}"


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
