"""The S3 store as far as it needs no server."""

from __future__ import annotations

import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as botocore
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore import Location, StoreManager, errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.claims import is_expired
from imgstore.drivers.s3.errors import classify
from imgstore.drivers.s3.settings import MAX_OBJECT, MAX_PART, MAX_PARTS, Endpoint, Settings
from imgstore.model import Ownership

MIB = 1024 * 1024
KEYS: dict[str, Any] = {"access_key": "AKIA", "secret_key": "se/cr+et%"}


def store(**options: Any) -> S3Store:
    return S3Store("s3", **{"host": "https://s3.example.org", "bucket": "images"} | options)


def settings(**options: Any) -> Settings:
    with store(**options) as made:
        return made._settings


@pytest.mark.parametrize(
    ("text", "url", "service"),
    [
        ("http://10.0.0.1:9000", "http://10.0.0.1:9000", "10.0.0.1:9000"),
        ("https://s3.example.org", "https://s3.example.org", "s3.example.org"),
        ("HTTPS://S3.Example.org/", "https://S3.Example.org", "S3.Example.org"),
        ("s3.example.org", "https://s3.example.org", "s3.example.org"),
        ("localhost:9000", "https://localhost:9000", "localhost:9000"),
        ("127.0.0.1", "https://127.0.0.1", "127.0.0.1"),
        ("http://[::1]:8000", "http://[::1]:8000", "[::1]:8000"),
        ("http://fd00::7", "http://[fd00::7]", "[fd00::7]"),
        ("http://gate.example.org/s3/", "http://gate.example.org/s3", "gate.example.org/s3"),
        ("  http://padded  ", "http://padded", "padded"),
    ],
)
def test_any_form_of_endpoint_is_read(text: str, url: str, service: str) -> None:
    """Scheme, port, path and IPv6 are optional; without a scheme it is https."""
    endpoint = Endpoint.of(text)
    assert endpoint.url == url
    assert endpoint.service == service


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://host", "host:0", "host:70000", "host:port", "http://a b", "[::1", "x?y"],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """A fault names the option, what it holds, and what to write."""
    with pytest.raises(errors.ConfigError, match=r"s3_store_host.*write http://host"):
        Endpoint.of(text)


def test_credentials_in_an_endpoint_are_not_shown() -> None:
    """Someone may have written a secret there."""
    with pytest.raises(errors.ConfigError) as caught:
        Endpoint.of("https://AKIA:s3cret@host")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("https://s3.amazonaws.com", "us-east-1"),
        ("s3-external-1.amazonaws.com", "us-east-1"),
        ("http://s3-ap-northeast-1.amazonaws.com", "ap-northeast-1"),
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://s3.dualstack.us-west-2.amazonaws.com", "us-west-2"),
        ("https://s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("https://s3.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("https://bucket.vpce-1a2b-3c.s3.us-east-2.vpce.amazonaws.com", "us-east-2"),
        ("https://s3.example.org", ""),
    ],
)
def test_regions_come_from_the_names_of_aws(host: str, region: str) -> None:
    """A region that is set wins over the endpoint's name."""
    assert settings(host=host).region == region
    assert settings(host=host).endpoint.is_amazon == bool(region)
    assert settings(host=host, region_name="elsewhere").region == "elsewhere"


@pytest.mark.parametrize(
    "host",
    [
        "ec2-1-2-3-4.compute-1.amazonaws.com",
        "s3-1-2-3-4.eu-west-1.elb.amazonaws.com",
        "rgw-123.eu-west-1.elb.amazonaws.com",
        "amazonaws.com",
        "s3.amazonaws.com.example.org",
    ],
)
def test_not_every_host_of_aws_is_s3(host: str) -> None:
    """Other servers run there too, which do not heed every condition."""
    assert not Endpoint.of(host).is_amazon


