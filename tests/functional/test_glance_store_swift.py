"""glance_store's interface on a real Swift: credentials in URLs, as rows of old have them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from as_glance import prefixed, serving
from oslo_config import cfg
from servers.containers import Container

from imgstore.testing.harness import new_id

pytestmark = pytest.mark.servers("swift", "keystone")


@pytest.fixture
def stores(container: Container) -> Iterator[Any]:
    """Return the interface with one store, which a user and a key are given for."""
    user = container.user
    options = {
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
        "container": container.name,
    }
    with serving({"container": "swift"}, container=prefixed("swift_store_", options)) as library:
        yield library


def test_urls_are_those_of_old(stores: Any, container: Container) -> None:
    """They have user and key, so that glance_store reads them; they are read without as well."""
    image_id, user = new_id(), container.user
    found = stores.add_with_multihash(
        cfg.CONF, image_id, io.BytesIO(b"data"), 4, "container", "sha512"
    )
    address = user.url.partition("://")[2].rstrip("/")
    credentials = f"{quote(f'{user.project}:{user.name}')}:{quote(user.password)}@"
    scheme = "swift+https" if user.url.startswith("https") else "swift+http"
    url = f"{scheme}://{credentials}{address}/{container.name}/{image_id}"
    assert (found[0], found[4]) == (url, {"store": "container"})
    for each in (url, url.replace(credentials, "")):
        data, size = stores.get(each, "container", offset=1)
        assert (b"".join(data), size) == (b"ata", 3)
        assert each.startswith(stores.get_store_from_store_identifier("container").url_prefix)
    with pytest.raises(stores.Duplicate) as caught:
        stores.add(cfg.CONF, image_id, io.BytesIO(b"x"), 1, "container")
    assert user.password not in str(caught.value)
    stores.set_acls_for_multi_store(url, "container", public=True)
    stores.delete(url, "container")
    with pytest.raises(stores.NotFound) as caught:
        stores.get(url, None)
    assert user.password not in str(caught.value)
