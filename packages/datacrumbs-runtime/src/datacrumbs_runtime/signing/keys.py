"""The keys that sign probe files, and the files that hold them.

Beside each other in the data directory:

* ``.datacrumbs-probe-secret``: 64 hex characters, the secret of hmac-sha256 (root, 0400).
* ``.datacrumbs-probe-ed25519``: 64 hex characters, the private key, on signing nodes (root, 0400).
* ``datacrumbs-probe-ed25519.pub``: 64 hex characters, its public key, all that other nodes need.
* ``.datacrumbs-probe-retired/ALGORITHM.KEYID.UNTIL``: keys that verify until UNTIL (seconds since
  the epoch) and sign no more: the secret (hmac-sha256) or the public key (ed25519).
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_document import CHECKSUM_ALGORITHMS

HMAC_SHA256, ED25519 = CHECKSUM_ALGORITHMS
SECRET_NAME = ".datacrumbs-probe-secret"  # noqa: S105  a file name
PRIVATE_NAME = ".datacrumbs-probe-ed25519"
PUBLIC_NAME = "datacrumbs-probe-ed25519.pub"
RETIRED_NAME = ".datacrumbs-probe-retired"
KEY_BYTES = 32

_SIGNING_FILE = {HMAC_SHA256: SECRET_NAME, ED25519: PRIVATE_NAME}
_KEY_TEXT = re.compile(r"[0-9a-f]{64}\n?")
_RETIRED_FILE = re.compile(r"(hmac-sha256|ed25519)\.([0-9a-f]{16})\.([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        algorithm: ``hmac-sha256`` or ``ed25519``.
        key_id: 16 hex characters that name it in probe files; they tell nothing about a secret.
        verifying: The secret (hmac-sha256) or the public key (ed25519).
        signing: The secret or the private key; None: this key only verifies here.
        until: Seconds since the epoch after which it verifies nothing; None: it is in use.
    """

    algorithm: str
    key_id: str
    verifying: bytes
    signing: bytes | None = None
    until: int | None = None

    def __repr__(self) -> str:
        # Keys must not get into a log by accident.
        return f"Key({self.algorithm!r}, {self.key_id!r})"

    def sign(self, message: bytes) -> str:
        """Return the signature in hex."""
        signing = _signing_half(self)
        if self.algorithm == HMAC_SHA256:
            return hmac.new(signing, message, hashlib.sha256).hexdigest()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(signing).sign(message).hex()

    def verifies(self, message: bytes, signature: str) -> bool:
        """Return whether the signature (hex) is this key's, in constant time."""
        if self.algorithm == HMAC_SHA256:
            expected = hmac.new(self.verifying, message, hashlib.sha256).hexdigest()
            # As bytes: of strings it takes ASCII only, and this one is anybody's.
            return hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            public = Ed25519PublicKey.from_public_bytes(self.verifying)
            public.verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True


def hmac_key(secret: bytes, until: int | None = None) -> Key:
    """Return the hmac-sha256 key with this secret."""
    return Key(HMAC_SHA256, _key_id(HMAC_SHA256, secret), secret, secret, until)


def ed25519_key(private: bytes) -> Key:
    """Return the ed25519 key with this private half."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return Key(ED25519, _key_id(ED25519, public), public, private)


def ed25519_public_key(public: bytes, until: int | None = None) -> Key:
    """Return the ed25519 key with this public half; it only verifies."""
    return Key(ED25519, _key_id(ED25519, public), public, None, until)


def _key_id(algorithm: str, verifying: bytes) -> str:
    return hashlib.sha256(f"datacrumbs {algorithm} key id\n".encode() + verifying).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of an installation."""

    keys: tuple[Key, ...]

    def signing_key(self, algorithm: str) -> Key:
        """Return the key that signs with this algorithm now.

        Raises:
            SigningError: There is none here.
        """
        for key in self.keys:
            if key.algorithm == algorithm and key.signing is not None and key.until is None:
                return key
        raise SigningError(
            f"no {algorithm} key to sign with",
            hint=f"make one with datacrumbs_sign_probes --create-key {algorithm}",
        )

    def candidates(self, algorithm: str, key_id: str | None) -> Iterator[Key]:
        """Yield the keys that a signature may be from; all of the algorithm without a key id."""
        for key in self.keys:
            if key.algorithm == algorithm and key_id in (None, key.key_id):
                yield key


def load_keys(data_dir: Path, owner_uid: int = 0, *, public_only: bool = False) -> KeyRing:
    """Read all keys of an installation, checking who else could have.

    Args:
        data_dir: Where the key files are.
        owner_uid: Who must own them.
        public_only: Read only those that everybody may read.

    Raises:
        SigningError: There is no key, or a key file has the wrong owner, mode or content.
    """
    keys: list[Key] = []
    _check_directory(data_dir, owner_uid)
    for name, make in (
        (SECRET_NAME, hmac_key),
        (PRIVATE_NAME, ed25519_key),
        (PUBLIC_NAME, ed25519_public_key),
    ):
        if public_only and name != PUBLIC_NAME:
            continue
        content = _read_key_file(data_dir / name, owner_uid, secret=name != PUBLIC_NAME)
        if content is not None:
            key = make(content)
            if all(known.key_id != key.key_id for known in keys):
                keys.append(key)
    if not public_only:
        keys += _retired_keys(data_dir / RETIRED_NAME, owner_uid)
    if not keys:
        raise SigningError(
            f"{data_dir / SECRET_NAME}: No such file",
            hint="make one with datacrumbs_sign_probes --create-key hmac-sha256",
        )
    return KeyRing(tuple(keys))


