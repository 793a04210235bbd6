"""The options of an S3 store: names, defaults, units."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

_CHECKSUM_MODES: Final = ("when_required", "when_supported")

OPTIONS: Final[dict[str, cfg.Opt]] = {
    "host": cfg.StrOpt(
        "s3_store_host",
        help="Endpoint of the S3 service: http://host, https://host, or host alone, which means "
        "https; each with an optional :port and /path. IPv6 addresses may stand in brackets.",
    ),
    "bucket": cfg.StrOpt(
        "s3_store_bucket",
        help="Bucket for images.",
    ),
    "region_name": cfg.StrOpt(
        "s3_store_region_name",
        default="",
        help="Region that requests are signed for. Unset, it is read from the name of an AWS "
        "endpoint, otherwise it is the AWS SDK's default.",
    ),
    "access_key": cfg.StrOpt(
        "s3_store_access_key",
        secret=True,
        help="Access key ID. Unset, the AWS SDK looks for credentials: in the environment, in its "
        "shared files, by web identity, in the role of the container or instance.",
    ),
    "secret_key": cfg.StrOpt(
        "s3_store_secret_key",
        secret=True,
        help="Secret access key that belongs to s3_store_access_key.",
    ),
    "session_token": cfg.StrOpt(
        "s3_store_session_token",
        secret=True,
        help="Session token of temporary credentials, beside s3_store_access_key and "
        "s3_store_secret_key. It cannot be renewed: prefer a role.",
    ),
    "profile": cfg.StrOpt(
        "s3_store_profile",
        help="Profile in the AWS SDK's shared files to take credentials from, instead of static "
        "keys.",
    ),
    "create_bucket_on_put": cfg.BoolOpt(
        "s3_store_create_bucket_on_put",
        default=False,
        help="Create the bucket when an image is added and there is none.",
    ),
    "bucket_url_format": cfg.StrOpt(
        "s3_store_bucket_url_format",
        default="auto",
        choices=("auto", "virtual", "path"),
        help="Where requests name the bucket: in the host (virtual) or in the path (path). auto is "
        "virtual for endpoints of AWS where the bucket's name allows it, and path for all others.",
    ),
    "key_prefix": cfg.StrOpt(
        "s3_store_key_prefix",
        default="",
        help="Text before the image id in the names of objects, without '/'.",
    ),
    "large_object_size": cfg.IntOpt(
        "s3_store_large_object_size",
        default=100,
        min=0,
        help="Images of at least so many MiB are uploaded in parts, smaller ones in one request "
        "and from memory. Those of unknown size are uploaded in parts unless they end inside the "
        "first one.",
    ),
    "large_object_chunk_size": cfg.IntOpt(
        "s3_store_large_object_chunk_size",
        default=10,
        min=5,
        max=5120,
        help="MiB of each part, at least 5 and at most 5120. Parts grow where 10,000 of them "
        "would not do.",
    ),
    "thread_pools": cfg.IntOpt(
        "s3_store_thread_pools",
        default=10,
        min=1,
        help="Parts that are in memory at once, being uploaded or read, at least 1. Uploads that "
        "are under way together share them, but each may have two.",
    ),
    "upload_memory": cfg.IntOpt(
        "s3_store_upload_memory",
        default=256,
        min=10,
        help="MiB that the parts of one upload may take in memory. Fewer parts are under way where "
        "they are large, but always two.",
    ),
    "get_workers": cfg.IntOpt(
        "s3_store_get_workers",
        default=1,
        min=1,
        help="Ranges of one image that are read at once. More than 1 pays on slow links and takes "
        "8 MiB of memory each.",
    ),
    "cacert": cfg.StrOpt(
        "s3_store_cacert",
        default="",
        help="Path of a PEM file with the certificate authorities that the endpoint is verified "
        "by. Unset, the AWS SDK's own are used.",
    ),
    "insecure": cfg.BoolOpt(
        "s3_store_insecure",
        default=False,
        help="Accept the endpoint without verifying its certificate. Has no effect where "
        "s3_store_cacert is set.",
    ),
    "payload_signing": cfg.BoolOpt(
        "s3_store_payload_signing",
        default=True,
        help="Sign what is uploaded over plain http, with a SHA-256 of every part. Without it, and "
        "over https, parts carry an MD5 instead.",
    ),
    "conditional_writes": cfg.BoolOpt(
        "s3_store_conditional_writes",
        default=True,
        help="The server honours If-None-Match when an object is put. Without it images are looked "
        "for before each add, and simultaneous adds of one id may replace each other.",
    ),
    "enable_data_integrity_protection": cfg.BoolOpt(
        "s3_store_enable_data_integrity_protection",
        default=False,
        help="Let s3_store_request_checksum_calculation and "
        "s3_store_response_checksum_validation decide; without it both are when_required, which "
        "suits servers that do not know the checksums of S3, such as Ceph before 19.",
    ),
    "request_checksum_calculation": cfg.StrOpt(
        "s3_store_request_checksum_calculation",
        default="when_required",
        choices=_CHECKSUM_MODES,
        help="When the AWS SDK adds a checksum to requests. Needs "
        "s3_store_enable_data_integrity_protection.",
    ),
    "response_checksum_validation": cfg.StrOpt(
        "s3_store_response_checksum_validation",
        default="when_required",
        choices=_CHECKSUM_MODES,
        help="When the AWS SDK compares the checksums of answers. Needs "
        "s3_store_enable_data_integrity_protection.",
    ),
    "storage_class": cfg.StrOpt(
        "s3_store_storage_class",
        help="Storage class of new images, such as STANDARD_IA. Unset, the server's default.",
    ),
    "server_side_encryption": cfg.StrOpt(
        "s3_store_server_side_encryption",
        choices=("", "AES256", "aws:kms", "aws:kms:dsse"),
        help="How the server encrypts new images: AES256, aws:kms or aws:kms:dsse. Unset, the "
        "bucket's default.",
    ),
    "sse_kms_key_id": cfg.StrOpt(
        "s3_store_sse_kms_key_id",
        help="Key for s3_store_server_side_encryption = aws:kms. Unset, the account's default key.",
    ),
    "connect_timeout": cfg.FloatOpt(
        "s3_store_connect_timeout",
        default=10.0,
        min=0.001,
        help="Seconds that connecting to the endpoint may take, for each attempt.",
    ),
    "read_timeout": cfg.FloatOpt(
        "s3_store_read_timeout",
        default=60.0,
        min=0.001,
        help="Seconds to wait for an answer, and for each piece of a body, for each attempt.",
    ),
    "retry_mode": cfg.StrOpt(
        "s3_store_retry_mode",
        default="legacy",
        choices=("legacy", "standard", "adaptive"),
        help="How the AWS SDK repeats a request that failed. legacy waits longer each time; "
        "standard and adaptive give up early when many requests fail at once.",
    ),
    "max_attempts": cfg.IntOpt(
        "s3_store_max_attempts",
        default=7,
        min=1,
        help="How often a request is sent at most. 7 in the mode legacy bridge about half a minute "
        "without a server.",
    ),
    "max_pool_connections": cfg.IntOpt(
        "s3_store_max_pool_connections",
        default=50,
        min=1,
        help="Idle connections that are kept for later requests. More than these may be open.",
    ),
}
