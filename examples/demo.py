"""Store a real disk image, read it back, verify it and delete it, showing each step.

The image is an ext4 file system that mke2fs(8) makes for the occasion, or the file that the
environment variable IMAGE names. Everything else is in a temporary directory, which goes away.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from imgstore import StoredImage, StoreManager
from imgstore.errors import ImgStoreError, NotFound

MIB = 1024 * 1024
SUPERBLOCK = 1024  # where an ext4 file system describes itself, as many bytes long
MAGIC_AT = 56  # s_magic: https://docs.kernel.org/filesystems/ext4/super.html
MAGIC = b"\x53\xef"  # 0xEF53, little-endian
CONFIGURATION = """\
[DEFAULT]
enabled_backends = fast:file

[glance_store]
default_backend = fast

[fast]
store_description = The demonstration's own directory
filesystem_store_datadir = {datadir}
filesystem_thin_provisioning = true
"""


class DemoError(Exception):
    """Something is not as it must be; the text says what."""


def main() -> int:
    """Run the demonstration; return 1 if anything is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the directory is removed
    try:
        with tempfile.TemporaryDirectory(prefix="imgstore-demo-") as directory:
            demonstrate(Path(directory))
    except (DemoError, ImgStoreError, OSError, subprocess.CalledProcessError) as exc:
        print(f"\nThe demonstration failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; everything that was made here is gone again.", file=sys.stderr)
        return 130
    print("\nDone. Everything that was made here is gone again.")
    return 0


def demonstrate(directory: Path) -> None:
    step("1. A disk image")
    given = os.environ.get("IMAGE")
    path = Path(given).resolve() if given else make_image(directory)
    if not path.is_file():
        raise DemoError(f"IMAGE={given} is not a file")
    expected = fingerprint(path)
    show("file", path)
    show("size", amount(path.stat().st_size))
    show("sha256", f"{expected}  (by hashlib, from the file)")
    datadir = directory / "images"
    configuration = directory / "images.conf"
    configuration.write_text(CONFIGURATION.format(datadir=datadir))
    step("2. A store, from this configuration file")
    print("".join(f"   | {line}\n" for line in configuration.read_text().splitlines()), end="")
    with StoreManager.from_file(configuration) as stores:
        for name, store in stores.items():
            show("store", f"{name}: {store!r}")
        require(stores.check() == [], "check() finds no fault with it")
        image = add(stores, path, expected)
        show("in the directory", listing(datadir))
        read_range(stores, image, path, is_ext4=not given)
        read_whole(stores, image, path, expected)
        delete(stores, image, datadir)


def make_image(directory: Path) -> Path:
    """Return an ext4 file system with a few files in it."""
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise DemoError(
            "mke2fs, which makes the disk image, is missing. Install it:\n"
            "    sudo apt-get install -y e2fsprogs\n"
            "or bring an image of your own:\n"
            "    make demo IMAGE=path"
        )
    content = directory / "content"
    (content / "etc").mkdir(parents=True)
    (content / "etc" / "hostname").write_text("demo\n")
    (content / "data.bin").write_bytes(random.Random(0).randbytes(24 * MIB))
    path = directory / "disk.img"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    command = [program, "-q", "-t", "ext4", "-d", str(content), str(path)]
    show("command", " ".join(command))
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return path


def add(stores: StoreManager, path: Path, expected: str) -> StoredImage:
    step("3. Add the image")
    began = time.monotonic()
    image = stores.add(str(uuid.uuid4()), path, size=path.stat().st_size)
    show("took", f"{time.monotonic() - began:.2f} s, flushed to the disk")
    show("location", image.location.url)
    show("size", amount(image.size))
    show("sha256", f"{image.digests['sha256']}  (by the store, on the way in)")
    require(image.size == path.stat().st_size, "the size is that of the file")
    require(image.digests == {"sha256": expected}, "the digest is that of the file")
    return image


def read_range(stores: StoreManager, image: StoredImage, path: Path, *, is_ext4: bool) -> None:
    step("4. Read a range")
    offset = min(SUPERBLOCK, image.size)
    with stores.get(image.location, offset=offset, length=SUPERBLOCK) as reader:
        part = reader.read()
        show("bytes", f"{offset} to {offset + reader.size} of {reader.image_size}")
    with path.open("rb") as file:
        file.seek(offset)
        require(part == file.read(SUPERBLOCK), "they are the same as in the file")
    magic = part[MAGIC_AT : MAGIC_AT + len(MAGIC)]
    show("magic number", f"{magic.hex(' ') or 'none'}  (53 ef is that of ext4)")
    if is_ext4:
        require(magic == MAGIC, "this is the superblock of an ext4 file system")


def read_whole(stores: StoreManager, image: StoredImage, path: Path, expected: str) -> None:
    step("5. Read the whole image")
    digest = hashlib.sha256()
    began = time.monotonic()
    with stores.get(image.location) as reader, path.open("rb") as file:
        for chunk in reader:
            digest.update(chunk)
            if chunk != file.read(len(chunk)):
                raise DemoError("a chunk differs from the file")
        rest = file.read(1)
    show("took", f"{time.monotonic() - began:.2f} s, with digest and comparison")
    show("sha256", f"{digest.hexdigest()}  (by hashlib, from the store)")
    require(rest == b"", "it is the file, byte for byte")
    require(digest.hexdigest() == expected, "the digest is that of the file")


def delete(stores: StoreManager, image: StoredImage, datadir: Path) -> None:
    step("6. Delete the image")
    stores.delete(image.location)
    show("in the directory", listing(datadir))
    require(list(datadir.iterdir()) == [], "the directory is empty")
    try:
        stores.get(image.location)
    except NotFound as exc:
        show("get() now raises", f"NotFound: {exc}")
    else:
        raise DemoError("the image can still be read")


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, computed without the library."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def listing(directory: Path) -> str:
    names = []
    for path in sorted(directory.iterdir()):
        status = path.stat()
        size, space = amount(status.st_size), amount(status.st_blocks * 512)
        names.append(f"{path.name}, {size}, of which {space} take space")
    return "; ".join(names) or "nothing"


def amount(size: int) -> str:
    return f"{size} bytes ({size / MIB:.1f} MiB)"


def step(title: str) -> None:
    print(f"\n{title}")


def show(name: str, value: object) -> None:
    print(f"   {name:<17} {value}")


def require(holds: bool, what: str) -> None:  # noqa: FBT001  # the sentence is the subject
    if not holds:
        raise DemoError(f"this does not hold: {what}")
    print(f"   ok: {what}")


if __name__ == "__main__":
    sys.exit(main())
