"""The options of a Swift store: names, defaults, units."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

from imgstore.boundary.settings import FileOpt

MB: Final = 1_024_000  # what this store calls a megabyte, as glance_store does
ENDPOINT_TYPES: Final = ("publicURL", "adminURL", "internalURL")
LARGE_OBJECT_TYPES: Final = ("slo", "dlo")

_IN_FILE: Final = " With swift_store_config_file, the file says it."

OPTIONS: Final[dict[str, cfg.Opt]] = {
    "config_file": FileOpt(
        "swift_store_config_file",
        help="Path of the reference file: an INI file with a section for each account, which "
        "keeps credentials out of locations. A relative one is looked for beside "
        "configuration files. Not together with swift_store_multi_tenant.",
    ),
    "default_swift_reference": cfg.StrOpt(
        "default_swift_reference",
        default="ref1",
        help="Section of swift_store_config_file whose account takes new images.",
    ),
    "auth_version": cfg.StrOpt(
        "swift_store_auth_version",
        default="3",
        help="How tokens are got: from Keystone's API v3, or as Swift's own tempauth and Ceph's "
        f"gateway give them (1). 2 means 3: Keystone's API v2 is gone.{_IN_FILE}",
    ),
    "auth_address": cfg.StrOpt(
        "swift_store_auth_address",
        help="Where tokens are got: the URL of Keystone, or http://host/auth/v1.0 of version 1. "
        f"Without a scheme it is https.{_IN_FILE}",
    ),
    "user": cfg.StrOpt(
        "swift_store_user",
        secret=True,
        help=f"The store's user, as project:user; account:user of version 1.{_IN_FILE}",
    ),
    "key": cfg.StrOpt(
        "swift_store_key",
        secret=True,
        help=f"Password of swift_store_user.{_IN_FILE}",
    ),
    "user_domain_id": cfg.StrOpt(
        "swift_store_user_domain_id",
        help="Domain of swift_store_user; the domain with the id 'default' if neither this nor "
        f"swift_store_user_domain_name is set.{_IN_FILE}",
    ),
    "user_domain_name": cfg.StrOpt(
        "swift_store_user_domain_name",
        help=f"Domain of swift_store_user.{_IN_FILE}",
    ),
    "project_domain_id": cfg.StrOpt(
        "swift_store_project_domain_id",
        help="Domain of swift_store_user's project; the domain with the id 'default' if neither "
        f"this nor swift_store_project_domain_name is set.{_IN_FILE}",
    ),
    "project_domain_name": cfg.StrOpt(
        "swift_store_project_domain_name",
        help=f"Domain of swift_store_user's project.{_IN_FILE}",
    ),
    "application_credential_id": cfg.StrOpt(
        "swift_store_application_credential_id",
        secret=True,
        help="Application credential of Keystone, which is used instead of swift_store_user."
        f"{_IN_FILE}",
    ),
    "application_credential_secret": cfg.StrOpt(
        "swift_store_application_credential_secret",
        secret=True,
        help=f"Secret of swift_store_application_credential_id.{_IN_FILE}",
    ),
    "project_name": cfg.StrOpt(
        "swift_store_project_name",
        help="Accepted for old configuration files: an application credential knows its project.",
    ),
    "project_id": cfg.StrOpt(
        "swift_store_project_id",
        help="Accepted for old configuration files: an application credential knows its project.",
    ),
    "container": cfg.StrOpt(
        "swift_store_container",
        default="glance",
        help="Container for images; where several are used, what their names begin with. Segments "
        "of large images lie in the container of the same name with _segments after it.",
    ),
    "create_container_on_put": cfg.BoolOpt(
        "swift_store_create_container_on_put",
        default=False,
        help="Create the container when an image is added and there is none. Containers for "
        "segments, and those of swift_store_multi_tenant, are created in any case.",
    ),
    "multiple_containers_seed": cfg.IntOpt(
        "swift_store_multiple_containers_seed",
        default=0,
        min=0,
        max=32,
        help="Spread images over containers, whose names end with so many of the first characters "
        "of an image's id: 16 to the power of this. 0: one container. Not for "
        "swift_store_multi_tenant.",
    ),
    "multi_tenant": cfg.BoolOpt(
        "swift_store_multi_tenant",
        default=False,
        help="Keep each image in the account of the user who adds it, in a container of its own. "
        "Every call then needs the user's context.",
    ),
    "admin_tenants": cfg.ListOpt(
        "swift_store_admin_tenants",
        default=[],
        help="ACL entries, such as service:glance or *:admin, that may read and write every "
        "container of swift_store_multi_tenant; separated by commas.",
    ),
    "use_trusts": cfg.BoolOpt(
        "swift_store_use_trusts",
        default=True,
        help="Let the store's own user act for the user of a multi-tenant request while an image "
        "is transferred, by a trust of Keystone, so that the transfer outlives the user's token.",
    ),
    "send_service_token": cfg.BoolOpt(
        "swift_store_send_service_token",
        default=False,
        help="Send a token of the store's own user with every multi-tenant request, beside the "
        "user's: with it Swift accepts tokens that expired during a long operation.",
    ),
    "region": cfg.StrOpt(
        "swift_store_region",
        help="Region of Swift's endpoint in Keystone's catalog. Unset: the first one.",
    ),
    "endpoint": cfg.StrOpt(
        "swift_store_endpoint",
        help="URL of the account, up to but without the container, instead of the catalog's.",
    ),
    "endpoint_type": cfg.StrOpt(
        "swift_store_endpoint_type",
        default="publicURL",
        choices=ENDPOINT_TYPES,
        help="Which of Swift's endpoints in the catalog is used.",
    ),
    "service_type": cfg.StrOpt(
        "swift_store_service_type",
        default="object-store",
        help="Type of Swift's service in the catalog.",
    ),
    "auth_insecure": cfg.BoolOpt(
        "swift_store_auth_insecure",
        default=False,
        help="Verify no certificate, neither Keystone's nor Swift's.",
    ),
    "cacert": cfg.StrOpt(
        "swift_store_cacert",
        help="PEM file with the authorities that certificates of Keystone and Swift are verified "
        "against, instead of those that come with requests.",
    ),
    "large_object_size": cfg.IntOpt(
        "swift_store_large_object_size",
        default=5120,
        min=1,
        help='Size in "MB" of 1,024,000 bytes from which on an image is stored in segments. Swift '
        "takes objects of up to 5 GiB.",
    ),
    "large_object_chunk_size": cfg.IntOpt(
        "swift_store_large_object_chunk_size",
        default=200,
        min=1,
        help='Size of a segment in "MB" of 1,024,000 bytes. One that is larger than '
        "swift_store_upload_memory cannot be sent again when the connection breaks.",
    ),
    "large_object_type": cfg.StrOpt(
        "swift_store_large_object_type",
        default="slo",
        choices=LARGE_OBJECT_TYPES,
        help="How segments become an image: by a static list of them (slo), or by their names "
        "(dlo), for clusters without static large objects.",
    ),
    "upload_workers": cfg.IntOpt(
        "swift_store_upload_workers",
        default=4,
        min=1,
        max=64,
        help="How many segments of one image are sent at once, as far as "
        "swift_store_upload_memory suffices.",
    ),
    "upload_memory": cfg.IntOpt(
        "swift_store_upload_memory",
        default=224,
        min=2,
        help="MiB that an image on its way to Swift may take in memory.",
    ),
    "get_workers": cfg.IntOpt(
        "swift_store_get_workers",
        default=1,
        min=1,
        max=64,
        help="How many ranges of one image are read at once, of 8 MiB each. More than 1 pays on "
        "links with a long way.",
    ),
    "retry_get_count": cfg.IntOpt(
        "swift_store_retry_get_count",
        default=3,
        min=0,
        help="How often a download that broke off goes on where it stopped.",
    ),
    "max_attempts": cfg.IntOpt(
        "swift_store_max_attempts",
        default=7,
        min=1,
        help="How often a request is sent whose failure may pass: again at once, then with pauses "
        "of 1, 2, 4, 8 and 16 s.",
    ),
    "connect_timeout": cfg.FloatOpt(
        "swift_store_connect_timeout",
        default=10.0,
        min=0.1,
        help="Seconds to wait for a connection.",
    ),
    "read_timeout": cfg.FloatOpt(
        "swift_store_read_timeout",
        default=60.0,
        min=0.1,
        help="Seconds to wait for an answer, or for more data.",
    ),
    "expire_soon_interval": cfg.IntOpt(
        "swift_store_expire_soon_interval",
        default=60,
        min=0,
        help="Renew a token when it expires within so many seconds.",
    ),
    "ssl_compression": cfg.BoolOpt(
        "swift_store_ssl_compression",
        default=True,
        help="Accepted for old configuration files: TLS does not compress.",
    ),
    "buffer_on_upload": cfg.BoolOpt(
        "swift_buffer_on_upload",
        default=False,
        help="Accepted for old configuration files: segments are sent again from memory.",
    ),
    "upload_buffer_dir": cfg.StrOpt(
        "swift_upload_buffer_dir",
        help="Accepted for old configuration files: no buffer needs a directory.",
    ),
}
