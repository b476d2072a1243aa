"""Which kernel functions a header of the kernel is about, for machines without that header.

Debugging information of a kernel does not say in which header a function was declared. What an
entry such as ``include/linux/pagemap.h`` means is known for the headers that configurations use;
for others it follows from the kernel's habit of naming functions after their subsystem.
"""

import re
from pathlib import PurePath

from datacrumbs_utils.discovery.regex import Regex, compile_regex

KNOWN = {
    "pagemap.h": (
        r"_*(filemap|page_cache|pagecache|readahead|folio_(lock|unlock|wait|end|mapping|add)"
        r"|find_get|find_lock|read_cache|grab_cache|delete_from_page_cache|add_to_page_cache"
        r"|replace_page_cache|mapping_(read|seek|set|evict)|lock_page|unlock_page|wait_on_page"
        r"|end_page|invalidate_(mapping|inode|remote))_?.*"
    ),
    "shmem_fs.h": r"_*(shmem|vma_is_(anon_)?shmem)_?.*",
    "fscache.h": r"_*(fscache|netfs)_.*",
    "fs.h": (
        r"_*(vfs|generic_file|generic_write|generic_read|simple|inode|file|iterate"
        r"|kernel_(read|write)|do_(splice|fallocate)|noop_fsync|sync_file)_?.*"
    ),
    "blkdev.h": r"_*(blk|blkdev|submit_bio|bdev)_.*",
    "bio.h": r"_*bio_.*|submit_bio.*",
    "iomap.h": r"_*iomap_.*",
    "writeback.h": (
        r"_*(wb|writeback|write_cache_pages|balance_dirty|sync_inode|wakeup_flusher)_?.*"
    ),
    "jbd2.h": r"_*jbd2_.*",
    "mm.h": r"_*(handle_mm_fault|do_(mmap|munmap|fault)|vm_|filemap_|truncate_|unmap_mapping).*",
    "namei.h": r"_*(kern_path|user_path|lookup|follow|path|vfs_path|done_path)_.*",
    "nfs_fs.h": r"_*nfs[0-9]?_.*",
    "buffer_head.h": (
        r"_*(bh|block|buffer|submit_bh|sync_dirty|write_dirty|mark_buffer|generic_cont"
        r"|cont_write|ll_rw)_.*"
    ),
    "splice.h": r"_*(splice|vmsplice|do_splice|copy_splice|filemap_splice).*",
    "swap.h": r"_*(swap|swapin|swapout|lru|folio_(add|mark))_.*",
    "mount.h": r"_*(mnt|vfs_(kern_)?mount|mount)_.*",
    "dcache.h": r"_*(d|dentry|dput|dget)_.*",
}
_STEM_SUFFIXES = ("_fs", "_types", "_api", "_internal")


def functions_regex(header: str) -> Regex:
    """Return what the functions of a header are called.

    Args:
        header: Its file name, such as ``pagemap.h``.
    """
    if header in KNOWN:
        return compile_regex(KNOWN[header])
    stem = PurePath(header).stem
    for suffix in _STEM_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return compile_regex(f"_*{re.escape(stem)}_.*")
