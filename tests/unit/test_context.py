"""Who asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from imgstore.context import RequestContext
from imgstore.errors import InvalidArgument
from imgstore.secret import Secret


def test_no_repr_shows_the_token():
    """The token is a Secret however it was given; the catalog is not shown either."""
    for token in ("hunter2", Secret("hunter2")):
        context = RequestContext(token, "project", "user", ["admin"], [{"url": "catalog"}])
        assert "hunter2" not in f"{context} {context!r}"
        assert "catalog" not in repr(context)
        assert context.auth_token == Secret("hunter2")


def test_a_context_may_be_empty():
    """Every field may be missing."""
    context = RequestContext()
    assert context.auth_token is None
    assert context.token is None
    assert tuple(context.roles) == ()


def test_the_librarys_own_context_and_none_pass():
    """What is a RequestContext already stays the same object."""
    context = RequestContext("token")
    assert RequestContext.of(context) is context
    assert RequestContext.of(None) is None


def test_a_services_context_is_taken():
    """An object shaped like oslo.context's is taken as it is, with or without a catalog."""
    other = SimpleNamespace(auth_token="t", project_id="p", user_id="u", roles=None)
    context = RequestContext.of(other)
    assert context == RequestContext("t", "p", "u", ())
    other.roles, other.service_catalog = ["admin"], [{"type": "object-store"}]
    assert RequestContext.of(other).roles == ("admin",)
    assert RequestContext.of(other).service_catalog == [{"type": "object-store"}]


@pytest.mark.parametrize("missing", ["auth_token", "project_id", "user_id", "roles"])
def test_another_shape_is_refused_by_name(missing):
    """An object without one of the attributes is refused with its name, never with a token."""
    other = SimpleNamespace(auth_token="hunter2", project_id="p", user_id="u", roles=())
    delattr(other, missing)
    with pytest.raises(InvalidArgument, match=missing) as caught:
        RequestContext.of(other)
    assert "hunter2" not in str(caught.value)
