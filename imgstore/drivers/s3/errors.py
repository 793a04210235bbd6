"""What the errors of the SDK and of the service mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from imgstore.boundary.translation import status_class
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
from imgstore.process import committing, lazy

INSTALL: Final = "imgstore[s3]"

_NO_KEYS: Final = (
    "set s3_store_access_key and s3_store_secret_key, or give the AWS SDK a profile or a role"
)
_CA: Final = "name the bundle of its authority in s3_store_cacert"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; QuotaExceeded is Ceph's,
# XMinioStorageFull MinIO's. Answers to HEAD have the status for a code.
_CODES: Final[dict[type[ImgStoreError], str]] = {
    NotFound: "NoSuchKey NotFound",
    PermissionDenied: "AccessDenied AccountProblem AllAccessDisabled ExpiredToken "
    "InvalidAccessKeyId InvalidPayer InvalidSecurity InvalidToken NotSignedUp "
    "SignatureDoesNotMatch TokenRefreshRequired UserSuspended",
    StorageFull: "EntityTooLarge InsufficientStorage QuotaExceeded StorageFull "
    "TooManyBuckets XMinioStorageFull",
    InvalidRange: "InvalidRange",
    Throttled: "BandwidthLimitExceeded OperationAborted RequestLimitExceeded "
    "RequestThrottled SlowDown SlowDownRead SlowDownWrite Throttling TooManyRequests "
    "TooManyRequestsException",
    TimedOut: "RequestTimeout 408",
    Unavailable: "InternalError ServiceUnavailable",
    IntegrityError: "BadDigest InvalidDigest InvalidPart XAmzContentSHA256Mismatch",
    Unsupported: "MethodNotAllowed NotImplemented 405",
}
_CLASSES: Final = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_NO_CHECKSUMS: Final = (
    "set s3_store_request_checksum_calculation to when_required: this server does not know the "
    "trailing checksums of S3"
)
_REGION: Final = "set s3_store_region_name to the bucket's region"
_OF_REGIONS: Final = (
    "301 PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException "
    "InvalidLocationConstraint"
)
# What can be said of a code beyond its class.
_REMEDIES: Final[dict[str, tuple[type[ImgStoreError], str]]] = {
    "NoSuchBucket": (NotFound, "check the bucket in the location"),
    "BucketAlreadyExists": (ConfigError, "choose another name: it is taken"),
    "InvalidStorageClass": (ConfigError, "correct s3_store_storage_class"),
    "RequestTimeTooSkewed": (PermissionDenied, "set this machine's clock"),
    "InvalidObjectState": (StoreError, "restore the object from its archive"),
    "MissingContentLength": (StoreError, _NO_CHECKSUMS),
    "NoSuchUpload": (
        StoreError,
        "look for lifecycle rules and clean-ups that remove uploads while they are under way",
    ),
    **dict.fromkeys(_OF_REGIONS.split(), (ConfigError, _REGION)),
}

# Failures of the SDK by the names of its exceptions, subclasses first: what they mean, the reason,
# and the remedy.
_FAILURES: Final[dict[str, tuple[type[ImgStoreError], str, str]]] = {
    "NoCredentialsError": (PermissionDenied, "no credentials were found", _NO_KEYS),
    "PartialCredentialsError": (PermissionDenied, "credentials lack a part", _NO_KEYS),
    "CredentialRetrievalError": (PermissionDenied, "{text}", _NO_KEYS),
    "TokenRetrievalError": (PermissionDenied, "{text}", _NO_KEYS),
    "SSOError": (PermissionDenied, "{text}", _NO_KEYS),
    "MetadataRetrievalError": (PermissionDenied, "{text}", _NO_KEYS),
    "ProfileNotFound": (ConfigError, "{text}", "correct s3_store_profile or AWS_PROFILE"),
    "SSLError": (Unavailable, "the TLS connection to the endpoint{at} failed", ""),
    "ConnectTimeoutError": (TimedOut, "the endpoint{at} does not accept connections in time", ""),
    "ReadTimeoutError": (TimedOut, "the endpoint{at} does not answer in time", ""),
    "EndpointConnectionError": (Unavailable, "the endpoint{at} cannot be connected to{why}", ""),
    "ProxyConnectionError": (Unavailable, "the proxy{at} cannot be connected to{why}", ""),
    "ConnectionClosedError": (Unavailable, "the endpoint{at} closed the connection{why}", ""),
    "ResponseStreamingError": (Unavailable, "the connection broke while data arrived", ""),
    "FlexibleChecksumError": (IntegrityError, "the data does not match its checksum", ""),
    "ConnectionError": (Unavailable, "the connection to the endpoint failed{why}", ""),
    "HTTPClientError": (Unavailable, "the connection to the endpoint failed{why}", ""),
    "ParamValidationError": (StoreError, "{whole}", ""),
    "BotoCoreError": (ConfigError, "{text}", "look at the options of the store"),
}


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


def wants_md5(exc: BaseException) -> bool:
    """Return whether a put was refused for want of an MD5: the bucket has Object Lock, say.

    AWS answers InvalidRequest for that and for other mistakes; most name the header.
    """
    if status_of(exc) != HTTPStatus.BAD_REQUEST:
        return False
    known = error_code(exc) in {"InvalidRequest", "MissingContentMD5"}
    return known or "content-md5" in str(exc).lower()


def status_of(exc: BaseException) -> int:
    """Return the HTTP status of an error that the service answered, 0 for any other exception."""
    response = getattr(exc, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what boto3, botocore and urllib3 raise to one of our errors; None for all else."""
    botocore = lazy.load("botocore.exceptions", install=INSTALL)
    parsers = lazy.load("botocore.parsers", install=INSTALL)
    if isinstance(exc, parsers.ResponseParserError):
        return Unavailable("the endpoint's answer is not one of S3")
    if isinstance(exc, botocore.ClientError):
        return _answered(exc)
    if is_untrusted(exc):
        return PermissionDenied("the endpoint's certificate is not trusted", remedy=_CA)
    if isinstance(exc, botocore.IncompleteReadError):
        return IntegrityError("the data ended early", retryable=True)
    name = next((name for name in _FAILURES if isinstance(exc, getattr(botocore, name, ()))), None)
    if name is not None:
        return _failed(exc, *_FAILURES[name])
    is_broken = type(exc).__module__.startswith("urllib3.")
    return Unavailable(f"the connection broke: {type(exc).__name__}") if is_broken else None


