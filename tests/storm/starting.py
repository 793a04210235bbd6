"""Backends of a storm with servers of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from servers.buckets import bucket
from servers.ceph import ceph
from servers.cinder import cinder as run_cinder
from servers.containers import container
from servers.keystone import keystone
from servers.pools import RbdPool, admin, make_pool
from servers.radosgw import radosgw
from servers.scratch import Scratch
from servers.swift import swift as run_swift
from servers.vsphere import vsphere

from storm import backends
from storm.storming import Backend


@contextlib.contextmanager
def file(scratch: Scratch, directory: Path) -> Iterator[Backend]:
    """A directory."""
    with backends.file(directory) as backend:
        yield backend


@contextlib.contextmanager
def _s3(scratch: Scratch, directory: Path, *, parts: bool) -> Iterator[Backend]:
    with ceph(scratch, store="bluestore") as cluster, radosgw(scratch, cluster) as gateway:
        user = gateway.user("storm")
        with (
            bucket(gateway, user) as made,
            backends.s3(directory, made, parts=parts) as backend,
        ):
            yield backend


def s3_whole(scratch: Scratch, directory: Path) -> contextlib.AbstractContextManager[Backend]:
    """A bucket; images in one request each."""
    return _s3(scratch, directory, parts=False)


def s3_parts(scratch: Scratch, directory: Path) -> contextlib.AbstractContextManager[Backend]:
    """A bucket; images in parts."""
    return _s3(scratch, directory, parts=True)


@contextlib.contextmanager
def rbd(scratch: Scratch, directory: Path) -> Iterator[Backend]:
    """A pool."""
    with ceph(scratch, store="bluestore") as cluster, admin(cluster) as client:
        pool = make_pool(cluster, client, "images")
        with backends.rbd(directory, pool) as backend:
            yield backend


@contextlib.contextmanager
def vmware_one(scratch: Scratch, directory: Path) -> Iterator[Backend]:
    """One datastore."""
    with (
        vsphere(scratch) as server,
        backends.vmware(directory, server, datastores=["DC0:images"]) as backend,
    ):
        yield backend


@contextlib.contextmanager
def vmware_two(scratch: Scratch, directory: Path) -> Iterator[Backend]:
    """Two datastores, between which free space decides."""
    with (
        vsphere(scratch) as server,
        backends.vmware(directory, server, datastores=["DC0:images", "F0/DC1:images"]) as backend,
    ):
        yield backend


@contextlib.contextmanager
def _swift(scratch: Scratch, directory: Path, *, segments: bool) -> Iterator[Backend]:
    with keystone(scratch) as tokens, run_swift(scratch, tokens) as server:
        user = tokens.user("storm", project="storm")
        with (
            container(user) as made,
            backends.swift(directory, server, made, segments=segments) as backend,
        ):
            yield backend


def swift_whole(scratch: Scratch, directory: Path) -> contextlib.AbstractContextManager[Backend]:
    """A container; images as single objects, where their size is known."""
    return _swift(scratch, directory, segments=False)


def swift_segments(scratch: Scratch, directory: Path) -> contextlib.AbstractContextManager[Backend]:
    """A container; images in segments."""
    return _swift(scratch, directory, segments=True)


@contextlib.contextmanager
def cinder(scratch: Scratch, directory: Path) -> Iterator[Backend]:
    """Volumes in a pool."""
    with (
        keystone(scratch) as tokens,
        ceph(scratch, store="bluestore", mgr=True) as cluster,
        run_cinder(scratch, tokens, cluster) as server,
        admin(cluster) as client,
    ):
        pool = RbdPool(cluster, client, "volumes", server.user)  # type: ignore[arg-type]
        with backends.cinder(directory, server, pool) as backend:
            yield backend
