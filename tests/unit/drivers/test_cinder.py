"""The Cinder store as far as it needs no server."""

from __future__ import annotations

import logging
import pkgutil
import re
import traceback
from typing import Any

import pytest

from imgstore import Location, RequestContext, errors
from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import read_options
from imgstore.boundary.translation import describe
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.cinder.client import Api, Clients, _endpoint
from imgstore.drivers.cinder.devices import _configuration
from imgstore.drivers.cinder.errors import classify
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.drivers.cinder.places import Place
from imgstore.drivers.cinder.settings import Settings, read
from imgstore.drivers.cinder.volumes import whole_gib
from imgstore.process.patience import Patience
from imgstore.secret import Secret

DEFAULTS: dict[str, Any] = {name: opt.default for name, opt in OPTIONS.items()}
USER: dict[str, Any] = {
    "auth_address": "http://localhost/identity/v3",
    "user_name": "glance",
    "password": "admin",
    "project_name": "service",
}
VOLUME = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def settings(**options: Any) -> Settings:
    return read(read_options(OPTIONS, DEFAULTS | options))


@pytest.mark.parametrize(
    ("url", "store", "written"),
    [
        (f"cinder://{VOLUME}", "", f"cinder://{VOLUME}"),
        (f"cinder://fast/{VOLUME}", "fast", f"cinder://fast/{VOLUME}"),
    ],
)
def test_both_forms_of_location(url: str, store: str, written: str) -> None:
    place = Place.of(Location.parse(url))
    assert place == Place(VOLUME, store)
    assert place.location.url == written


@pytest.mark.parametrize(
    "rest", ["image", VOLUME.upper(), f"fast/{VOLUME}x", f"{VOLUME}/", "fast/"]
)
def test_other_locations_name_no_volume(rest: str) -> None:
    assert Place.of(Location("cinder", rest)) is None


def test_a_user_needs_all_four() -> None:
    found = settings(**USER).credentials
    assert found is not None
    assert (found.options["username"], found.options["user_domain_name"]) == ("glance", "Default")
    assert "admin" not in repr(found)
    for missing in USER:
        rest = settings(**(USER | {missing: None}))
        assert rest.credentials is None
        assert rest.incomplete == (OPTIONS[missing].name,)
    assert settings().incomplete == ()


def test_an_application_credential_goes_first() -> None:
    both = USER | {"application_credential_id": "id", "application_credential_secret": "s"}
    found = settings(**both).credentials
    assert found is not None
    assert set(found.options) == {"application_credential_id", "application_credential_secret"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("volumev3::publicURL", ("volumev3", None, "public")),
        ("volumev2::publicURL", ("volumev3", None, "public")),
        ("block-storage:cinder:internal", ("block-storage", "cinder", "internal")),
    ],
)
def test_the_catalog(text: str, expected: tuple[str, str | None, str]) -> None:
    found = settings(catalog_info=text, os_region_name="").catalog
    assert (found.service_type, found.name, found.interface) == expected
    assert found.region is None


@pytest.mark.parametrize(
    ("size", "step", "expected"), [(1, 50, 2), (2, 50, 3), (10, 50, 15), (3, 0, 4), (4, 100, 8)]
)
def test_steps(size: int, step: int, expected: int) -> None:
    assert settings(extend_step=step).next_size(size) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"catalog_info": "volumev3"}, "cinder_catalog_info"),
        ({"catalog_info": "volumev3::privateURL"}, "cinder_catalog_info"),
        ({"auth_address": "user:s3cret@keystone"}, "cinder_store_auth_address"),
        ({"auth_address": "http://user:s3cret@keystone/v3"}, "cinder_store_auth_address"),
        ({"auth_address": "http://user:s3cret\uff0f@keystone"}, "cinder_store_auth_address"),
        ({"auth_address": "http://[::1/s3cret"}, "cinder_store_auth_address"),
        ({"auth_address": "http://keystone:s3cret"}, "cinder_store_auth_address"),
        ({"endpoint_template": "http://user:s3cret\uff0f@cinder"}, "cinder_endpoint_template"),
        ({"endpoint_template": "http://[::1/%(tenant)s"}, "cinder_endpoint_template"),
        ({"endpoint_template": "http://u:s3cret@cinder/%(tenant)s"}, "cinder_endpoint_template"),
        ({"endpoint_template": "http://cinder/%(tenant)999999999999d"}, "cinder_endpoint_template"),
        ({"auth_address": "https://keystone:port/v3"}, "cinder_store_auth_address"),
        ({"auth_address": "https:///v3"}, "cinder_store_auth_address"),
        ({"endpoint_template": "cinder/%(tenant)s"}, "cinder_endpoint_template"),
        ({"endpoint_template": "http://cinder/%(other)s"}, "cinder_endpoint_template"),
        ({"attachment_retry_attempts": 0}, "cinder_attachment_retry_attempts"),
        ({"initial_size": 0}, "cinder_store_initial_size"),
        ({"my_ip": "storage.example.org"}, "cinder_store_my_ip"),
    ],
)
def test_what_cannot_be_used_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.ConfigError, match=said) as caught:
        settings(**options)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_the_catalog_of_a_context_may_have_an_alias() -> None:
    endpoints = [{"interface": "public", "url": "http://cinder/v3/p"}]
    context = RequestContext(
        "token", service_catalog=[{"type": "block-storage", "endpoints": endpoints}]
    )
    assert _endpoint(settings(), context) == "http://cinder/v3/p"


