"""Records what glance_store 5.7.0 writes into URLs and metadata: run it with that installed.

python record_incumbent.py > incumbent.json
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import glance_store
from oslo_config import cfg

VOLUME = "3c2ae8a1-93a7-41f6-a1d2-64ac1d2eb5a0"


def fresh():
    conf = cfg.CONF
    conf.reset()
    conf.clear()
    conf([], project="glance", default_config_files=[], default_config_dirs=[])
    return conf


def file_cases():
    metadata = '{"id": "nfs1", "mountpoint": "<tmp>/one", "nested": {"a": ["b"]}}'
    several = ["<tmp>/two:20", "<tmp>/one:10"]
    options = (
        ({"filesystem_store_datadir": "<tmp>/one"}, {}),
        ({"filesystem_store_datadir": "", "filesystem_store_datadirs": several}, {}),
        (
            {
                "filesystem_store_datadir": "<tmp>/one",
                "filesystem_store_metadata_file": "<tmp>/metadata.json",
            },
            {"<tmp>/metadata.json": metadata},
        ),
    )
    ids = (VOLUME, "id with space", "%41+é")
    for (values, files), image_id, single in itertools.product(options, ids, (True, False)):
        yield {"options": values, "files": files, "id": image_id, "single": single}


def file_result(case):
    with tempfile.TemporaryDirectory() as tmp:
        made = json.loads(json.dumps(case).replace("<tmp>", tmp))
        for name, content in made["files"].items():
            Path(name).write_text(content)
        conf, group = fresh(), "glance_store" if made["single"] else "fast"
        if made["single"]:
            glance_store.register_opts(conf)
            conf.set_override("stores", ["file"], group="glance_store")
        else:
            if "enabled_backends" not in conf:
                conf.register_opt(
                    cfg.Opt("enabled_backends", type=cfg.types.Dict(cfg.types.String()))
                )
            conf.set_override("enabled_backends", {"fast": "file"})
            glance_store.register_store_opts(conf)
            conf.set_override("default_backend", "fast", group="glance_store")
        for name, value in made["options"].items():
            conf.set_override(name, value, group=group)
        data = io.BytesIO(b"data")
        if made["single"]:
            glance_store.create_stores(conf)
            found = glance_store.add_to_backend_with_multihash(conf, made["id"], data, 4, "sha512")
        else:
            glance_store.create_multi_stores(conf)
            found = glance_store.add_with_multihash(conf, made["id"], data, 4, "fast", "sha512")
        return {**case, "result": json.loads(json.dumps(found).replace(tmp, "<tmp>"))}


def located(module, specs, store=None):
    conf = cfg.ConfigOpts()
    glance_store.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    name = f"glance_store._drivers.{module}"
    __import__(name)
    return sys.modules[name].StoreLocation(specs, conf, backend_group=store).get_uri()


def swift_cases():
    users = (("t:u", "k"), ("t:u:x", "a/b:c@d%"), ("tenänt:user name", "k+=&?#é"))
    addresses = ("https://keys.example.org/v3", "http://h:5000/v3/", "https://[::1]:5000/v3")
    for (user, key), address in itertools.product(users, addresses):
        specs = {
            "scheme": "swift+https" if address.startswith("https") else "swift+http",
            "container": "glance",
            "obj": "id1",
            "auth_or_store_url": address,
            "user": user,
            "key": key,
        }
        url = located("swift.store", specs)
        yield {"user": user, "key": key, "address": address, "url": url}


def s3_cases():
    for host in ("http://h:9000", "https://s3.example.org"):
        scheme, _, service = host.partition("://")
        specs = {
            "scheme": "s3" if scheme == "http" else "s3+https",
            "bucket": "images",
            "key": "id1",
            "s3serviceurl": service,
        }
        yield {"host": host, "url": located("s3", specs)}


def rbd_cases():
    for pool, image in (("images", VOLUME), ("a/b", "é +%")):
        specs = {"fsid": VOLUME, "pool": pool, "image": image, "snapshot": "snap"}
        yield {"fsid": VOLUME, "pool": pool, "image": image, "url": located("rbd", specs)}


def cinder_cases():
    client = (
        "cinderclient",
        "cinderclient.apiclient",
        "cinderclient.exceptions",
        "cinderclient.v3",
    )
    for name in ("os_brick", "os_brick.initiator", *client):
        sys.modules.setdefault(name, mock.MagicMock())  # nothing of them is asked
    for store in (None, "bricks"):
        specs = {"scheme": "cinder", "volume_id": VOLUME}
        url = located("cinder.store", specs, store)
        yield {"volume": VOLUME, "store": store or "", "url": url}


def vmware_cases():
    for datastore in ("one", "a b/é"):
        specs = {
            "scheme": "vsphere",
            "server_host": "vc.example.org",
            "image_dir": "/openstack_glance",
            "image_id": VOLUME,
            "datacenter_path": "DC 0",
            "datastore_name": datastore,
        }
        yield {
            "host": "vc.example.org",
            "path": f"openstack_glance/{VOLUME}",
            "datacenter": "DC 0",
            "datastore": datastore,
            "url": located("vmware_datastore", specs),
        }


if __name__ == "__main__":
    recorded = {
        "file": [file_result(case) for case in file_cases()],
        "swift": list(swift_cases()),
        "s3": list(s3_cases()),
        "rbd": list(rbd_cases()),
        "cinder": list(cinder_cases()),
        "vmware": list(vmware_cases()),
    }
    print(json.dumps(recorded, indent=1, ensure_ascii=False))  # noqa: T201
