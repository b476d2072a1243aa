import os
import pwd
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from daemon_site import ALICE, BOB, open_directory

from datacrumbs_runtime.errors import TraceError
from datacrumbs_runtime.file_rights import rights_of
from datacrumbs_runtime.signing.accounts import Account, account_of_uid
from datacrumbs_runtime.trace_directory import TraceDirectory, trace_directory_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users")


def account(user: str) -> Account:
    return account_of_uid(pwd.getpwnam(user).pw_uid)


@pytest.fixture
def root() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


def open_and_close(path: Path, user: str = ALICE) -> os.stat_result:
    fd = TraceDirectory(path, account(user)).open()
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def owner(path: Path) -> str:
    return pwd.getpwuid(path.stat().st_uid).pw_name


def test_pattern_is_filled() -> None:
    now = datetime(2031, 2, 3, tzinfo=timezone.utc)
    path = trace_directory_path(
        "/t/%YY%/%MM%/%DD%/%USER%-%RUN_ID%-%HOST%", now=now, user="u", run_id="r", host="h"
    )
    assert path == Path("/t/31/02/03/u-r-h")


def test_missing_directories_are_made_for_everybody_to_enter(root: Path) -> None:
    before = os.umask(0o077)
    try:
        status = open_and_close(root / "a/b")
    finally:
        os.umask(before)
    assert stat.S_IMODE(status.st_mode) == 0o755
    assert owner(root / "a") == "root"


def test_component_of_the_user_is_his_alone(root: Path) -> None:
    open_and_close(root / ALICE / "26")
    assert owner(root / ALICE) == ALICE
    assert stat.S_IMODE((root / ALICE).stat().st_mode) == 0o700
    assert owner(root / ALICE / "26") == ALICE


def test_below_what_the_user_owns_his_rights_count(root: Path) -> None:
    home = root / "home"
    home.mkdir(mode=0o700)
    os.chown(home, pwd.getpwnam(ALICE).pw_uid, -1)
    open_and_close(home / "traces")
    assert owner(home / "traces") == ALICE


def test_link_of_the_user_leads_only_where_he_may_go(root: Path) -> None:
    home, target = root / "home", root / "target"
    home.mkdir()
    target.mkdir(mode=0o755)
    os.chown(home, pwd.getpwnam(ALICE).pw_uid, -1)
    (home / "traces").symlink_to(target)
    with pytest.raises(PermissionError):
        open_and_close(home / "traces/26")
    assert list(target.iterdir()) == []


def test_link_of_the_administrator_is_followed(root: Path) -> None:
    (root / "real").mkdir(mode=0o755)
    (root / "link").symlink_to("real")
    open_and_close(root / "link/26")
    assert (root / "real/26").is_dir()


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        open_and_close(root / "a/x")


def test_trace_of_root_follows_no_link_of_somebody_else(root: Path) -> None:
    home = root / "home"
    home.mkdir()
    os.chown(home, pwd.getpwnam(BOB).pw_uid, -1)
    (home / "traces").symlink_to("/etc")
    with pytest.raises(TraceError, match="a link that somebody else may have made"):
        open_and_close(home / "traces", "root")


def test_file_in_the_way_is_named(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        open_and_close(root / "file/x")


def test_shared_directory_serves_the_next_user_too(root: Path) -> None:
    """As on a file system where root is nobody and everybody may write below one directory."""
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, pwd.getpwnam("nobody").pw_uid, -1)
    open_and_close(shared / "26/11", ALICE)
    assert stat.S_IMODE((shared / "26").stat().st_mode) == 0o1777
    open_and_close(shared / "26/12", BOB)
    assert owner(shared / "26/12") == BOB


def test_rights_of_a_user_end_with_the_block(root: Path) -> None:
    secret = root / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    with rights_of(account(ALICE)), pytest.raises(PermissionError):
        secret.read_text()
    assert secret.read_text() == "x"
    assert os.geteuid() == 0


def test_groups_are_the_users_own_within_the_block(root: Path) -> None:
    shared = root / "group"
    shared.write_text("x")
    shared.chmod(0o640)
    os.chown(shared, 0, account(BOB).gid)
    before = os.getgroups()
    with rights_of(account(ALICE)), pytest.raises(PermissionError):
        shared.read_text()
    with rights_of(account(BOB)):
        assert shared.read_text() == "x"
    assert os.getgroups() == before


def test_link_that_anybody_may_have_made_is_followed_with_the_users_rights(root: Path) -> None:
    """In a directory such as /tmp, which is root's, a link may be anybody's."""
    shared, private = root / "shared", root / "private"
    shared.mkdir()
    shared.chmod(0o1777)
    private.mkdir(mode=0o755)
    for maker in (ALICE, BOB):
        link = shared / f"of-{maker}"
        link.symlink_to(private)
        os.chown(link, account(maker).uid, -1, follow_symlinks=False)
        with pytest.raises(PermissionError):
            open_and_close(link / "made", ALICE)
        with pytest.raises(TraceError, match="somebody else"):
            open_and_close(link / "made", "root")
    assert not list(private.iterdir())
    (shared / "of-root").symlink_to(private)
    open_and_close(shared / "of-root/made", ALICE)
    assert owner(private / "made") == "root"
