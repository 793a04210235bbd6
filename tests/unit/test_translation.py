"""Statuses of HTTP as errors."""

from __future__ import annotations

import pytest

from imgstore import errors
from imgstore.boundary.translation import status_class


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.StoreError),
        (401, errors.PermissionDenied),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (407, errors.PermissionDenied),
        (408, errors.Unavailable),
        (410, errors.NotFound),
        (416, errors.InvalidRange),
        (418, errors.StoreError),
        (429, errors.Throttled),
        (500, errors.Unavailable),
        (501, errors.Unsupported),
        (503, errors.Unavailable),
        (507, errors.StorageFull),
        (599, errors.Unavailable),
    ],
)
def test_statuses(status, expected):
    """Each means what its document says; what no document knows is the server's fault or ours."""
    assert status_class(status) is expected


def test_what_a_backend_means():
    """Its own meanings go first."""
    own = {404: errors.ConfigError, 409: errors.AlreadyExists}
    assert status_class(404, own) is errors.ConfigError
    assert status_class(409, own) is errors.AlreadyExists
    assert status_class(403, own) is errors.PermissionDenied
