"""Where the symbols and the DWARF of a stripped binary are kept: separate debug files."""

import logging
import lzma
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_utils.discovery.elf_image import ElfError, ElfImage

logger = logging.getLogger(__name__)

DEBUG_DIRECTORIES = (Path("/usr/lib/debug"),)
MAX_MINI_DEBUG_BYTES = 256 << 20


def debug_directories() -> tuple[Path, ...]:
    """Return the global debug directories: ``DATACRUMBS_DEBUG_PATH`` first, then the system's."""
    own = os.environ.get("DATACRUMBS_DEBUG_PATH", "")
    return tuple(Path(part) for part in own.split(":") if part) + DEBUG_DIRECTORIES


def find(image: ElfImage) -> Path | None:
    """Return the separate debug file of a binary, or None.

    It is looked for by build id, then by the name in ``.gnu_debuglink``, as gdb does; a file whose
    build id or checksum differs belongs to another build and is passed over.
    """
    build_id = image.build_id()
    for path in _by_build_id(build_id):
        if path.is_file():
            return path
    link = image.section(".gnu_debuglink")
    if link is None:
        return None
    data = image.data(link)
    name = os.fsdecode(data.split(b"\0", 1)[0])
    if len(data) < 5 or not name or "/" in name:
        return None
    (checksum,) = struct.unpack("<I", data[-4:])
    directory = image.path.resolve().parent
    candidates = [directory / name, directory / ".debug" / name]
    candidates += [root / directory.relative_to("/") / name for root in debug_directories()]
    for path in candidates:
        if path.is_file() and not _same_file(path, image.path):
            if _belongs(path, build_id, checksum):
                return path
            logger.warning("%s: debug file of another build, ignored", path)
    return None


def _by_build_id(build_id: str | None) -> Iterator[Path]:
    if not build_id or len(build_id) < 4:
        return
    for root in debug_directories():
        yield root / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    cache = os.environ.get("DEBUGINFOD_CACHE_PATH")
    if not cache:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        cache = f"{base}/debuginfod_client"
    yield Path(cache) / build_id / "debuginfo"


def _belongs(path: Path, build_id: str | None, checksum: int) -> bool:
    try:
        with ElfImage(path) as image:
            other = image.build_id()
    except DatacrumbsError:
        return False
    if build_id and other:
        return build_id == other
    actual = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            actual = zlib.crc32(block, actual)
    return actual == checksum


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def mini_debug_image(image: ElfImage) -> ElfImage | None:
    """Open the symbol table in ``.gnu_debugdata``, which some distributions leave in a binary."""
    section = image.section(".gnu_debugdata")
    if section is None:
        return None
    try:
        data = lzma.LZMADecompressor().decompress(image.data(section), MAX_MINI_DEBUG_BYTES)
        return ElfImage(image.path, data)
    except (lzma.LZMAError, ElfError) as error:
        logger.warning("%s: .gnu_debugdata: %s", image.path, error)
        return None


def supplementary(image: ElfImage) -> Path | None:
    """Return the file that ``.gnu_debugaltlink`` names (DWARF shared by several files), or None."""
    section = image.section(".gnu_debugaltlink")
    if section is None:
        return None
    name, _, build_id = image.data(section).partition(b"\0")
    named = Path(os.fsdecode(name))
    path = named if named.is_absolute() else image.path.resolve().parent / named
    for candidate in (path, *_by_build_id(build_id.hex())):
        if candidate.is_file():
            return candidate
    return None
