"""The SDK's client, and what its errors mean."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

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
from imgstore.process import lazy
from imgstore.secret import Secret

INSTALL: Final = "imgstore[s3]"

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


class Client:
    """boto3's client of one store, for all threads of one process: ``s3`` has the operations."""

    def __init__(self, settings: Settings) -> None:
        """Find the credentials and build the client; nothing is connected yet."""
        boto3 = lazy.load("boto3", install=INSTALL)
        config = lazy.load("botocore.config", install=INSTALL)
        self._botocore = lazy.load("botocore.exceptions", install=INSTALL)
        self._watching = threading.local()
        self._is_conditional: bool | None = None
        self._has_md5_tags: bool | None = None
        self.attempts = settings.max_attempts
        if isinstance(settings.verify, str):
            _check_ca_file(settings.verify)
        options: dict[str, Any] = {"addressing_style": settings.addressing}
        if not settings.sign_payload:
            options["payload_signing_enabled"] = False
        session = boto3.session.Session(
            **{
                name: value.reveal() if isinstance(value, Secret) else value
                for name, value in settings.credentials.items()
            }
        )
        self._credentials: Any = session.get_credentials()
        self._learn = settings.redaction.learn
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
        events.register_first("before-sign.s3", self._on_signing)
        events.register("before-send.s3", self._on_sending)
        # First: the SDK's own handler raises when it gives up.
        events.register_first("needs-retry.s3", self._on_outcome)

    def close(self) -> None:
        """Close the pooled connections."""
        self.s3.close()

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
        attempts = self._watching.attempts = Attempts(cancelled, may_repeat=may_repeat)
        try:
            yield attempts
        finally:
            self._watching.attempts = outer

    def _on_signing(self, **_: Any) -> None:
        # They may be those of a role or a profile, and be renewed.
        if self._credentials is not None:
            found = self._credentials.get_frozen_credentials()
            self._learn(found.access_key, found.secret_key, found.token)

    def _on_sending(self, request: Any, **_: Any) -> None:
        _check_credentials(request.headers)
        attempts = getattr(self._watching, "attempts", None)
        if attempts is not None:
            attempts.pending = True

    def _on_outcome(
        self, response: Any = None, caught_exception: Exception | None = None, **_: Any
    ) -> None:
        """Judge an attempt; the SDK calls this after each, before it decides on another."""
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


def _name_condition_for_ceph(params: dict[str, Any], **_: Any) -> None:
    """State the condition on a copy's source by the name that Ceph's gateway reads, too.

    It leaves out "source" from the names of these headers: RGWCopyObj_ObjStore_S3::get_params in
    https://github.com/ceph/ceph/blob/v16.2.15/src/rgw/rgw_rest_s3.cc
    """
    headers = params["headers"]
    etag = headers.get("x-amz-copy-source-if-match")
    if etag:
        headers["x-amz-copy-if-match"] = etag


class Attempts:
    """What became of requests; ``in_doubt``: one may have been carried out unseen."""

    def __init__(self, cancelled: Callable[[], bool], *, may_repeat: bool) -> None:
        self.cancelled = cancelled
        self.may_repeat = may_repeat
        self.in_doubt = False
        self.pending = False  # sent, and never judged: an answer that could not be read

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


def _check_ca_file(path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as exc:
        raise ConfigError(
            f"s3_store_cacert {path} cannot be used: {exc.strerror or exc}",
            remedy="give the path of a PEM file with certificates",
        ) from exc


def is_untrusted(exc: BaseException) -> bool:
    """Return whether a TLS handshake failed because of the server's certificate."""
    return type(exc).__name__ == "SSLError" and "CERTIFICATE_VERIFY_FAILED" in str(exc)


def is_conflict(exc: BaseException) -> bool:
    """Return whether the service refused a request because of its conditions."""
    is_refused = status_of(exc) == HTTPStatus.PRECONDITION_FAILED
    return is_refused or error_code(exc) in {"ConditionalRequestConflict", "OperationAborted"}


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
    """Return what an answer has to tell; raises StoreError where it does not."""
    try:
        return answer[name]
    except KeyError:
        raise StoreError(
            f"the server's answer has no {name}",
            remedy="look for a server, or something before it, that is not quite one of S3",
        ) from None


def server_time(answer: Mapping[str, Any]) -> datetime:
    """Return the server's clock at the time of an answer; ages are told by no other."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else datetime.now(timezone.utc)


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what boto3, botocore and urllib3 raise to one of our errors; None for all else."""
    botocore = lazy.load("botocore.exceptions", install=INSTALL)
    parsers = lazy.load("botocore.parsers", install=INSTALL)
    if isinstance(exc, parsers.ResponseParserError):
        return Unavailable("the endpoint's answer is not one of S3")
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
        ("SSLError", _tls_error(exc)),
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
        ("ParamValidationError", StoreError(" ".join(str(exc).split()))),
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
_CHECKSUMS: Final = (
    "set s3_store_request_checksum_calculation to when_required: this server does not know the "
    "trailing checksums of S3"
)
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
        "MissingContentLength": StoreError(reason, remedy=_CHECKSUMS),
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


def _tls_error(exc: Exception) -> StoreError:
    if is_untrusted(exc):
        return PermissionDenied("the endpoint's certificate is not trusted", remedy=_CA)
    return Unavailable("the TLS connection to the endpoint failed")


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
