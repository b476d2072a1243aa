"""The root file system of a virtual machine: Debian packages, systemd, users, an agent.

It is made of the packages of this machine's own release and kept below ``build/``.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[4]
CACHE = SOURCE / "build/systemd-vm"
AGENT = Path(__file__).with_name("vm_agent.py")
# Where the installation is, in the machine.
PREFIX = Path("/opt/datacrumbs")
HOSTNAME = "node1"
USERS = ("alice", "bob")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "libbpf1"),
    *("kmod", "strace", "procps", "busybox-static", "e2fsprogs"),
)
LEFT_OUT = ("man", "doc", "locale")
MASKED = (
    *("getty.target", "console-getty.service", "systemd-logind.service"),
    *("systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-firstboot.service"),
)
AGENT_UNIT = """\
[Unit]
Description=Runs what the tests ask for
After=basic.target
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/vm_agent.py /dev/vport0p1
[Install]
WantedBy=multi-user.target
"""


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [os.fspath(part) for part in argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=cwd,
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def scratch() -> Iterator[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="making-") as directory:
        yield Path(directory)


def release() -> str:
    """Return the code name of this machine's release of Debian or one of its kind."""
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise AssertionError("/etc/os-release names no release: mmdebstrap knows Debian and its kind")


def sources() -> list[str]:
    """Return this machine's package sources."""
    etc = Path("/etc/apt")
    found = [etc / "sources.list", *etc.glob("sources.list.d/*.list")]
    found += etc.glob("sources.list.d/*.sources")
    return [str(path) for path in sorted(found) if path.is_file() and path.stat().st_size]


def root_directory() -> Path:
    """Return the directory with the disk of the system and a busybox, made if they are missing."""
    recipe = Path(__file__).read_bytes() + AGENT.read_bytes()
    kept = CACHE / f"root-{release()}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if kept.exists():
        return kept
    with scratch() as directory:
        root, made = directory / "root", directory / "made"
        run(
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            release(),
            root,
            *sources(),
        )
        set_up(root)
        made.mkdir()
        make_disk(root, made / "disk.img", extra_mib=400)
        shutil.copy(root / "bin/busybox", made)
        for old in CACHE.glob("root-*"):
            shutil.rmtree(old)
        made.rename(kept)
    return kept


def set_up(root: Path) -> None:
    """Turn a tree of packages into the system of the machine."""
    units = root / "etc/systemd/system"
    for name in MASKED:
        (units / name).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (units / "vm-agent.service").write_text(AGENT_UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "vm-agent.service").symlink_to("../vm-agent.service")
    shutil.copy(AGENT, root / "usr/local/lib")
    (root / "etc/hostname").write_text(f"{HOSTNAME}\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").write_text("")
    (root / PREFIX.relative_to("/")).mkdir(parents=True)
    for user in USERS:
        run("chroot", root, "useradd", "-m", user)


def make_disk(tree: Path, disk: Path, *, extra_mib: int) -> None:
    """Make a file with an ext4 file system that has a tree in it, and some room."""
    used_kib = int(run("du", "-sk", tree).split()[0])
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-d",
        tree,
        "-F",
        disk,
        f"{used_kib * 5 // 4 // 1024 + extra_mib}M",
    )
