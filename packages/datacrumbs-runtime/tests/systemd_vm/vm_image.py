"""What a virtual machine boots: an initrd for one kernel, and a disk with an installation.

The kernel and its modules are this machine's own; `datacrumbs_bootstrap` installs.
"""

import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vm_root import CACHE, PREFIX, SOURCE, make_disk, run

# What the machine's hardware needs, and what the tests load.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
TEST_MODULES = ("tun",)
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "depmod": "kmod",
    "qemu-system-x86_64": "qemu-system-x86",
    "cmake": "cmake",
    "cc": "gcc",
}
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys /sbin /root
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in {modules}; do insmod $module; done
mount -t ext4 /dev/vda /root && mount -t ext4 /dev/vdb /root{prefix} || poweroff -f
mkdir -p /root/lib/modules
cp -a /lib/modules/* /root/lib/modules/
umount /proc /sys
exec switch_root /root /sbin/init
"""


def missing_tools() -> list[str]:
    """Return what is missing to make and run a machine, as Debian's packages call it."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)})


def installed_data() -> Path:
    """Return the installation's directory with the keys, as it is on this machine."""
    return CACHE / "opt" / PREFIX.name / "share/datacrumbs/data"


def installation_disk(directory: Path) -> Path:
    """Install the product and return the disk with it, which is mounted at the prefix."""
    kept = CACHE / "opt"
    kept.mkdir(parents=True, exist_ok=True)
    command = "from datacrumbs_runtime.commands.datacrumbs_bootstrap import main; main()"
    # The prefix is the same here and there, without this machine getting one.
    run(
        *("unshare", "--mount", "sh", "-ec", 'mount --bind "$1" /opt; shift; exec "$@"', "sh"),
        *(kept, sys.executable, "-c", command, "--prefix", PREFIX, "--quiet"),
        *("--source", SOURCE, "--python", "/usr/bin/python3"),
    )
    disk = directory / "installation.img"
    make_disk(kept / PREFIX.name, disk, extra_mib=50)
    return disk


def modules_of(kernel: Path) -> Path:
    """Return the directory of a kernel's modules: /lib/modules/RELEASE for one in /boot."""
    return kernel.parents[1] / "lib/modules" / kernel.name.removeprefix("vmlinuz-")


def module_files(kernel: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of modules and of those that they need, unless they are built in."""
    found: dict[Path, None] = {}
    modules = modules_of(kernel)
    root = modules.parents[2]
    for name in names:
        command = ("modprobe", "-d", root, "-S", modules.name, "--show-depends", name)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        # What is not there is taken for built in: not every kernel comes with a list of that.
        shown = done.stdout if done.returncode == 0 else ""
        for line in shown.splitlines():
            kind, _, path = line.partition(" ")
            if kind == "insmod":
                found[Path(path.strip()).resolve()] = None
    return list(found)


def initrd(kernel: Path, busybox: Path, directory: Path) -> Path:
    """Make an initrd that mounts the disks and leaves the kernel's modules on the first."""
    tree, modules = directory / "initrd", modules_of(kernel)
    of_modules = Path("lib/modules") / modules.name
    (tree / of_modules).mkdir(parents=True)
    plain: dict[Path, str] = {}
    for path in module_files(kernel, (*BOOT_MODULES, *TEST_MODULES)):
        # Not every modprobe reads compressed modules.
        place = of_modules / path.relative_to(modules.resolve())
        plain[path] = f"/{place.with_name(path.name.removesuffix('.xz'))}"
        target = tree / plain[path].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        target.write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
    at_boot = " ".join(plain[path] for path in module_files(kernel, BOOT_MODULES))
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy(modules / name, tree / of_modules)
    run("depmod", "-b", tree, modules.name)
    (tree / "bin").mkdir()
    shutil.copy(busybox, tree / "bin")
    (tree / "init").write_text(INIT.format(modules=at_boot, prefix=PREFIX))
    (tree / "init").chmod(0o755)
    archive = directory / "initrd.cpio"
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with archive.open("wb") as stream:
        subprocess.run(
            [tree / "bin/busybox", "cpio", "-o", "-H", "newc"],
            input=names.encode(),
            stdout=stream,
            stderr=subprocess.DEVNULL,
            check=True,
            cwd=tree,
        )
    return archive
