"""Directories of file stores, as configurations write them."""

from __future__ import annotations

import io

import glance_store
import pytest
from glance_store import multi_backend


def store(name):
    return glance_store.get_store_from_store_identifier(name)


def added(name, image_id="x"):
    return glance_store.add(None, image_id, io.BytesIO(b"data"), 4, name)[0]


@pytest.mark.parametrize("text", ["{tmp}//a/", "{tmp}/b/../a", "{tmp}/a//", "/{tmp}/a"])
def test_urls_are_those_of_glance_store(service, text):
    """They begin with the text of the option, and rows of old are found by it."""
    text = text.format(tmp=service.tmp_path)
    (service.tmp_path / "b").mkdir()
    service.multi(a="file", b="file", options={"a": {"filesystem_store_datadir": text}})
    url = added("a")
    slash = "" if text.endswith("/") else "/"
    assert url == f"file://{text}{slash}x"
    assert (service.tmp_path / "a" / "x").read_bytes() == b"data"
    assert url.startswith(store("a").url_prefix)
    assert f"file://{service.tmp_path}/a/x".startswith(store("a").url_prefix)
    assert store("a").datadir == text
    assert multi_backend._candidates(url, "file")[0][0] == "a"
    assert b"".join(glance_store.get(url, None)[0]) == b"data"
    glance_store.delete(url, "a")
    assert not (service.tmp_path / "a" / "x").exists()


def test_several(service):
    place = service.tmp_path
    texts = [f"{place}//one/ : 5", f"{place}/two:1", f"{place}/./three"]
    given = {"filesystem_store_datadir": None, "filesystem_store_datadirs": texts}
    service.multi(a="file", options={"a": given})
    assert added("a") == f"file://{place}//one/x"
    assert set(store("a").url_prefix) == {
        *(f"file://{place}/{name}/" for name in ("one", "two", "three")),
        f"file://{place}//one/",
        f"file://{place}/./three/",
    }


def test_a_path_that_leads_elsewhere(service):
    """By its text the image would not be found: the URL tells where it lies."""
    (service.tmp_path / "far" / "deep").mkdir(parents=True)
    (service.tmp_path / "link").symlink_to(service.tmp_path / "far" / "deep")
    text = f"{service.tmp_path}/link/../a"
    service.multi(a="file", options={"a": {"filesystem_store_datadir": text}})
    assert added("a") == f"file://{service.tmp_path}/a/x"
    assert (service.tmp_path / "a" / "x").exists()
