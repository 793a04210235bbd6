"""What the options of an S3 store mean."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from imgstore.boundary.arguments import is_safe_image_id
from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import all_checked
from imgstore.data.units import MIB
from imgstore.drivers.s3.options import OPTIONS
from imgstore.drivers.s3.places import CLAIM, PROBE, is_bucket, is_own
from imgstore.errors import ConfigError
from imgstore.secret import Secret

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS: Final = 10_000
MAX_PART: Final = 5 * 1024 * MIB
MAX_OBJECT: Final = 5 * 1024 * 1024 * MIB
# Without a known size the first parts are as large as configured; later ones grow evenly, so that
# all of them together hold the largest object.
_EVEN_PARTS: Final = 1000
_GROWTH: Final = -(-2 * MAX_OBJECT // (MAX_PARTS - _EVEN_PARTS) ** 2)

_SCHEME: Final = re.compile(r"(?i:(https?)://)?(.*)", re.DOTALL)
# As strict as the SDK, which takes no "_" in a host.
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:%-]+)*")
_AMAZON_DOMAIN: Final = r"(?:amazonaws\.(?:com|com\.cn|eu)|c2s\.ic\.gov|sc2s\.sgov\.gov)"
# Not every host of AWS is S3: others may run there.
_AMAZON: Final = re.compile(
    rf"(?i)(?!.*\.(?:elb|compute|compute-1)\.)(?:.+\.)?s3(?:[.-][a-z0-9.-]+)?\.{_AMAZON_DOMAIN}"
)
_AMAZON_REGION: Final = re.compile(
    r"(?i)(?:.+\.)?s3(?:-fips)?(?:[.-]dualstack)?[.-]([a-z]{2,4}(?:-[a-z]+)+-\d)(?:\.vpce)?"
    rf"\.{_AMAZON_DOMAIN}"
)
_GLOBAL: Final = frozenset({"s3.amazonaws.com", "s3-external-1.amazonaws.com"})
_REGION: Final = re.compile(r"[A-Za-z0-9-]{0,63}")
# A name that can be one label of a host, so that certificates with a wildcard cover it.
_DNS_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,61})[a-z0-9]")


@dataclass(frozen=True)
class Endpoint:
    """Where the service is: ``service`` is ``host[:port][/path]``, as locations have it."""

    scheme: str
    service: str
    host: str

    @classmethod
    def of(cls, text: str) -> Endpoint:
        """Read ``[http[s]://]host[:port][/path]``; without a scheme it is https.

        Raises ConfigError.
        """
        match = _SCHEME.fullmatch(text.strip())
        scheme, rest = (match[1] or "https").lower(), match[2].strip("/")  # type: ignore[index]
        authority, slash, path = rest.partition("/")
        if _is_ipv6(authority):
            authority = f"[{ipaddress.IPv6Address(authority)}]"
        parts = _AUTHORITY.fullmatch(authority)
        if (
            parts is None
            or not _is_host(parts[1])
            or not 0 < int(parts[2] or 1) < 65536
            or not _PATH.fullmatch(slash + path)
            or not {".", ".."}.isdisjoint(path.split("/"))
        ):
            shown = repr(text) if "@" not in text else "it"
            reason = f"s3_store_host: {shown} is not an endpoint"
            remedy = "write http://host or https://host, with :port and /path if need be"
            if parts and "_" in parts[1]:
                reason += ": a host's name has no underscore (_)"
                remedy = "give the host a name without one, or write its address"
            raise ConfigError(reason, remedy=remedy)
        return cls(scheme, f"{authority}{slash}{path}", parts[1])

    @property
    def url(self) -> str:
        """Return the endpoint as the SDK takes it."""
        return f"{self.scheme}://{self.service}"

    @property
    def is_amazon(self) -> bool:
        """Return whether AWS itself answers there."""
        return _AMAZON.fullmatch(self.host) is not None

    @property
    def region(self) -> str:
        """Return the region that an AWS endpoint names, "" where it names none."""
        match = _AMAZON_REGION.fullmatch(self.host)
        if match:
            return match[1].lower()
        return "us-east-1" if self.host.lower() in _GLOBAL else ""


def _is_host(text: str) -> bool:
    return _is_ipv6(text[1:-1]) if text.startswith("[") else bool(_NAME.fullmatch(text))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Settings:
    """The checked options of one store; sizes in bytes, times in seconds.

    What is called like a keyword of the constructor has its value.
    """

    endpoint: Endpoint
    bucket: str
    region: str
    credentials: Mapping[str, Secret]
    create_bucket_on_put: bool
    addressing: str
    key_prefix: str
    single_below: int
    part_size: int
    workers: int
    memory: int
    get_workers: int
    verify: str | bool | None
    payload_signing: bool
    conditional_writes: bool
    request_checksums: str
    response_checksums: str
    object_options: Mapping[str, str]
    connect_timeout: float
    read_timeout: float
    retry_mode: str
    max_attempts: int
    max_pool_connections: int
    redaction: Redaction = field(compare=False, repr=False)

    @property
    def encryption(self) -> dict[str, str]:
        """Return with what the objects are encrypted that are not images."""
        return {n: value for n, value in self.object_options.items() if n != "StorageClass"}

    @property
    def lease(self) -> float:
        """Return twice the seconds that one request may take, with all its attempts."""
        # https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
        longest = math.inf if self.retry_mode == "legacy" else 20.0
        pauses = sum(min(2.0**n, longest) for n in range(min(self.max_attempts, 30) - 1))
        attempts = self.max_attempts * (self.connect_timeout + self.read_timeout)
        return max(300.0, 2 * (attempts + pauses))

    @property
    def sends_md5(self) -> bool:
        """Return whether uploads carry an MD5: nothing else lets the server check them."""
        return not self.is_signed and self.request_checksums == "when_required"

    @property
    def is_signed(self) -> bool:
        """Return whether uploads are signed, which takes a SHA-256 of them."""
        return self.endpoint.scheme == "http" and self.payload_signing

    def part(self, number: int, size: int | None) -> int:
        """Return the size of a part, counted from 1, so that 10,000 hold the image of ``size``.

        Where one request does for the image, its part is larger than the image.
        """
        if size is None:
            return min(max(self.part_size, _GROWTH * (number - _EVEN_PARTS)), MAX_PART)
        if size < self.single_below:
            return size + 1  # one more: the end is then seen without another read
        return max(self.part_size, -(-size // MAX_PARTS))


def read(given: Mapping[str, Any], redaction: Redaction) -> Settings:
    """Check the values of the options; raises one ConfigError for all that is wrong."""
    endpoint, credentials, options, *_ = all_checked(
        lambda: Endpoint.of(given["host"]),
        lambda: _credentials(given),
        lambda: _object_options(given),
        lambda: _check_bucket(given["bucket"], given["bucket_url_format"]),
        lambda: _check_key_prefix(given["key_prefix"]),
        lambda: _check_region(given["region_name"]),
    )
    as_given = {f.name: given[f.name] for f in fields(Settings) if f.name in given}
    protects = given["enable_data_integrity_protection"]
    return Settings(
        **as_given,
        endpoint=endpoint,
        region=given["region_name"] or endpoint.region,
        credentials=credentials,
        addressing=_addressing(given["bucket_url_format"], endpoint, given["bucket"]),
        single_below=min(given["large_object_size"] * MIB, MAX_PART),
        part_size=given["large_object_chunk_size"] * MIB,
        workers=given["thread_pools"],
        memory=given["upload_memory"] * MIB,
        verify=given["cacert"] or (False if given["insecure"] else None),
        request_checksums=given["request_checksum_calculation"] if protects else "when_required",
        response_checksums=given["response_checksum_validation"] if protects else "when_required",
        object_options=options,
        redaction=redaction,
    )


def _check_region(name: str) -> None:
    if not _REGION.fullmatch(name):
        raise ConfigError(
            f"s3_store_region_name: {name!a} is not a region's name",
            remedy="use letters, digits and '-'",
        )


def _check_bucket(bucket: str, url_format: str) -> None:
    if not is_bucket(bucket):
        raise ConfigError(
            f"s3_store_bucket: {bucket!a} is not a bucket's name",
            remedy="use letters, digits, '-', '_' and '.'",
        )
    if url_format == "virtual" and not _DNS_BUCKET.fullmatch(bucket.replace(".", "-")):
        raise ConfigError(
            f"s3_store_bucket: {bucket!r} cannot be part of a host's name",
            remedy="set s3_store_bucket_url_format to path, or use 3 to 63 lower-case letters, "
            "digits and '-'",
        )


def _addressing(url_format: str, endpoint: Endpoint, bucket: str) -> str:
    if url_format != "auto":
        return url_format
    return "virtual" if endpoint.is_amazon and _DNS_BUCKET.fullmatch(bucket) else "path"


def _check_key_prefix(prefix: str) -> None:
    if is_own(prefix) or "@" in prefix or not is_safe_image_id(f"{prefix}x"):
        raise ConfigError(
            f"s3_store_key_prefix: {prefix!a} cannot begin the name of an image",
            remedy=f"use printable text without '/', '?', '#' and '@', not {CLAIM} or {PROBE}",
        )


def _credentials(given: Mapping[str, Any]) -> dict[str, Secret]:
    """Return the keywords of the SDK's session; none means its own chain."""
    key, secret, token = all_checked(
        lambda: _sendable("access_key", given),
        lambda: _sendable("secret_key", given),
        lambda: _sendable("session_token", given),
    )
    if bool(key) != bool(secret):
        raise ConfigError(
            "one of s3_store_access_key and s3_store_secret_key is set without the other",
            remedy="set both, or neither to use the AWS SDK's own credentials",
        )
    if token and not key:
        raise ConfigError("s3_store_session_token is set without s3_store_access_key")
    if key and given["profile"]:
        raise ConfigError(
            "s3_store_access_key and s3_store_profile are both set", remedy="keep one of them"
        )
    found = {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_session_token": token,
        "profile_name": Secret(given["profile"]) if given["profile"] else None,
    }
    return {name: value for name, value in found.items() if value}


def _sendable(keyword: str, given: Mapping[str, Any]) -> Secret | None:
    """Return a credential, None if it is not set; raises ConfigError, which does not quote it."""
    if not given[keyword]:
        return None
    text = Secret(given[keyword]).reveal()
    # The secret key signs and is not sent.
    is_sound = text.isprintable() and (text.isascii() or keyword == "secret_key")
    if not is_sound or text != text.strip():
        raise ConfigError(
            f"{OPTIONS[keyword].name} holds characters that no credential has, such as a newline "
            "at its end",
            remedy="look at the file or variable that it comes from",
        )
    return Secret(text)


def _object_options(given: Mapping[str, Any]) -> dict[str, str]:
    """Return what every object is created with."""
    encryption = given["server_side_encryption"] or ""
    if given["sse_kms_key_id"] and not encryption.startswith("aws:kms"):
        raise ConfigError(
            "s3_store_sse_kms_key_id is set, but s3_store_server_side_encryption is not aws:kms"
        )
    found = {
        "StorageClass": given["storage_class"],
        "ServerSideEncryption": encryption,
        "SSEKMSKeyId": given["sse_kms_key_id"],
    }
    return {name: value for name, value in found.items() if value}
