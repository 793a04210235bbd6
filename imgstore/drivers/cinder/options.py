"""The options of a Cinder store: names, defaults, units."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

from imgstore.boundary.settings import FileOpt

OPTIONS: Final[dict[str, cfg.Opt]] = {
    "catalog_info": cfg.StrOpt(
        "cinder_catalog_info",
        default="volumev3::publicURL",
        help="Where the service catalog has Cinder, as <type>:<name>:<interface>; the name may be "
        "empty. volumev2 stands for volumev3, which replaced it.",
    ),
    "endpoint_template": cfg.StrOpt(
        "cinder_endpoint_template",
        help="URL of Cinder, instead of the one in the caller's catalog; %(tenant)s is that "
        "project's id. Has no effect where the store has credentials of its own.",
    ),
    "os_region_name": cfg.StrOpt(
        "cinder_os_region_name",
        deprecated_name="os_region_name",
        help="Region whose Cinder is used. Unset: the first one in the catalog.",
    ),
    "ca_certificates_file": FileOpt(
        "cinder_ca_certificates_file",
        help="PEM file with the authorities that the certificates of Cinder and Keystone are "
        "verified against, instead of those that come with requests.",
    ),
    "http_retries": cfg.IntOpt(
        "cinder_http_retries",
        default=3,
        min=0,
        help="How often a request to Cinder is sent again that failed.",
    ),
    "state_transition_timeout": cfg.IntOpt(
        "cinder_state_transition_timeout",
        default=300,
        min=0,
        help="Seconds to wait for a volume that is created, extended or deleted.",
    ),
    "api_insecure": cfg.BoolOpt(
        "cinder_api_insecure",
        default=False,
        help="Do not verify the certificates of Cinder and Keystone, whatever "
        "cinder_ca_certificates_file says.",
    ),
    "auth_address": cfg.StrOpt(
        "cinder_store_auth_address",
        help="URL of Keystone for the store's own credentials. With it go cinder_store_user_name, "
        "cinder_store_password and cinder_store_project_name, or an application credential; "
        "otherwise callers need a context.",
    ),
    "user_name": cfg.StrOpt("cinder_store_user_name", help="User who owns all image volumes."),
    "password": cfg.StrOpt(
        "cinder_store_password", secret=True, help="Password of cinder_store_user_name."
    ),
    "project_name": cfg.StrOpt(
        "cinder_store_project_name", help="Project that all image volumes are in."
    ),
    "user_domain_name": cfg.StrOpt(
        "cinder_store_user_domain_name",
        default="Default",
        help="Domain of cinder_store_user_name.",
    ),
    "project_domain_name": cfg.StrOpt(
        "cinder_store_project_domain_name",
        default="Default",
        help="Domain of cinder_store_project_name.",
    ),
    "application_credential_id": cfg.StrOpt(
        "cinder_store_application_credential_id",
        secret=True,
        help="Application credential, which goes before user and password.",
    ),
    "application_credential_secret": cfg.StrOpt(
        "cinder_store_application_credential_secret",
        secret=True,
        help="Secret of cinder_store_application_credential_id.",
    ),
    "rootwrap_config": cfg.StrOpt(
        "rootwrap_config",
        default="/etc/glance/rootwrap.conf",
        help="Accepted and not used: privileged steps are made by oslo.privsep, see the page about "
        "this driver.",
    ),
    "volume_type": cfg.StrOpt(
        "cinder_volume_type", help="Type of new volumes. Unset: Cinder's default type."
    ),
    "enforce_multipath": cfg.BoolOpt(
        "cinder_enforce_multipath",
        default=False,
        help="Refuse to attach volumes where multipath is asked for and multipathd does not run.",
    ),
    "use_multipath": cfg.BoolOpt(
        "cinder_use_multipath",
        default=False,
        help="Attach volumes over several paths where the backend has them.",
    ),
    "my_ip": cfg.IPOpt(
        "cinder_store_my_ip",
        help="Address of this host that Cinder and its storage are told. Unset: the one by which "
        "this host reaches Cinder.",
    ),
    "mount_point_base": cfg.StrOpt(
        "cinder_mount_point_base",
        default="/var/lib/glance/mnt",
        help="Directory below which the exports of nfs backends are mounted.",
    ),
    "do_extend_attached": cfg.BoolOpt(
        "cinder_do_extend_attached",
        default=False,
        help="Extend volumes for images of unknown size without detaching them, where the backend "
        "can.",
    ),
    "attachment_retry_attempts": cfg.IntOpt(
        "cinder_attachment_retry_attempts",
        default=5,
        min=1,
        help="Attempts to attach a volume that is busy.",
    ),
    "initial_size": cfg.IntOpt(
        "cinder_store_initial_size",
        default=1,
        min=1,
        help="Size in GiB of the volume for an image of unknown size.",
    ),
    "extend_step": cfg.IntOpt(
        "cinder_store_extend_step",
        default=50,
        min=0,
        help="How much a volume that is full is extended by, in per cent of its size; at least "
        "1 GiB.",
    ),
    "poll_interval": cfg.FloatOpt(
        "cinder_store_poll_interval",
        default=0.5,
        min=0.05,
        help="Seconds between two looks at a volume that is created, extended or deleted.",
    ),
    "wait_for_delete": cfg.BoolOpt(
        "cinder_store_wait_for_delete",
        default=False,
        help="Let a deletion last until the volume is gone, instead of until Cinder has accepted "
        "it.",
    ),
}