def _failed(exc: Exception, kind: type[ImgStoreError], reason: str, remedy: str) -> ImgStoreError:
    first, whole = str(exc).partition("\n")[0], " ".join(str(exc).split())
    said = reason.format(text=first, whole=whole, at=_address(exc), why=_cause(exc))
    return kind(said, remedy=remedy)


def _address(exc: Exception) -> str:
    """Return with which host and port a request failed, after a blank; "" if it is not told."""
    kwargs = getattr(exc, "kwargs", {})
    url = kwargs.get("endpoint_url") or kwargs.get("proxy_url") or ""
    match = re.search("//(?:[^/@]*@)?([^/?#@]+)", str(url))
    return f" {match[1]}" if match else ""


def _cause(exc: Exception) -> str:
    """Return what the system says of a connection that failed, after a colon."""
    inner = getattr(exc, "kwargs", {}).get("error")
    while isinstance(inner, BaseException):
        if isinstance(inner, OSError) and inner.strerror:
            return f": {inner.strerror}"
        inner = inner.__cause__ or inner.__context__
    return ""


@contextmanager
def doubting() -> Iterator[None]:
    """Let a failure inside say that the image may exist or not."""
    try:
        yield
    except Exception as exc:
        error = doubtful(exc)
        if error is exc:
            raise
        raise error from exc


def doubtful(exc: Exception) -> StoreError:
    """Return the error for a failure after which the image may exist or not."""
    error = exc if isinstance(exc, ImgStoreError) else classify(exc)
    if is_conflict(exc) or not isinstance(error, StoreError):
        return committing.in_doubt(f"the outcome is unknown: {type(exc).__name__}")
    error.indeterminate = True
    return error


def _answered(exc: Exception) -> ImgStoreError:
    """Return the error for what the service answered."""
    code, status = error_code(exc), status_of(exc)
    if status == HTTPStatus.PRECONDITION_FAILED:
        return IntegrityError("the image changed while it was read")
    reason = f"the service answers {status}" + (f" {code}" if code != str(status) else "")
    told = getattr(exc, "response", {}).get("Error", {}).get("Message")
    if told and str(told) not in {code, "None"}:
        reason += f": {' '.join(str(told).split())}"
    if code in _REMEDIES:
        kind, remedy = _REMEDIES[code]
        return kind(reason, remedy=remedy)
    return (_CLASSES.get(code) or status_class(status))(reason)
