"""Images in S3: AWS, Ceph's object gateway and other services that speak its protocol."""

from imgstore.drivers.s3.store import S3Store

__all__ = ["S3Store"]
