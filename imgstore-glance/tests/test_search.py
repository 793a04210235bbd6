"""Images that are searched without the name of their store."""

from __future__ import annotations

import io

import glance_store
import pytest
import told_driver
from glance_store import exceptions
from services import RESERVED

from imgstore import errors
from imgstore.model import Ownership

FAULT = {"filesystem_store_file_perm": 688}


@pytest.mark.parametrize("verb", [glance_store.get, glance_store.delete])
@pytest.mark.parametrize("names", ["a", "ab", "ba"])
def test_an_image_that_vanished(service, verb, names):
    """Its store says that it is gone; that others refuse its location does not count."""
    service.multi(reserved=RESERVED, **dict.fromkeys(names, "file"))
    url = glance_store.add(None, "x", io.BytesIO(b"data"), 4, "a")[0]
    glance_store.delete(url, None)
    with pytest.raises(exceptions.NotFound):
        verb(url, None)


@pytest.mark.parametrize("verb", [glance_store.get, glance_store.delete])
@pytest.mark.parametrize("names", [("bad", "a"), ("a", "bad")])
def test_beside_a_store_that_failed(service, verb, names):
    service.multi(options={"bad": FAULT}, reserved=RESERVED, **dict.fromkeys(names, "file"))
    with pytest.raises(exceptions.NotFound):
        verb(f"file://{service.tmp_path}/a/x", None)


def test_one_that_a_link_leads_to(service):
    """No prefix tells whose it is; the store that it is in does."""
    service.multi(a="file", b="file", reserved=RESERVED)
    (service.tmp_path / "link").symlink_to(service.tmp_path / "a")
    with pytest.raises(exceptions.NotFound):
        glance_store.delete(f"file://{service.tmp_path}/link/x", None)


@pytest.mark.parametrize(("one", "two"), [(None, "refuses"), ("refuses", None)])
def test_one_of_which_no_store_is_sure(service, monkeypatch, one, two):
    """That one misses it says little where another one, which may have it, refuses."""
    service.multi(one="told", two="told")
    monkeypatch.setattr(told_driver.ToldStore, "owning", Ownership.MAYBE)
    with pytest.raises(exceptions.NotFound):
        glance_store.delete("memory://other/image", None)
    for name, what in (("one", one), ("two", two)):
        store = glance_store.get_store_from_store_identifier(name).built
        store.raises = what and errors.PermissionDenied(what)
    with pytest.raises(exceptions.Forbidden):
        glance_store.delete("memory://other/image", None)


def test_one_that_is_nowhere(service):
    """Every store refuses to delete it, and one that failed may hold it."""
    service.multi(a="file", reserved=RESERVED)
    with pytest.raises(exceptions.Forbidden):
        glance_store.delete("file:///elsewhere/x", None)
    service.multi(a="file", bad="file", options={"bad": FAULT})
    with pytest.raises(exceptions.BadStoreConfiguration):
        glance_store.get("file:///elsewhere/x", None)
