"""A wheel as an arm: unpacked beside what is installed, in front of it for this arm alone."""

import contextlib
import email
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

OWN_NAME = "chipscale"
INSTALL_TIMEOUT_S = 600.0
"""Torch's wheel is 2 GB unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelName:
    """What a wheel says it is."""

    name: str
    """In lower case."""
    version: str

    @property
    def is_own(self) -> bool:
        """A chipscale, and not something that chipscale uses."""
        return self.name == OWN_NAME


def read_wheel(path: Path) -> WheelName:
    """What the wheel says it is.

    Raises:
        ConfigError: when the file is not there, or is no wheel.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such wheel. `pip wheel --no-deps .` makes one.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
            text = archive.read(names[0]).decode("utf-8") if names else ""
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, KeyError) as error:
        raise ConfigError(f"{path} is no wheel, or a damaged one: {error}.") from None
    said = email.message_from_string(text)
    if not said["Name"] or not said["Version"]:
        raise ConfigError(f"{path} is no wheel: it has no METADATA that tells name and version.")
    return WheelName(name=str(said["Name"]).lower(), version=str(said["Version"]))


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder that holds the wheel, to be put in front of the import path.

    Raises:
        ConfigError: with pip's last words when it does not install here.
    """
    with tempfile.TemporaryDirectory(prefix="chipscale-gate-") as scratch:
        folder = Path(scratch) / "wheel"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--disable-pip-version-check", "--target", str(folder), str(path.resolve())]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"{path} was not installed within {INSTALL_TIMEOUT_S:g} s by pip."
            ) from None
        if done.returncode:
            words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise ConfigError(
                f"{path} does not install here: {words[-1] if words else 'pip did not say why'}"
            )
        yield folder
