"""What Glance reads of a store, of one that failed too."""

from __future__ import annotations

import io

import glance_store
import pytest
from glance_store import exceptions, location
from glance_store.capabilities import BitMasks
from services import HAS_CEPH, S3, SWIFT, VMWARE, VOLUME, add, store


class TestFailed:
    @pytest.fixture
    def failed(self, service):
        service.multi(
            a="file",
            r="rbd",
            s="s3",
            w="swift",
            c="cinder",
            v="vmware",
            web="http",
            t="told",
            options={
                "a": {"filesystem_store_file_perm": 688, "weight": 4},
                "r": {"rbd_store_features": ["nonsense"]},
                "c": {"cinder_catalog_info": "nonsense"},
                "web": {"http_denied_networks": ["nonsense"]},
                "t": {"told_needed": "refused"},
                "backend_defaults": {"swift_store_container": "images"},
            },
        )
        return {name: store(name) for name in ("a", "r", "s", "w", "c", "v", "web", "t")}

    def test_they_are_there(self, failed):
        """With their schemes, but without prefix and bit; none takes or gives anything."""
        for name, one in failed.items():
            assert not one.is_capable(BitMasks.WRITE_ACCESS)
            assert one.url_prefix is None
            for scheme in one.get_schemes():
                assert location.SCHEME_TO_CLS_BACKEND_MAP[scheme][name]["store"] is one
            with pytest.raises(exceptions.StoreAddDisabled):
                one.add("x", io.BytesIO(), 0)
            url = {"v": "vsphere://h/x", "c": f"cinder://{VOLUME}"}.get(
                name, f"{one.get_schemes()[0]}://h/x/y"
            )
            for call in (glance_store.get, glance_store.delete):
                with pytest.raises(exceptions.BadStoreConfiguration):
                    call(url, name)

    def test_glance_reads_their_settings(self, failed):
        """Every attribute of the list of stores, with values of [backend_defaults] too."""
        for name, attributes in {
            "a": ("datadir", "chunk_size", "thin_provisioning"),
            "r": ("chunk_size", "pool", "thin_provisioning"),
            "w": ("container", "large_object_size", "large_object_chunk_size"),
            "s": (
                "s3_store_large_object_size",
                "s3_store_large_object_chunk_size",
                "s3_store_thread_pools",
            ),
        }.items():
            for attribute in attributes:
                assert getattr(failed[name], attribute) is not None
        assert failed["w"].container == "images"
        assert failed["a"].weight == 4
        assert failed["c"].store_conf.cinder_volume_type is None
        assert failed["c"].store_conf.cinder_use_multipath is False

    def test_saving_an_image_goes_on(self, failed):
        """ACLs of stores that have none are nobody's concern, in failed stores either."""
        glance_store.set_acls_for_multi_store("file:///x/y", "a", public=True)
        glance_store.set_acls_for_multi_store("swift://h/c/o", "w", public=True)

    def test_acls_of_a_failed_store_are(self, service):
        """That nobody may read an image any more is not passed over."""
        service.multi(w="swift", options={"w": {"swift_store_multi_tenant": True}})
        service.set("w", swift_store_multiple_containers_seed=3)
        store("w").configure()
        with pytest.raises(exceptions.BadStoreConfiguration):
            glance_store.set_acls_for_multi_store("swift://h/c/o", "w")

    def test_they_are_repaired(self, failed, service):
        service.set("a", filesystem_store_file_perm=0)
        failed["a"].configure()
        assert add("a")[1] == 4

    def test_raised_on_request(self, failed):
        with pytest.raises(exceptions.BadStoreConfiguration, match="688"):
            failed["a"].configure(re_raise_bsc=True)


