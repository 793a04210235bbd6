"""Names of stores: rows of the database have them, so that none can be renamed."""

from __future__ import annotations

import io

import glance_store
import pytest
from glance_store import exceptions
from services import RESERVED

NAMES = ("ceph ssd", "röd", "-x", "glance_store", "description", "stores", "backend_defaults")


@pytest.mark.parametrize("name", NAMES)
def test_any_that_glance_store_takes(service, name):
    """Its store works, and Glance can read the options of its group."""
    service.multi(reserved=RESERVED, ok="file", **{name: "file"}, options={name: {"weight": 7}})
    assert service.conf[name].store_description == ""
    assert glance_store.get_store_weight(name) == 7
    url, size, _, metadata = glance_store.add(None, "x", io.BytesIO(b"data"), 4, name)
    assert (url, size) == (f"file://{service.tmp_path}/{name}/x", 4)
    assert metadata == {"store": name}
    assert b"".join(glance_store.get(url, name)[0]) == b"data"
    glance_store.delete(url, name)


def test_one_that_no_url_can_hold(service):
    """Such a store fails and is shown; the others serve."""
    service.multi(**{"a/b": "file"}, ok="file")
    assert service.conf["a/b"].store_description == ""
    assert glance_store.get_store_weight("a/b") == 0
    with pytest.raises(exceptions.StoreAddDisabled):
        glance_store.add(None, "x", io.BytesIO(b"data"), 4, "a/b")
    assert glance_store.add(None, "x", io.BytesIO(b"data"), 4, "ok")[1] == 4


def test_one_of_an_option(service):
    """The option keeps its value, which the group of the store would hide."""
    service.multi(config_file="told", ok="file")
    assert service.conf.config_file == []
    with pytest.raises(exceptions.StoreAddDisabled):
        glance_store.add(None, "x", io.BytesIO(b"data"), 4, "config_file")
