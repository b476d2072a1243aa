# ruff: noqa: PTH102, PTH103, PTH104, PTH106, PTH108, PTH116, PTH123, PTH211 (about calls of os)
"""Files that are not called what they were called: renamed, linked, passed on, strange names.

usage: other_names.py DIRECTORY
"""

import array
import ctypes
import os
import shutil
import socket
import subprocess
import sys

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000


def use(descriptor: int) -> None:
    os.pwrite(descriptor, b"data", 0)
    os.pread(descriptor, 4, 0)
    os.fstat(descriptor)


def create(path: str | bytes) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def renamed() -> None:
    descriptor = create("before")
    use(descriptor)
    os.rename("before", "after")
    use(descriptor)
    os.makedirs("one/two")
    os.rename("after", "one/two/moved")
    use(descriptor)
    os.rename("one", "uno")
    use(descriptor)
    # a rename by another process
    subprocess.run(["mv", "uno", "eins"], check=True)
    use(descriptor)
    other = create("exchanged")
    renameat2 = ctypes.CDLL(None).renameat2
    assert renameat2(-100, b"exchanged", -100, b"eins/two/moved", 2) == 0
    use(descriptor)
    use(other)
    os.close(other)
    os.close(descriptor)


def linked() -> None:
    descriptor = create("first")
    os.link("first", "second")
    again = os.open("second", os.O_RDWR)
    for _ in range(3):
        use(descriptor)
        use(again)
    os.symlink("second", "symbolic")
    through = os.open("symbolic", os.O_RDWR)
    use(through)
    for each in (descriptor, again, through):
        os.close(each)


def deleted() -> None:
    for _ in range(20):
        for directory in ("d1", "d2"):
            os.mkdir(directory)
            descriptor = create(f"{directory}/same")
            use(descriptor)
            os.unlink(f"{directory}/same")
            use(descriptor)
            os.close(descriptor)
            os.rmdir(directory)


def passed_on() -> None:
    ours, theirs = socket.socketpair()
    descriptor = create("passed")
    if os.fork() == 0:
        message, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        assert message == b"x"
        received = array.array("i", ancillary[0][2])[0]
        use(received)
        os.dup2(received, 77)
        use(77)
        os._exit(0)
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    os.wait()
    os.set_inheritable(descriptor, True)
    if os.fork() == 0:
        use(descriptor)
        os.execv("/bin/sh", ["sh", "-c", f"echo more >&{descriptor}"])  # noqa: S606
    os.wait()
    opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    use(opened)
    os.close(opened)
    os.close(descriptor)


def strange() -> None:
    names = [b"new\nline", b'quo"te', b"back\\slash", b"\xff\xfe", "ü€😀".encode(), b"<a>", b" "]
    names += [b"n" * 255, b"tab\t", b"(deleted)", b"x (deleted)"]
    for name in names:
        descriptor = create(name)
        use(descriptor)
        os.close(descriptor)
        os.stat(name)
    deep = "/".join(["deep" * 20] * 30)
    os.makedirs(deep)
    descriptor = create(f"{deep}/file")
    use(descriptor)
    os.close(descriptor)
    os.chdir("deep" * 20)
    os.stat("../first")
    os.chdir("..")
    directory = os.open(".", os.O_RDONLY)
    os.stat("first", dir_fd=directory)
    os.open("./first", os.O_RDONLY, dir_fd=directory)
    os.open("/etc/../etc/hostname", os.O_RDONLY)


def mounted() -> None:
    """A file system of its own, in a mount namespace of its own."""
    if os.fork() == 0:
        os.mkdir("mount")
        if not become_root():
            os._exit(0)  # some systems let no user do that
        assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "mount"], check=True)
        descriptor = create("mount/inside")
        use(descriptor)
        os.close(descriptor)
        os._exit(0)
    _, status = os.wait()
    assert status == 0


def become_root() -> bool:
    """Be root, if need be in a user namespace: others may mount nothing."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return True
    if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
        return False
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)
    return True


def main() -> None:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    os.mkdir(sys.argv[1])
    os.chdir(sys.argv[1])
    renamed()
    linked()
    deleted()
    passed_on()
    strange()
    mounted()


if __name__ == "__main__":
    main()