class TestAttributes:
    def test_units(self, service):
        """Bytes, whatever an option counts."""
        service.multi(
            a="file",
            r="rbd",
            s="s3",
            w="swift",
            options={
                "s": {**S3, "s3_store_large_object_size": 7},
                "w": {**SWIFT, "swift_store_large_object_size": 9, "swift_store_container": "c"},
                "r": {"rbd_store_chunk_size": 4, "rbd_store_pool": "p"},
                "backend_defaults": {"rbd_thin_provisioning": True},
            },
        )
        assert store("a").datadir == f"{service.tmp_path}/a"
        assert store("a").chunk_size == 65536  # unset, as Glance's users know it
        service.set("backend_defaults", filesystem_store_chunk_size=4096)
        store("a").configure()
        assert store("a").chunk_size == 4096
        assert (store("r").chunk_size, store("r").pool) == (4 << 20, "p")
        assert store("r").thin_provisioning is True
        assert store("s").s3_store_large_object_size == 7 << 20
        assert (store("w").large_object_size, store("w").container) == (9 * 1_024_000, "c")

    def test_bits(self, service):
        service.multi(a="file", web="http")
        assert store("a").capabilities == (
            BitMasks.READ_RANDOM | BitMasks.WRITE_ACCESS | BitMasks.DRIVER_REUSABLE
        )
        assert store("web").capabilities == BitMasks.READ_RANDOM | BitMasks.DRIVER_REUSABLE
        assert store("a").is_capable(BitMasks.RW_ACCESS, BitMasks.READ_CHUNK)

    def test_prefixes(self, service):
        """Of every place, up to a slash; also what was written before."""
        place = service.tmp_path
        service.multi(
            a="file",
            b="file",
            s="s3",
            w="swift",
            x="swift",
            y="swift",
            z="swift",
            c="cinder",
            v="vmware",
            web="http",
            r="rbd",
            options={
                "a": {"store_also_owns": ["file:///old"]},
                "b": {
                    "filesystem_store_datadir": None,
                    "filesystem_store_datadirs": [f"{place}/b1:1", f"{place}/b2:2"],
                },
                "s": S3,
                "w": SWIFT,
                "x": {**SWIFT, "swift_store_multi_tenant": True},
                "y": {**SWIFT, "swift_store_multiple_containers_seed": 2},
                "z": {
                    **SWIFT,
                    "swift_store_application_credential_id": "i",
                    "swift_store_application_credential_secret": "s",
                },
                "v": VMWARE,
                "r": {"store_also_owns": ["rbd://f/p"]},
            },
        )
        keys = "keys.example.org/v3/glance"
        swifts = ("swift+https", "swift", "swift+http")
        assert {name: store(name).url_prefix for name in service.conf.enabled_backends} == {
            "a": (f"file://{service.tmp_path}/a/", "file:///old/"),
            "b": (f"file://{place}/b2/", f"file://{place}/b1/"),
            "s": tuple(
                f"{each}://s3.example.org/images/" for each in ("s3+https", "s3", "s3+http")
            ),
            "w": (
                *(f"{each}://p%3Au:k/e%3Ay@{keys}/" for each in swifts),
                *(f"{each}://{keys}/" for each in swifts),
            ),
            "x": None,
            "y": (f"swift+https://p%3Au:k/e%3Ay@{keys}_", f"swift+https://{keys}_"),
            "z": tuple(f"{each}://{keys}/" for each in swifts),
            "c": "cinder://c",
            "v": ("vsphere://vc.example.org/folder/openstack_glance/",),
            "web": "http",
            "r": "rbd://" if HAS_CEPH else None,  # without it it fails
        }

    if HAS_CEPH:

        def test_a_cluster_that_is_configured(self, service, tmp_path):
            """Its fsid is taken from the Ceph configuration, and remembered."""
            conf = tmp_path / "ceph.conf"
            conf.write_text(f"[global]\nfsid = {VOLUME}\nmon_host = 127.0.0.1:1\n")
            service.multi(r="rbd", options={"r": {"rbd_store_ceph_conf": str(conf)}})
            assert store("r").url_prefix == f"rbd://{VOLUME}/images/"

    def test_volumes(self, service):
        """Whether one is a store's is asked of Cinder; any error is a no."""
        service.multi(c="cinder")
        assert store("c").is_image_associated_with_store(None, VOLUME) is False
        assert store("c").is_image_associated_with_store(None, "nonsense") is False

    def test_what_tests_of_glance_replace(self):
        from glance_store._drivers import cinder, filesystem, rbd, swift  # noqa: PLC0415

        assert rbd.rados is rbd.rbd is cinder.cinderclient is swift.swiftclient is None
        assert "url_prefix" in vars(cinder.Store)
        assert "is_image_associated_with_store" in vars(cinder.Store)
        for cls, name in (
            (rbd.Store, "get_connection"),
            (cinder.Store, "get_cinderclient"),
            (swift.BaseStore, "get_store_connection"),
            (filesystem.Store, "add"),
        ):
            assert callable(getattr(cls, name))


class TestFiles:
    def test_directories_are_made_at_the_start_and_never_again(self, service):
        """What vanishes is most often a share that is not mounted."""
        service.multi(a="file")
        directory = service.tmp_path / "a"
        assert directory.is_dir()
        directory.rmdir()
        with pytest.raises(exceptions.TimeoutError, match="not available"):
            add("a")
        assert not directory.exists()
        store("a").configure()
        assert directory.is_dir()

    def test_metadata_of_a_file(self, service, tmp_path):
        """What the metadata file has for a mount point, and the store."""
        path = tmp_path / "metadata.json"
        path.write_text(f'{{"id": "nfs1", "mountpoint": "{tmp_path}/a"}}')
        service.multi(a="file", options={"a": {"filesystem_store_metadata_file": str(path)}})
        found = add("a")[-1]
        assert found == {"id": "nfs1", "mountpoint": f"{tmp_path}/a", "store": "a"}
        found.clear()
        assert add("a", "other")[-1]["id"] == "nfs1"