@pytest.mark.parametrize(
    ("host", "bucket", "url_format", "style"),
    [
        ("s3.eu-west-1.amazonaws.com", "images", "auto", "virtual"),
        ("s3.eu-west-1.amazonaws.com", "my.images", "auto", "path"),
        ("s3.eu-west-1.amazonaws.com", "images", "path", "path"),
        ("s3.example.org", "images", "auto", "path"),
        ("s3.example.org", "images", "virtual", "virtual"),
    ],
)
def test_where_the_bucket_is_named(host: str, bucket: str, url_format: str, style: str) -> None:
    """AWS is addressed by host names where certificates cover them, all others by paths."""
    made = settings(host=host, bucket=bucket, bucket_url_format=url_format)
    assert made.addressing == style


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bucket": "a/b"}, "s3_store_bucket"),
        ({"host": "http://minio_1:9000"}, "has no underscore"),
        ({"bucket": "Images_1", "bucket_url_format": "virtual"}, "s3_store_bucket_url_format"),
        ({"bucket_url_format": "sideways"}, "s3_store_bucket_url_format"),
        ({"access_key": "AKIA"}, "s3_store_secret_key"),
        ({"session_token": "t"}, "s3_store_session_token"),
        ({**KEYS, "profile": "p"}, "s3_store_profile"),
        ({"key_prefix": "a/"}, "s3_store_key_prefix"),
        ({"key_prefix": "a@"}, "s3_store_key_prefix"),
        ({"key_prefix": "imgstore-claim-"}, "s3_store_key_prefix"),
        ({"large_object_size": -1}, "s3_store_large_object_size"),
        ({"large_object_chunk_size": 4}, "s3_store_large_object_chunk_size"),
        ({"large_object_chunk_size": 5121}, "s3_store_large_object_chunk_size"),
        ({"thread_pools": 0}, "s3_store_thread_pools"),
        ({"get_workers": 0}, "s3_store_get_workers"),
        ({"request_checksum_calculation": "always"}, "s3_store_request_checksum_calculation"),
        ({"retry_mode": "never"}, "s3_store_retry_mode"),
        ({"max_attempts": 0}, "s3_store_max_attempts"),
        ({"connect_timeout": 0}, "s3_store_connect_timeout"),
        ({"sse_kms_key_id": "key"}, "s3_store_server_side_encryption"),
        ({"server_side_encryption": "AES-256"}, "s3_store_server_side_encryption"),
        ({"bucket": ".."}, "s3_store_bucket"),
        ({"bucket": "arn:aws:s3:::b"}, "s3_store_bucket"),
        ({"bucket": None}, "s3_store_bucket"),
        ({"host": None}, "s3_store_host"),
        ({"host": "http://my_host:9000"}, "s3_store_host"),
        ({"host": "http://host/a/../b"}, "s3_store_host"),
        ({"key_prefix": None}, "s3_store_key_prefix"),
        ({"thread_pools": None}, "s3_store_thread_pools"),
        ({"thread_pools": "many"}, "s3_store_thread_pools"),
        ({"region_name": "eu west"}, "s3_store_region_name"),
        ({"read_timeout": float("nan")}, "s3_store_read_timeout"),
        ({"connect_timeout": float("inf")}, "s3_store_connect_timeout"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    """Every fault names the option; none shows a secret."""
    with pytest.raises(errors.ConfigError, match=said) as caught:
        store(**options)
    assert "se/cr+et%" not in str(caught.value)


def test_values_are_what_a_file_would_say() -> None:
    """Text is read as a configuration file's is, so that "false" is not true."""
    made = settings(insecure="false", large_object_chunk_size="16", cacert=Path("/ca.pem"))
    assert (made.verify, made.part_size) == ("/ca.pem", 16 * MIB)
    assert settings(insecure="false").verify is None
    assert settings(insecure=True).verify is False


def test_all_faults_are_told_together() -> None:
    """Somebody who corrects a file does it once."""
    with pytest.raises(errors.ConfigError) as caught:
        store(host="a b", bucket="", key_prefix="@")
    for name in ("s3_store_host", "s3_store_bucket", "s3_store_key_prefix"):
        assert name in str(caught.value)


@given(
    chunk=st.integers(5, 64),
    size=st.one_of(st.none(), st.integers(0, MAX_OBJECT)),
)
@example(chunk=5, size=None)
@example(chunk=5, size=MAX_OBJECT)
def test_ten_thousand_parts_hold_every_image(chunk: int, size: int | None) -> None:
    """Parts have legal sizes and hold 5 TiB, known or not."""
    made = settings(large_object_chunk_size=chunk)
    if size is not None and size < made.single_below:
        assert made.part(1, size) > size
        return
    total = sum(made.part(number, size) for number in range(1, MAX_PARTS + 1))
    assert total >= (MAX_OBJECT if size is None else size)
    for number in (1, 2, 1000, 1001, MAX_PARTS):
        assert chunk * MIB <= made.part(number, size) <= MAX_PART


def test_parts_of_unknown_size_stay_small_at_first() -> None:
    """10 GiB come in parts as large as configured; memory does not grow with the image."""
    made = settings()
    assert {made.part(number, None) for number in range(1, 1001)} == {10 * MIB}


def test_urls_are_those_of_glance_store() -> None:
    """The scheme is s3 for http, s3+https for https; a key prefix is part of the key."""
    for options, url in (
        ({"host": "http://127.0.0.1:9000/"}, "s3://127.0.0.1:9000/images/8c9f"),
        ({"host": "https://s3.example.org/pre"}, "s3+https://s3.example.org/pre/images/8c9f"),
        ({"host": "s3.example.org", "key_prefix": "p"}, "s3+https://s3.example.org/images/p8c9f"),
    ):
        with store(**options) as made:
            location = made._location("8c9f")
            assert location.url == url
            assert made.ownership(Location.parse(url)) is Ownership.YES
            assert made.url_prefix is not None
            assert url.startswith(made.url_prefix)


@pytest.mark.parametrize(
    ("url", "ownership"),
    [
        ("s3+https://s3.example.org/images/8c9f", Ownership.YES),
        ("s3://s3.example.org/images/8c9f", Ownership.YES),
        ("s3+http://S3.Example.ORG:80/images/8c9f", Ownership.YES),
        ("s3+https://s3.example.org:443/images/8c9f", Ownership.YES),
        ("s3://AKIA:se/cr+et%@s3.example.org/images/8c9f", Ownership.YES),
        ("s3://s3.example.org/other/8c9f", Ownership.MAYBE),
        ("s3://s3.example.org:9000/images/8c9f", Ownership.NO),
        ("s3://s3.example.org/prefix/images/8c9f", Ownership.NO),
        ("s3://elsewhere.example.org/images/8c9f", Ownership.NO),
        ("s3://s3.example.org/8c9f", Ownership.NO),
        ("s3://s3.example.org/", Ownership.NO),
        ("s3://s3.example.org/images/..", Ownership.NO),
        ("s3://s3.example.org/../8c9f", Ownership.NO),
        ("s3://s3.example.org/arn:aws:s3:us-west-2:1:accesspoint:x/8c9f", Ownership.NO),
        ("s3://s3.example.org/images--x-s3/8c9f", Ownership.NO),
        ("s3+https://former.example.org/images/8c9f", Ownership.YES),
    ],
)
def test_a_store_owns_its_endpoint(url: str, ownership: Ownership) -> None:
    """The bucket is its own, the endpoint's others perhaps; credentials in old URLs count not."""
    with store(also_owns=["s3+https://former.example.org"]) as made:
        assert made.ownership(Location.parse(url)) is ownership


def test_a_former_place_that_names_no_object() -> None:
    """It is the store's, and says what it lacks."""
    with (
        store(also_owns=["s3+https://former.example.org"]) as made,
        pytest.raises(errors.InvalidLocation, match="bucket and key"),
    ):
        made.size("s3+https://former.example.org/8c9f")


def test_key_prefixes_tell_stores_apart() -> None:
    """Two stores of one bucket own what begins with their prefixes, and perhaps the rest."""
    location = Location.parse("s3+https://s3.example.org/images/one-8c9f")
    with store(key_prefix="one-") as one, store(key_prefix="two-") as two:
        assert one.ownership(location) is Ownership.YES
        assert two.ownership(location) is Ownership.MAYBE


def test_ids_that_no_location_could_name_are_refused() -> None:
    """In an S3 URL credentials run to the last "@", and names of our own are ours."""
    for prefix, image_id in (
        ("", "a@b"),
        ("", "imgstore-claim-8c9f"),
        ("", "imgstore-check-8c9f"),
        ("", "imgstore-8c9f"),
        ("p-", "imgstore-claim-8c9f"),
        ("imgstore-", "claim-8c9f"),
    ):
        with (
            store(key_prefix=prefix) as made,
            pytest.raises(errors.InvalidArgument, match="cannot be stored in S3"),
        ):
            made.add(image_id, b"")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("access_key", "AKIDEXAMPLE\n"),
        ("access_key", " AKIDEXAMPLE"),
        ("access_key", "AKIDEXAMPL\u00c9"),
        ("secret_key", "wJalrXUtnFEMI\n"),
        ("secret_key", "wJalrXUtnFEMI\r"),
        ("session_token", "t0ken-value\n"),
        ("session_token", "t0ken\tvalue"),
    ],
)
def test_credentials_that_were_read_with_a_newline(keyword: str, value: str) -> None:
    """The fault names the option and shows nothing of it, wherever it is printed."""
    with pytest.raises(errors.ConfigError, match=f"s3_store_{keyword}") as caught:
        store(**{**KEYS, "session_token": "t", keyword: value})
    assert value.strip() not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_credentials_of_the_sdk_with_a_newline(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """They are refused before http.client sees them, which would quote them."""
    values = {
        "AWS_ACCESS_KEY_ID": "environment",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "other",
    }
    for each, value in {**values, name: "t0ken-value\n"}.items():
        monkeypatch.setenv(each, value)
    with store(host="http://127.0.0.1:9", max_attempts=2, conditional_writes=False) as made:
        for verb in (
            lambda: made.size("s3://127.0.0.1:9/images/8c9f"),
            lambda: made.add("8c9f", b"data"),
        ):
            with pytest.raises(errors.PermissionDenied, match="AWS SDK") as caught:
                verb()
            assert "t0ken-value" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("lease", ["", "x", "nan", "inf", "1e999"])
def test_claims_without_a_lease_are_over(lease: str) -> None:
    """Somebody else's object of such a name hinders no add for ever."""
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    found: dict[str, Any] = {
        "LastModified": now - timedelta(seconds=60),
        "Metadata": {"imgstore-lease": lease},
        "ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}},
    }
    assert is_expired(found)
    found["Metadata"]["imgstore-lease"] = "60.0"
    assert not is_expired(found)


def test_a_store_without_keys_asks_the_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment and shared files give credentials, as in every AWS tool."""
    shared = tmp_path / "credentials"
    shared.write_text("[images]\naws_access_key_id = shared\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    for options, expected in (
        ({}, "environment"),
        ({"profile": "images"}, "shared"),
        ({**KEYS, "session_token": "t"}, "AKIA"),
    ):
        with store(**options) as made:
            signer = made._client.get().s3._request_signer
            assert signer._credentials.access_key == expected
            assert signer._credentials.token == options.get("session_token")


def test_a_missing_profile_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is found by the first use: constructors look nothing up."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with (
        store(profile="nobody") as made,
        pytest.raises(errors.ConfigError, match="s3_store_profile"),
    ):
        made.add("8c9f", b"")


def answered(code: str, status: int, message: str | None = None) -> Exception:
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.ClientError(response, "PutObject")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (answered("NoSuchKey", 404), errors.NotFound),
        (answered("404", 404), errors.NotFound),
        (answered("NoSuchBucket", 404), errors.NotFound),
        (answered("AccessDenied", 403), errors.PermissionDenied),
        (answered("403", 403), errors.PermissionDenied),
        (answered("ExpiredToken", 400), errors.PermissionDenied),
        (answered("RequestTimeTooSkewed", 403), errors.PermissionDenied),
        (answered("QuotaExceeded", 403), errors.StorageFull),
        (answered("EntityTooLarge", 400), errors.StorageFull),
        (answered("507", 507), errors.StorageFull),
        (answered("405", 405), errors.Unsupported),
        (answered("408", 408), errors.TimedOut),
        (answered("412", 412), errors.IntegrityError),
        (answered("429", 429), errors.Throttled),
        (answered("SlowDown", 503), errors.Throttled),
        (answered("ServiceUnavailable", 503), errors.Unavailable),
        (answered("Strange", 599), errors.Unavailable),
        (answered("RequestTimeout", 400), errors.TimedOut),
        (answered("InvalidRange", 416), errors.InvalidRange),
        (answered("BadDigest", 400), errors.IntegrityError),
        (answered("PermanentRedirect", 301), errors.ConfigError),
        (answered("BucketAlreadyExists", 409), errors.ConfigError),
        (answered("NotImplemented", 501), errors.Unsupported),
        (answered("Strange", 400), errors.StoreError),
        (botocore.EndpointConnectionError(endpoint_url="http://h"), errors.Unavailable),
        (botocore.ConnectTimeoutError(endpoint_url="http://h"), errors.TimedOut),
        (botocore.ReadTimeoutError(endpoint_url="http://h"), errors.TimedOut),
        (
            botocore.SSLError(endpoint_url="http://h", error="CERTIFICATE_VERIFY_FAILED"),
            errors.PermissionDenied,
        ),
        (botocore.SSLError(endpoint_url="http://h", error="EOF"), errors.Unavailable),
        (botocore.NoCredentialsError(), errors.PermissionDenied),
        (botocore.IncompleteReadError(actual_bytes=1, expected_bytes=2), errors.IntegrityError),
    ],
    ids=str,
)
def test_errors_have_a_class(exc: Exception, kind: type[errors.ImgStoreError]) -> None:
    """What a caller can act on has a class of its own."""
    assert type(classify(exc)) is kind


def test_the_services_words_are_passed_on_in_one_line() -> None:
    """A message names code and status, and what the service says."""
    error = classify(answered("Strange", 400, "what\n  it " + "x" * 300))
    assert str(error).startswith(f"the service answers 400 Strange: what it {'x' * 300}")
    assert classify(ValueError()) is None


def test_secrets_are_not_shown() -> None:
    """Neither the store nor its settings print a key."""
    with store(**KEYS) as made:
        text = f"{made!r} {made._settings!r} {vars(made)!r}"
        assert "se/cr+et%" not in text
        assert "AKIA" not in text


def test_operators_examples_load() -> None:
    """The documents' examples for S3 give the stores that they describe."""
    documents = Path(__file__).parent.parent / "data" / "documents"
    with StoreManager.from_file(documents / "s3-hosts.conf") as stores:
        prefixes = {name: stores.info(name).url_prefix for name in stores}
        assert prefixes == {
            "legacy": "s3://s3-ap-northeast-1.amazonaws.com/glance",
            "legacy-tls": "s3+https://s3-ap-northeast-1.amazonaws.com/glance",
            "own": "s3://my-object-storage.com/glance",
            "own-tls": "s3+https://my-object-storage.com:9000/glance",
        }
    with StoreManager.from_file(documents / "s3-default-backend.conf") as stores:
        made = stores["default_backend"]
        assert isinstance(made, S3Store)
        assert made._settings.create_bucket_on_put
        assert made._settings.single_below == 0
        assert made._settings.verify == "/etc/pki/tls/certs/ca-bundle.crt"