def create_key(data_dir: Path, algorithm: str = HMAC_SHA256) -> Key | None:
    """Make the key of an algorithm if there is none; never touch an existing one.

    Returns:
        The new key, or None if there was one.

    Raises:
        SigningError: It could not be written.
    """
    key = _new_key(algorithm)
    written = _write(data_dir / _SIGNING_FILE[algorithm], _signing_half(key), 0o400, replace=False)
    if written and algorithm == ED25519:
        _write(data_dir / PUBLIC_NAME, key.verifying, 0o444, replace=True)
    return key if written else None


def rotate_key(data_dir: Path, algorithm: str, keep_s: int, owner_uid: int = 0) -> Key:
    """Put a new key in the place of the present one, which goes on verifying for a while.

    Args:
        data_dir: Where the key files are.
        algorithm: Which key.
        keep_s: How long files that the old key signed stay valid, in seconds.
        owner_uid: Who must own the key files.

    Returns:
        The new key.

    Raises:
        SigningError: There is no key to replace, or the new one could not be written.
    """
    old = load_keys(data_dir, owner_uid).signing_key(algorithm)
    new = _new_key(algorithm)
    retired = data_dir / RETIRED_NAME
    try:
        retired.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SigningError(f"{retired}: {error.strerror}") from error
    # The old key is kept before it is replaced: a crash in between leaves both, never neither.
    until = int(time.time()) + keep_s
    name = f"{algorithm}.{old.key_id}.{until}"
    _write(retired / name, old.verifying, 0o400, replace=True)
    _write(data_dir / _SIGNING_FILE[algorithm], _signing_half(new), 0o400, replace=True)
    if algorithm == ED25519:
        _write(data_dir / PUBLIC_NAME, new.verifying, 0o444, replace=True)
    return new


def _signing_half(key: Key) -> bytes:
    if key.signing is None:
        raise SigningError(f"key {key.key_id}: its private half is not on this node")
    return key.signing


def _new_key(algorithm: str) -> Key:
    content = secrets.token_bytes(KEY_BYTES)
    return hmac_key(content) if algorithm == HMAC_SHA256 else ed25519_key(content)


def _retired_keys(directory: Path, owner_uid: int) -> list[Key]:
    keys = []
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SigningError(f"{directory}: {error.strerror}") from error
    _check_directory(directory, owner_uid)
    for name in names:
        if name.startswith(".new-"):
            continue
        match = _RETIRED_FILE.fullmatch(name)
        if match is None:
            raise SigningError(f"{directory / name}: not named ALGORITHM.KEYID.UNTIL")
        content = _read_key_file(directory / name, owner_uid, secret=match[1] == HMAC_SHA256)
        if content is None:
            continue
        make = hmac_key if match[1] == HMAC_SHA256 else ed25519_public_key
        key = make(content, until=int(match[3]))
        if key.key_id != match[2]:
            raise SigningError(f"{directory / name}: holds key {key.key_id}")
        keys.append(key)
    return keys


def _check_directory(directory: Path, owner_uid: int) -> None:
    try:
        status = directory.stat()
    except OSError as error:
        raise SigningError(f"{directory}: {error.strerror}") from error
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise SigningError(
            f"{directory}: others may write here, and so replace keys",
            hint=f"chmod go-w {directory}",
        )


def _read_key_file(path: Path, owner_uid: int, *, secret: bool) -> bytes | None:
    """Return the key in a file, or None if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "only root reads this key" if isinstance(error, PermissionError) else None
        raise SigningError(f"{path}: {error.strerror}", hint=hint) from error
    try:
        status = os.fstat(fd)
        text = os.read(fd, 2 * KEY_BYTES + 2).decode("ascii", errors="replace")
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise SigningError(f"{path}: not a regular file")
    if status.st_uid != owner_uid:
        raise SigningError(
            f"{path}: belongs to uid {status.st_uid}, not to {owner_uid}",
            hint="whoever could write it may know the key: make a new one",
        )
    forbidden = 0o077 if secret else 0o022
    if status.st_mode & forbidden:
        what = "readable or writable" if secret else "writable"
        raise SigningError(
            f"{path}: {what} by others, its mode is {stat.S_IMODE(status.st_mode):04o}",
            hint=f"others may know this key: replace it, or chmod {'400' if secret else '444'}",
        )
    if not _KEY_TEXT.fullmatch(text):
        raise SigningError(f"{path}: does not hold 64 hexadecimal digits")
    return bytes.fromhex(text.rstrip("\n"))


def _write(path: Path, content: bytes, mode: int, *, replace: bool) -> bool:
    """Write a key file that appears whole or not at all.

    Returns:
        False if there is one already and ``replace`` is not set.
    """
    temporary = path.parent / f".new-{secrets.token_hex(8)}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.write(fd, content.hex().encode() + b"\n")
            os.fchmod(fd, mode)
            os.fsync(fd)
            if replace:
                temporary.replace(path)
            else:
                # Unlike rename, link never replaces a file that is there.
                os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.close(fd)
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
    return True
