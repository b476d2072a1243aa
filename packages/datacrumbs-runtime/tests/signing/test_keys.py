"""Keys: who may know them, how they are made and replaced."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.signing import keys

ME = os.geteuid()
SIGN_PROBES = "from datacrumbs_runtime.commands.datacrumbs_sign_probes import main; main()"


def load(directory: Path) -> keys.KeyRing:
    return keys.load_keys(directory, ME)


@pytest.mark.parametrize("algorithm", [keys.HMAC_SHA256, keys.ED25519])
def test_created_key_signs_and_verifies(tmp_path: Path, algorithm: str) -> None:
    made = keys.create_key(tmp_path, algorithm)
    key = load(tmp_path).signing_key(algorithm)
    assert made is not None
    assert key == made
    signature = key.sign(b"message")
    assert key.verifies(b"message", signature)
    assert not key.verifies(b"messagf", signature)
    assert not key.verifies(b"message", f"{int(signature[:2], 16) ^ 1:02x}{signature[2:]}")
    assert not key.verifies(b"message", "")
    assert not key.verifies(b"message", "zz")


def test_secret_is_64_hex_digits_for_its_owner_alone(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    path = tmp_path / ".datacrumbs-probe-secret"
    assert path.stat().st_mode & 0o7777 == 0o400
    text = path.read_text()
    assert len(text.rstrip("\n")) == 64
    int(text, 16)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_existing_key_is_never_touched(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    before = (tmp_path / keys.SECRET_NAME).read_bytes()
    assert keys.create_key(tmp_path) is None
    assert (tmp_path / keys.SECRET_NAME).read_bytes() == before


def test_many_creators_at_once_agree_on_one_key(tmp_path: Path) -> None:
    children = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            made = keys.create_key(tmp_path)
            os._exit(0 if made is None else 1)
        children.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(statuses) == [0] * 19 + [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_private_ed25519_key_is_hidden_and_the_public_one_is_not(tmp_path: Path) -> None:
    keys.create_key(tmp_path, keys.ED25519)
    assert (tmp_path / keys.PRIVATE_NAME).stat().st_mode & 0o7777 == 0o400
    assert (tmp_path / keys.PUBLIC_NAME).stat().st_mode & 0o7777 == 0o444


def test_public_key_alone_verifies_but_does_not_sign(tmp_path: Path) -> None:
    made = keys.create_key(tmp_path, keys.ED25519)
    assert made is not None
    signature = made.sign(b"message")
    (tmp_path / keys.PRIVATE_NAME).unlink()
    ring = load(tmp_path)
    (key,) = ring.candidates(keys.ED25519, made.key_id)
    assert key.verifies(b"message", signature)
    with pytest.raises(SigningError, match="no ed25519 key to sign with"):
        ring.signing_key(keys.ED25519)
    with pytest.raises(SigningError, match="private half is not on this node"):
        key.sign(b"message")


@pytest.mark.parametrize("algorithm", [keys.HMAC_SHA256, keys.ED25519])
def test_rotated_key_goes_on_verifying(tmp_path: Path, algorithm: str) -> None:
    old = keys.create_key(tmp_path, algorithm)
    assert old is not None
    signature = old.sign(b"message")
    new = keys.rotate_key(tmp_path, algorithm, keep_s=3600, owner_uid=ME)
    ring = load(tmp_path)
    assert ring.signing_key(algorithm).key_id == new.key_id != old.key_id
    (kept,) = ring.candidates(algorithm, old.key_id)
    assert kept.verifies(b"message", signature)
    assert kept.until == pytest.approx(time.time() + 3600, abs=60)
    assert {key.key_id for key in ring.candidates(algorithm, None)} == {old.key_id, new.key_id}


def test_key_ids_and_messages_do_not_reveal_the_secret(tmp_path: Path) -> None:
    key = keys.create_key(tmp_path)
    assert key is not None
    secret = (tmp_path / keys.SECRET_NAME).read_text().strip()
    assert secret not in repr(key)
    assert key.key_id not in secret


WRONG_MODES = {
    "readable by others": (0o404, "readable or writable by others, its mode is 0404"),
    "readable by the group": (0o440, "readable or writable by others, its mode is 0440"),
    "writable by others": (0o602, "readable or writable by others"),
}


@pytest.mark.parametrize("case", WRONG_MODES)
def test_key_that_others_may_know_is_refused(tmp_path: Path, case: str) -> None:
    mode, message = WRONG_MODES[case]
    keys.create_key(tmp_path)
    (tmp_path / keys.SECRET_NAME).chmod(mode)
    with pytest.raises(SigningError, match=message) as caught:
        load(tmp_path)
    assert caught.value.hint is not None


def test_key_of_another_owner_is_refused(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    with pytest.raises(SigningError, match=f"belongs to uid {ME}, not to 4711"):
        keys.load_keys(tmp_path, owner_uid=4711)


def test_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    (tmp_path / keys.SECRET_NAME).rename(tmp_path / "elsewhere")
    (tmp_path / keys.SECRET_NAME).symlink_to("elsewhere")
    with pytest.raises(SigningError, match="symbolic links"):
        load(tmp_path)


def test_fifo_as_key_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / keys.SECRET_NAME, 0o400)
    with pytest.raises(SigningError, match="not a regular file"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "AB" * 32, "zz" * 32, "\0" * 64])
def test_content_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / keys.SECRET_NAME
    path.write_text(text)
    path.chmod(0o400)
    with pytest.raises(SigningError, match="does not hold 64 hexadecimal digits"):
        load(tmp_path)


def test_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(SigningError, match="others may write here, and so replace keys"):
        load(tmp_path)


def test_missing_keys_hint_at_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="No such file") as caught:
        load(tmp_path)
    assert caught.value.hint == "make one with datacrumbs_sign_probes --create-key hmac-sha256"


def test_retired_key_under_another_name_is_refused(tmp_path: Path) -> None:
    keys.create_key(tmp_path)
    keys.rotate_key(tmp_path, keys.HMAC_SHA256, 10, ME)
    (retired,) = (tmp_path / keys.RETIRED_NAME).iterdir()
    retired.rename(retired.with_name(f"hmac-sha256.{'0' * 16}.99999999999"))
    with pytest.raises(SigningError, match="holds key"):
        load(tmp_path)


def test_signer_without_an_installation_is_one_clear_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGN_PROBES, "--prefix", str(tmp_path / "none"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "share/datacrumbs/data: No such file or directory" in done.stderr
    assert "hint: datacrumbs_bootstrap makes an installation" in done.stderr
