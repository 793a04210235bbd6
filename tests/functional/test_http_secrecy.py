"""No store shows a secret, whoever logs at whatever level, when all goes well or nothing does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import pytest
from servers.nginx import PASSWORD, USER, Nginx
from servers.secrecy import WRONG, Caplog, Shown, echo_server, nowhere

from imgstore import RequestContext, Store
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.http import HttpStore
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.swift import SwiftStore

pytestmark = pytest.mark.servers("nginx")

TOKEN: Final = "gAAAA-token-of-a_user-2f1b8c"
ID: Final = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def test_http(nginx: Nginx, caplog: Caplog) -> None:
    """Credentials and a query of the location, and those of the proxy."""
    (nginx.root / "image").write_bytes(b"data")
    shown = Shown(caplog)
    url = nginx.url("files/image") if callable(getattr(nginx, "url", None)) else ""
    for place in (url, f"http://{nowhere()}/image"):
        for password in (PASSWORD, WRONG):
            user = f"{USER}:{quote(password, safe='')}"
            at = place.replace("://", f"://{user}@") + "?sig=signature-of-the-query"
            for options in ({}, {"http": f"http://me:{quote(WRONG, safe='')}@{nowhere()}"}):
                store = HttpStore("web", proxy_information=options, read_timeout=5.0)
                shown.smoke(store, at)
    assert "urllib3" in shown.text()
    shown.has_none_of([PASSWORD, WRONG, "signature-of-the-query"])


# Servers, or proxies before them, that give back what they were sent.


def s3_at(url: str) -> Store:
    keys = {"access_key": "AKIDEXAMPLE", "secret_key": WRONG, "session_token": TOKEN}
    return S3Store("s3", host=url, bucket="images", region_name="us-east-1", max_attempts=1, **keys)


def swift_v1_at(url: str) -> Store:
    return SwiftStore(
        "swift",
        auth_version="1",
        auth_address=f"{url}/auth/v1.0",
        user="account:user-of-account",
        key=WRONG,
        max_attempts=1,
    )


def swift_v3_at(url: str) -> Store:
    return SwiftStore(
        "swift", auth_address=url, user="project:user-of-project", key=WRONG, max_attempts=1
    )


def swift_tenants_at(url: str) -> Store:
    return SwiftStore("swift", multi_tenant=True, endpoint=f"{url}/v1/AUTH_account", max_attempts=1)


def cinder_at(url: str) -> Store:
    return CinderStore("cinder", endpoint_template=f"{url}/v3/%(tenant)s", http_retries=0)


def http_at(url: str) -> Store:
    return HttpStore("web")


ECHOED: dict[str, tuple[Callable[[str], Store], str]] = {
    "s3": (s3_at, "s3://{host}/images/x"),
    "swift, tempauth": (swift_v1_at, "swift+http://{host}/auth/v1.0/glance/x"),
    "swift, Keystone": (swift_v3_at, "swift+http://{host}/v3/glance/x"),
    "swift, tenants": (swift_tenants_at, "swift+http://{host}/v1/AUTH_account/glance/x"),
    "cinder": (cinder_at, f"cinder://{ID}"),
    "http": (http_at, f"http://user:{quote(WRONG, safe='')}@{{host}}/x?sig=signature-of-it"),
}


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize(("make", "at"), ECHOED.values(), ids=ECHOED)
def test_what_gives_back_requests(
    make: Callable[[str], Store], at: str, status: int, caplog: Caplog
) -> None:
    """What a server says is never shown where it holds a secret of the request."""
    shown = Shown(caplog)
    context = RequestContext(token=TOKEN, project_id="project", user_id="user")
    with echo_server(status) as url, make(url) as store:
        where = at.format(host=url.partition("://")[2])
        for verb in (store.size, store.get, store.delete):
            shown.call(lambda verb=verb: verb(where, context=context))  # type: ignore[misc]
        shown.call(lambda: store.add("image", b"data", context=context))
        shown.call(store.check)
    shown.has_none_of([WRONG, TOKEN, "AKIDEXAMPLE", "account:user-of-account", "signature-of-it"])
