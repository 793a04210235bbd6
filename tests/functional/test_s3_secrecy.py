"""A store of S3 shows no secret, whoever logs, when all goes well or nothing does."""

from __future__ import annotations

from typing import Any

import pytest
from servers.radosgw import RadosGateway, User
from servers.secrecy import WRONG, Caplog, Shown, nowhere

from imgstore.drivers.s3 import S3Store

pytestmark = pytest.mark.servers("radosgw", "ceph")


def test_keys_and_tokens(radosgw: RadosGateway, s3_user: User, bucket: Any, caplog: Caplog) -> None:
    """Keys, and the token of a session."""
    shown = Shown(caplog)
    session = radosgw.session(s3_user, seconds=900)
    right = {"access_key": s3_user.access_key, "secret_key": s3_user.secret_key}
    lent = {
        "access_key": session.access_key,
        "secret_key": session.secret_key,
        "session_token": session.token,
    }
    quick = {"max_attempts": 1, "connect_timeout": 2.0, "region_name": "us-east-1"}
    for options in (
        right,
        lent,
        right | {"secret_key": WRONG},
        lent | {"session_token": "another-session-token"},
        right | {"host": f"http://{nowhere()}"},
    ):
        given = {"host": radosgw.url(), "bucket": bucket.name, **quick, **options}
        store = S3Store("s3", **given)
        shown.smoke(store, f"{store.url_prefix}/missing")
    assert "botocore" in shown.text()
    assert "X-Amz-Security-Token" in shown.text() or "x-amz-security-token" in shown.text()
    shown.has_none_of([*right.values(), *lent.values(), WRONG, "another-session-token"])
