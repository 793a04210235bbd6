"""The options of a VMware store: names, defaults, units."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

OPTIONS: Final[dict[str, cfg.Opt]] = {
    "server_host": cfg.StrOpt(
        "vmware_server_host",
        help="Host of vCenter Server or ESXi: a name or an address, with an optional :port.",
    ),
    "server_port": cfg.PortOpt(
        "vmware_server_port",
        help="Port of the server, unless vmware_server_host has one. Unset: 443.",
    ),
    "server_username": cfg.StrOpt("vmware_server_username", help="User who logs in to the server."),
    "server_password": cfg.StrOpt(
        "vmware_server_password", secret=True, help="Password of vmware_server_username."
    ),
    "datastores": cfg.MultiStrOpt(
        "vmware_datastores",
        default=[],
        help="Datastores for images, as <path of the datacenter>:<datastore>[:<weight>], each in a "
        "line of its own. A colon inside a name is written \\:. New images go to the datastore "
        "with the highest weight, of several such to the one with the most free space.",
    ),
    "datacenter_path": cfg.StrOpt(
        "vmware_datacenter_path",
        default="ha-datacenter",
        help="Path of the datacenter of vmware_datastore_name; the default is that of a host "
        "without vCenter.",
    ),
    "datastore_name": cfg.StrOpt(
        "vmware_datastore_name",
        help="One datastore, as old configuration files have it, instead of vmware_datastores.",
    ),
    "store_image_dir": cfg.StrOpt(
        "vmware_store_image_dir",
        default="/openstack_glance",
        help="Directory for images in each datastore; it is created when it is missing.",
    ),
    "insecure": cfg.BoolOpt(
        "vmware_insecure",
        default=False,
        deprecated_name="vmware_api_insecure",
        help="Do not verify the server's certificate. Has no effect where vmware_ca_file is set.",
    ),
    "ca_file": cfg.StrOpt(
        "vmware_ca_file",
        help="PEM file with the authorities that the server's certificate is verified against, "
        "instead of those that come with requests.",
    ),
    "api_retry_count": cfg.IntOpt(
        "vmware_api_retry_count",
        default=10,
        min=1,
        help="How often a request is sent again whose failure may pass.",
    ),
    "task_poll_interval": cfg.IntOpt(
        "vmware_task_poll_interval",
        default=5,
        min=1,
        help="Longest time in seconds between two looks at a task of the server.",
    ),
    "connect_timeout": cfg.FloatOpt(
        "vmware_connect_timeout", default=10.0, min=0.1, help="Seconds to wait for a connection."
    ),
    "read_timeout": cfg.FloatOpt(
        "vmware_read_timeout",
        default=60.0,
        min=0.1,
        help="Seconds to wait for an answer, or for more data.",
    ),
}