@pytest.mark.parametrize(
    ("template", "catalog"),
    [
        ("http://%(project_id)s/v3", None),
        (None, "http://[::1/v3"),
        (None, "http://user:s3cret\uff0f@cinder/v3"),
    ],
)
def test_endpoints_of_a_context_that_are_none(template: str | None, catalog: str | None) -> None:
    endpoints = [{"interface": "public", "url": catalog}]
    context = RequestContext(
        "token", "[::1", service_catalog=[{"type": "volumev3", "endpoints": endpoints}]
    )
    with pytest.raises(errors.InvalidArgument, match=r"endpoint.*no URL") as caught:
        Clients(settings(endpoint_template=template)).of(context)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def brick_exceptions() -> list[Any]:
    brick: Any = pytest.importorskip("os_brick.exception")
    found = [each for each in vars(brick).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, brick.BrickException)]


def test_what_os_brick_says() -> None:
    """With its values, and what is missing of them marked, not the template of the message."""
    store = CinderStore("x")
    brick = pytest.importorskip("os_brick.exception")
    found = store._classify(brick.TargetPortalNotFound(target_portal="10.0.0.1"))
    assert isinstance(found, errors.Unavailable)
    assert "os-brick: TargetPortalNotFound: Unable to find target portal 10.0.0.1" in str(found)
    # As it raises this one itself.
    found = store._classify(brick.VolumeDeviceNotFound())
    assert "VolumeDeviceNotFound: Volume device not found at (unknown)." in str(found)
    found = store._classify(brick.VolumeEncryptionNotSupported(volume_id="5d0a"))
    assert "not supported for (unknown) volume 5d0a." in str(found)


def test_no_exception_of_os_brick_shows_its_template() -> None:
    """Whether it is an error, or a line of a log."""
    store = CinderStore("x")
    for kind in brick_exceptions():
        names = re.findall(r"%\((\w+)\)", kind.message)
        for given in ({}, {name: f"<{name}>" for name in names}):
            exc = kind(**given)
            found = store._classify(exc)
            for text in (str(found), describe(exc)):
                assert "%(" not in text
                assert all(value in text for value in given.values()), kind
    assert len(brick_exceptions()) > 20


def test_what_a_helper_says() -> None:
    daemon = pytest.importorskip("oslo_privsep.daemon")
    found = classify(daemon.FailedToDropPrivileges("privsep helper command exited non-zero (1)"))
    assert isinstance(found, errors.PermissionDenied)
    assert "command exited non-zero (1)" in str(found)


def test_what_the_client_of_cinder_says() -> None:
    """Its own errors are no answers of Cinder, and have texts."""
    sdk = pytest.importorskip("cinderclient.exceptions")
    found = classify(sdk.UnsupportedVersion("Server doesn't support the minimal version '3.54'."))
    assert "UnsupportedVersion: Server doesn't support the minimal version '3.54'." in str(found)


@pytest.mark.parametrize("secret", ["s3cret-text", Secret("s3cret-text")])
def test_secrets_are_kept_as_such(secret: Any) -> None:
    """What was given as text is not shown where objects are dumped, either."""
    store = CinderStore("x", **USER | {"password": secret, "application_credential_id": secret})
    found = store._settings.credentials
    assert found is not None
    assert found.options["password"] == Secret("s3cret-text")
    shown = repr(vars(store)) + repr(vars(store._settings)) + repr(vars(found))
    assert "s3cret-text" not in shown + repr(found.options)


