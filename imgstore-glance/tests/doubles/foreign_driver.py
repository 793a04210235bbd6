"""A driver as others write one for glance_store."""

from __future__ import annotations

import urllib.parse

from glance_store import capabilities, driver, exceptions, location
from glance_store.common import utils
from glance_store.i18n import _
from oslo_config import cfg

IMAGES = {}


class StoreLocation(location.StoreLocation):
    def process_specs(self):
        self.scheme = self.specs.get("scheme", "foreign")
        self.name = self.specs["name"]

    def get_uri(self):
        return f"{self.scheme}://{self.name}"

    def parse_uri(self, uri):
        self.validate_schemas(uri, valid_schemas=("foreign://",))
        parts = urllib.parse.urlparse(uri)
        self.scheme, self.name = parts.scheme, parts.netloc + parts.path


class Store(driver.Store):
    OPTIONS = [
        cfg.StrOpt("foreign_place", default="here", help=_("Where.")),
        cfg.BoolOpt("foreign_is_broken", default=False),
    ]
    _CAPABILITIES = capabilities.BitMasks.RW_ACCESS | capabilities.BitMasks.DRIVER_REUSABLE

    def get_schemes(self):
        return ("foreign",)

    def _option(self, name):
        conf = self.store_conf if self.backend_group else self.conf.glance_store
        return getattr(conf, name)

    def configure_add(self):
        if self._option("foreign_is_broken"):
            raise exceptions.BadStoreConfiguration(store_name="foreign", reason=_("told so"))
        if self.backend_group:
            self._url_prefix = f"foreign://{self._option('foreign_place')}/"

    @driver.back_compat_add
    @capabilities.check
    def add(self, image_id, image_file, image_size, hashing_algo, context=None, verifier=None):
        data = b"".join(utils.chunkreadable(image_file, self.WRITE_CHUNKSIZE))
        place = f"{self._option('foreign_place')}/{image_id}"
        if place in IMAGES:
            raise exceptions.Duplicate(image=image_id)
        if verifier:
            verifier.update(data)
        hashes = [utils.get_hasher(name, usedforsecurity=False) for name in ("md5", hashing_algo)]
        for each in hashes:
            each.update(data)
        IMAGES[place] = data
        at = StoreLocation({"scheme": "foreign", "name": place}, self.conf, self.backend_group)
        metadata = {"store": self.backend_group} if self.backend_group else {}
        return (at.get_uri(), len(data), *(each.hexdigest() for each in hashes), metadata)

    def _data(self, at):
        try:
            return IMAGES[at.store_location.name]
        except KeyError:
            raise exceptions.NotFound(image=at.store_location.name) from None

    @capabilities.check
    def get(self, location, offset=0, chunk_size=None, context=None):
        data = self._data(location)
        return iter([data]), len(data)

    def get_size(self, location, context=None):
        return len(self._data(location))

    @capabilities.check
    def delete(self, location, context=None):
        self._data(location)
        del IMAGES[location.store_location.name]
