"""What errors of the VMware store mean, and which may pass."""

from __future__ import annotations

import http.client
import socket
import ssl
from xml.parsers.expat import ExpatError, ParserCreate

import pytest
from pyVmomi import vim, vmodl

from imgstore import errors
from imgstore.drivers.vmware.errors import classify, may_pass, means, name_of


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (vim.fault.FileNotFound(), errors.NotFound),
        (vim.fault.FileAlreadyExists(), errors.AlreadyExists),
        (vim.fault.FileLocked(), errors.InUse),
        (vim.fault.NoDiskSpace(), errors.StorageFull),
        (vim.fault.NoPermission(), errors.PermissionDenied),
        (vim.fault.NotAuthenticated(), errors.PermissionDenied),
        (vim.fault.InvalidLogin(), errors.PermissionDenied),
        (vim.fault.Timedout(), errors.TimedOut),
        (vim.fault.InvalidState(), errors.StoreError),
        (vim.fault.FileFault(), errors.StoreError),
        (vim.fault.TaskInProgress(), errors.InUse),
        (vim.fault.InvalidDatastorePath(), errors.NotFound),
        (vmodl.fault.ManagedObjectNotFound(), errors.Unavailable),
        (vmodl.fault.NotSupported(), errors.Unsupported),
        (vmodl.fault.SystemError(), errors.StoreError),
    ],
)
def test_faults_of_the_api(fault: Exception, kind: type[Exception]) -> None:
    found = classify(fault)
    assert type(found) is kind
    assert means(fault, type(found))


def test_a_fault_is_what_it_derives_from() -> None:
    """Servers are newer than the table."""
    fault = vim.fault.InvalidDatastore(msg="  it is\ngone ", name="x")
    assert name_of(fault) == "InvalidDatastore"
    found = classify(fault)
    assert isinstance(found, errors.NotFound)
    assert found.reason == "the server answers InvalidDatastore: it is gone"
    derived = vim.fault.InaccessibleDatastore(name="x")
    assert isinstance(classify(derived), errors.Unavailable)


def _parse(document: bytes) -> Exception:
    parser = ParserCreate()
    try:
        parser.Parse(document, True)
    except ExpatError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (http.client.HTTPException("503 Service Unavailable"), errors.Unavailable),
        (http.client.HTTPException("403 Forbidden"), errors.PermissionDenied),
        (http.client.HTTPException("something else"), errors.StoreError),
        (http.client.RemoteDisconnected("closed"), errors.Unavailable),
        (http.client.BadStatusLine("x"), errors.StoreError),
        (ssl.SSLEOFError(8, "EOF occurred"), errors.Unavailable),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), errors.PermissionDenied),
        (ssl.SSLError(1, "wrong version number"), errors.StoreError),
        (ConnectionRefusedError(111, "Connection refused"), errors.Unavailable),
        (socket.gaierror(-2, "Name or service not known"), errors.Unavailable),
        (TimeoutError("timed out"), errors.TimedOut),
        (ExpatError("not well-formed"), errors.Unavailable),
        (http.client.HTTPException("200 OK"), errors.Unavailable),
        (http.client.HTTPException("502 Bad Gateway"), errors.Unavailable),
        (_parse(b"<a><b"), errors.Unavailable),
        (_parse(b"<a><b>"), errors.Unavailable),
        (_parse(b""), errors.Unavailable),
        (_parse(b"<html><br></html>"), errors.Unavailable),
        (_parse(b"404"), errors.Unavailable),
        (http.client.IncompleteRead(b"x", 7), errors.Unavailable),
        (http.client.BadStatusLine("HTTP/1"), errors.Unavailable),
        (http.client.BadStatusLine("HTTP/1.1 2"), errors.Unavailable),
    ],
)
def test_connections(exc: Exception, kind: type[Exception]) -> None:
    assert type(classify(exc)) is kind


def test_others_are_not_ours() -> None:
    assert classify(ValueError("x")) is None
    assert not means(ValueError("x"), errors.StoreError)
    assert means(errors.Throttled(), errors.Unavailable)


def test_what_may_pass() -> None:
    """A server that said nothing is not asked again: each time takes as long."""
    assert may_pass(ConnectionResetError(104, "reset"))
    assert may_pass(errors.Unavailable())
    assert may_pass(http.client.HTTPException("503 Service Unavailable"))
    assert may_pass(vmodl.fault.ManagedObjectNotFound())
    assert not may_pass(TimeoutError())
    assert not may_pass(errors.TimedOut())
    assert not may_pass(vim.fault.InvalidLogin())
