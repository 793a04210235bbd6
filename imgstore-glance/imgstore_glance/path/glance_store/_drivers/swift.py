"""OpenStack Swift."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import imgstore
from glance_store._store import ImgStore, StoreLocation, setting
from glance_store.driver import BackendGroupConfiguration
from imgstore.drivers.swift import SwiftStore

__all__ = ["BaseStore", "Store", "StoreLocation"]

_MB: Final = 1_024_000  # what Swift's options call a megabyte
_OF_ONE_ACCOUNT: Final = ("swift://", "swift+http://", "swift+https://")

# Tests replace this and the method below; nothing uses them.
swiftclient: Any = None


class BaseStore(ImgStore):
    """Containers, of one account or of its users' accounts."""

    KIND = SwiftStore
    container = setting("swift_store_container")
    large_object_size = setting("swift_store_large_object_size", unit=_MB)
    large_object_chunk_size = setting("swift_store_large_object_chunk_size", unit=_MB)
    _credentials = ""

    def get_store_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Do nothing: imgstore has connections of its own."""

    def _prepare(self, store: imgstore.Store) -> None:
        """Note what glance_store puts into URLs, without which it could not read them again.

        A reference file, an application credential or accounts of users keep it out of them.
        """
        conf = BackendGroupConfiguration((), self.backend_group, self.conf)
        user, key = conf.swift_store_user, conf.swift_store_key
        apart = conf.swift_store_multi_tenant or conf.swift_store_application_credential_id
        self._credentials = f"{quote(user)}:{quote(key)}@" if user and key and not apart else ""

    def _written(self, at: imgstore.Location) -> str:
        return self._with_credentials(at.url)

    def _with_credentials(self, url: str) -> str:
        if not url.startswith(_OF_ONE_ACCOUNT):
            return url
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{self._credentials}{rest}"

    def _prefixes(self, store: imgstore.Store) -> Any:
        """Return prefixes with and without credentials."""
        found = super()._prefixes(store) or ()
        plain = (found,) if isinstance(found, str) else found
        return tuple(dict.fromkeys([*map(self._with_credentials, plain), *plain])) or None

    def _has_acls(self) -> bool:
        """Tell it of a store that failed too: who may read images is not to be passed over."""
        return bool(self.settings["swift_store_multi_tenant"])


class Store(BaseStore):
    """The store, by the name that every driver has."""
