"""Files that only their owner may read, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.errors import BusmeshError, IdentityError, NotFound
from busmesh.identity.profile import UNREADABLE, is_p256
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle

MAX_FILE = 256 * 1024
#: Windows keeps rights elsewhere, and its mode bits say nothing.
_POSIX = os.name == "posix"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def corrupt(path: Path, reason: str) -> IdentityError:
    """Return the error for a file whose content is of no use."""
    return IdentityError(
        f"{path} is corrupt: {reason}",
        code="BM4503",
        hint="restore it, or move it away so that it is made anew",
    )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say which file it was, when what was read from it turns out to be of no use."""
    try:
        yield
    except NotFound:
        raise
    except BusmeshError as error:
        if error.code in {"BM4502", "BM4503"}:
            raise
        raise corrupt(path, error.message) from error


def private_folder(path: Path) -> Path:
    """Return the folder ``path``, made with mode 0700 if missing, with those above it.

    Raises:
        IdentityError: it exists and others may look into it (code BM4502), or it is a file (BM4503).
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):  # `mkdir(parents=True)` would leave those above to the umask
            folder.mkdir(mode=0o700, exist_ok=True)
        if not path.is_dir():
            raise NotADirectoryError
    except (FileExistsError, NotADirectoryError):
        raise corrupt(path, "it is not a folder") from None
    _check_private(path)
    return path


def _check_private(folder: Path) -> None:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if _POSIX and mode & _OTHERS:
        raise _exposed(folder, mode, "700")


def write(path: Path, data: bytes, *, anywhere: bool = False) -> None:
    """Replace the file ``path`` by ``data``, mode 0600.

    Args:
        path: the file.
        data: its new content.
        anywhere: also in a folder that others may look into, because the user chose it.

    Raises:
        IdentityError: the folder is open to others (code BM4502).
        OSError: the disk is full or not writable; the old file is untouched.
    """
    folder = path.parent if anywhere else private_folder(path.parent)
    draft = folder / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if _POSIX:  # the rename itself must survive a power cut too
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path, *, secret: bool, most: int = MAX_FILE) -> bytes:
    """Return the content of ``path``.

    Args:
        path: of a regular file.
        secret: refuse the file if others can read it; else only if others can write it.
        most: bytes that it may have.

    Raises:
        NotFound: there is none (code BM4501).
        IdentityError: open to others (code BM4502), or not such a file (BM4503).
    """
    try:
        # Without O_NONBLOCK, a FIFO in place of the file would hold the process for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{path} does not exist", code="BM4501", hint="is BUSMESH_HOME set, and has `busmesh up` run?"
        ) from None
    except OSError as error:
        raise corrupt(path, error.strerror or "it cannot be opened") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise corrupt(path, "it is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if _POSIX and mode & (_OTHERS if secret else _OTHERS_WRITE):
            raise _exposed(path, mode, "600")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise corrupt(path, f"it is larger than {most} bytes")
    return data


def read_pair(path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the certificate and the key from a ``.key`` file.

    Raises:
        NotFound, IdentityError: as `read` does, or its folder is open to others (code BM4502), who could put
            another key in its place.
    """
    pem = read(path, secret=True)
    _check_private(path.parent)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
    except UNREADABLE:
        raise corrupt(path, "it does not hold a key and its certificate") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key):
        raise corrupt(path, "its key is not on P-256")
    return certificate, key


def write_pair(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the ``.key`` file ``path`` and, beside it, the certificate alone as ``.crt``."""
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(path, key_pem + certificate_pem)
    write(path.with_suffix(".crt"), certificate_pem)


def read_svid(path: Path) -> Svid:
    """Return the SVID in a ``.key`` file.

    Raises:
        NotFound, IdentityError: as `read` does.
    """
    certificate, key = read_pair(path)
    with naming(path):
        return Svid.of(certificate.public_bytes(serialization.Encoding.DER), key)


def write_svid(path: Path, svid: Svid) -> None:
    """Write an SVID as `write_pair` does."""
    write_pair(path, svid.certificate, svid.private_key)


def read_trust(path: Path, mesh: str) -> TrustBundle:
    """Return the trust bundle in a PEM file; anybody may read it.

    Raises:
        NotFound, IdentityError: as `read` does.
    """
    pem = read(path, secret=False)
    with naming(path):
        return TrustBundle.from_pem(pem, mesh)


def _exposed(path: Path, mode: int, wanted: str) -> IdentityError:
    return IdentityError(
        f"{path} has mode {mode:o}: others may have read or changed it",
        code="BM4502",
        hint=f"chmod {wanted} {path}",
    )
