"""What a machine cannot offer, and whether that is a reason to skip or to fail."""

from __future__ import annotations

import os
import shutil


class Missing(Exception):
    """A server, file system or right that this machine cannot offer.

    ``what`` is the name that IMGSTORE_REQUIRE uses, ``reason`` says what is absent and the remedy.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


def required(what: str) -> bool:
    """Tell whether IMGSTORE_REQUIRE (names separated by commas, or "all") asks for `what`."""
    names = {name.strip() for name in os.environ.get("IMGSTORE_REQUIRE", "").split(",")}
    return bool(names & {what, "all"})


def tool(name: str, *, what: str, package: str) -> str:
    """Return the path of a program, looking into the sbin directories too; raises Missing."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise Missing(what, f"{name} is not installed (apt-get install {package})")
    return found


def root(what: str) -> None:
    """Raise Missing unless this process is root."""
    if os.geteuid() != 0:
        raise Missing(what, "needs root")
