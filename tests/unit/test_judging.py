"""The sinks of the page on judging: signatures and formats are judged before the commit."""

from __future__ import annotations

import runpy
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from oslo_utils.imageutils import format_inspector

from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.tree

PAGE = Path(__file__).resolve().parents[2] / "docs" / "judging.md"
DATA = b"an image" * 100_000
METHODS = ("SHA-224", "SHA-256", "SHA-384", "SHA-512")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FilesystemStore]:
    with FilesystemStore("images", datadir=str(tmp_path / "images")) as made:
        yield made


@pytest.fixture(params=["signatures", "formats"])
def sinks(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    _, _, rest = PAGE.read_text("utf-8").partition(f":caption: {request.param}.py\n")
    (tmp_path / f"{request.param}.py").write_text(rest.partition("```")[0], "utf-8")
    return runpy.run_path(str(tmp_path / f"{request.param}.py"))


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module", params=[ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def ec_key(request: pytest.FixtureRequest) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(request.param())


def stored(store: FilesystemStore) -> list[str]:
    root = Path(str(store.url_prefix).removeprefix("file://"))
    return [path.name for path in root.rglob("*") if path.is_file()] if root.is_dir() else []


@pytest.mark.parametrize("sinks", ["signatures"], indirect=True)
class TestSignatures:
    @pytest.mark.parametrize("method", METHODS)
    def test_rsa_pss(
        self, store: FilesystemStore, sinks: Any, rsa_key: rsa.RSAPrivateKey, method: str
    ) -> None:
        algorithm = sinks["HASHES"][method]()
        pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.MAX_LENGTH)
        signature = rsa_key.sign(DATA, pss, algorithm)
        self._judge(store, sinks, rsa_key.public_key(), signature, method)

    @pytest.mark.parametrize("method", METHODS)
    def test_ecc(
        self, store: FilesystemStore, sinks: Any, ec_key: ec.EllipticCurvePrivateKey, method: str
    ) -> None:
        signature = ec_key.sign(DATA, ec.ECDSA(sinks["HASHES"][method]()))
        self._judge(store, sinks, ec_key.public_key(), signature, method)

    def _judge(
        self, store: FilesystemStore, sinks: Any, key: Any, signature: bytes, method: str
    ) -> None:
        def signed() -> Any:
            return sinks["Signed"](key, signature, method)

        with pytest.raises(InvalidSignature):
            store.add("image", DATA[:-1] + b"!", sinks=[signed()])
        assert stored(store) == []
        store.add("image", DATA, sinks=[signed()])


def qcow2(*, features: int = 0) -> bytes:
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 30)
    header = header.ljust(0x48, b"\0") + struct.pack(">Q", features)
    return header.ljust(64 * 1024, b"\0")


def vmdk(extent: str) -> bytes:
    text = f'# Disk DescriptorFile\nversion=1\ncreateType="monolithicSparse"\n{extent}\n'
    header = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, 2048, 128, 1, 20, 512, 0, 26)
    return header.ljust(512, b"\0") + text.encode().ljust(1 << 20, b"\0")


def iso(boot: bytes = b"") -> bytes:
    return boot.ljust(32 * 1024, b"\0") + b"\1CD001\1".ljust(32 * 1024, b"\0")


def gpt() -> bytes:
    partition = struct.pack("<B3BB3BII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 2047)
    return b"".ljust(446, b"\0") + partition.ljust(64, b"\0") + b"\x55\xaa"


GOOD = {
    "qcow2": qcow2(),
    "vmdk": vmdk('RW 2048 SPARSE "disk.vmdk"'),
    "iso": iso(),
    "gpt": gpt() + bytes(64 * 1024),
    "raw": DATA,
}
BAD = {
    "a short one with a backing file": struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72, 11, 9, 0, 0, 0, 0, 512, 1, 0, 0
    )
    + b"/etc/passwd",
    "a data file": qcow2(features=1 << 2),
    "unknown features": qcow2(features=1 << 40),
    "a foreign extent": vmdk('RW 2048 FLAT "/etc/passwd" 0'),
    "an ISO that is a disk": iso(gpt()),
}


@pytest.mark.parametrize("sinks", ["formats"], indirect=True)
class TestFormats:
    @pytest.mark.parametrize("name", GOOD)
    def test_a_format_is_allowed_or_not(
        self, store: FilesystemStore, sinks: Any, name: str
    ) -> None:
        others = [each for each in GOOD if each != name]
        with pytest.raises(format_inspector.ImageFormatError):
            store.add("image", GOOD[name], sinks=[sinks["Formats"](*others)])
        assert stored(store) == []
        image = store.add("image", GOOD[name], sinks=[sinks["Formats"](name)])
        store.delete(image.location)

    @pytest.mark.parametrize("name", BAD)
    def test_what_reads_other_files_is_refused(
        self, store: FilesystemStore, sinks: Any, name: str
    ) -> None:
        refusals = (format_inspector.SafetyCheckFailed, format_inspector.ImageFormatError)
        with pytest.raises(refusals):
            store.add("image", BAD[name], sinks=[sinks["Formats"](*GOOD)])
        assert stored(store) == []