def test_insecure_goes_before_the_authorities() -> None:
    assert settings(ca_certificates_file="/ca.pem").verify == "/ca.pem"
    assert settings(ca_certificates_file="/ca.pem", api_insecure=True).verify is False
    assert settings(endpoint_template="https://host/v3/%(tenant)s").verify is True


class Answer(Exception):
    """An answer as python-cinderclient raises it."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


Answer.__module__ = "cinderclient.exceptions"


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (Answer(401), errors.PermissionDenied),
        (Answer(403), errors.PermissionDenied),
        (Answer(404), errors.NotFound),
        (Answer(413, "VolumeLimitExceeded: Maximum number of volumes allowed"), errors.StorageFull),
        (Answer(413, "Requested volume exceeds allowed gigabytes quota"), errors.StorageFull),
        (Answer(413, "Over limit"), errors.Throttled),
        (Answer(429), errors.Throttled),
        (Answer(500), errors.Unavailable),
        (Answer(503), errors.Unavailable),
        (Answer(400, "Invalid input"), errors.StoreError),
    ],
)
def test_answers(exc: Exception, kind: type[errors.StoreError]) -> None:
    found = classify(exc)
    assert type(found) is kind
    assert str(getattr(exc, "message", "")) in str(found)


@pytest.mark.parametrize(("size", "gib"), [(0, 1), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)])
def test_sizes_of_volumes(size: int, gib: int) -> None:
    assert whole_gib(size) == gib


def test_a_cluster_as_cinder_describes_it() -> None:
    """Monitors have addresses of either kind; the key is given, or read from /etc/ceph."""
    data: dict[str, Any] = {
        "hosts": ["10.0.0.1", "[fd00::1]"],
        "ports": ["6789", "3300"],
        "auth_username": "nobody-at-all",
        "cluster_name": "absent",
        "keyring": "[client.x]\nkey = k",
    }
    text = _configuration(data)
    assert "mon_host = 10.0.0.1:6789,[fd00::1]:3300" in text
    assert text.endswith("[client.x]\nkey = k\n")
    path = r"/etc/ceph/absent\.client\.nobody-at-all\.keyring"
    with pytest.raises(errors.StoreError, match=path):
        _configuration(data | {"keyring": None})


def test_what_a_connection_tells_is_secret() -> None:
    """os-brick logs none of the keyring and the passwords with which it connects."""

    class Attachments:
        def update(self, attachment_id: str, connector: dict[str, Any]) -> dict[str, Any]:
            keyring = "[client.cinder]\n\tkey = AQBx-of-a-keyring==\n"
            inside: dict[str, Any] = {"secret_type": "ceph", "serverToken": "token-of-powerflex"}
            inside["portals"] = [{"dhchap_secret": "DHHC-1:00:of-nvme:"}]
            found = {"keyring": keyring, "auth_password": "chap-password", "data": inside}
            return {"connection_info": found}

    class Asked:
        attachments = Attachments()

    redaction = Redaction()
    found = Api(None, Asked(), None, patience=Patience(0), redaction=redaction).connect(
        "attachment", {}
    )
    assert found["auth_password"] == "chap-password"
    assert redaction.text("key AQBx-of-a-keyring== and chap-password") == "key *** and ***"
    assert redaction.text("token-of-powerflex, DHHC-1:00:of-nvme:") == "***, ***"
    assert redaction.text("/etc/ceph") == "/etc/ceph"
    assert found["data"]["portals"][0]["dhchap_secret"] == "DHHC-1:00:of-nvme:"


def test_every_connector_that_may_log_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    """Filters of their common parent would not see what they log."""
    connectors = pytest.importorskip("os_brick.initiator.connectors")
    names = {each.name for each in pkgutil.iter_modules(connectors.__path__)} - {"fake"}
    store = CinderStore("x", **USER | {"password": "s3cret-text"})
    for name in names:
        logging.getLogger(f"{connectors.__name__}.{name}").warning("serverToken s3cret-text")
    assert len(caplog.records) == len(names)
    assert {each.getMessage() for each in caplog.records} == {"serverToken ***"}
    store.close()
