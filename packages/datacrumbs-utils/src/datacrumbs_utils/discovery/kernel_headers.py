"""Which kernel functions a header of the kernel is about, for machines without that header.

The kernel's type information does not say in which header a function was declared. Of the headers
that configurations name most, the functions that they declared in Linux 5.4 to 6.18 are listed
here; what of it the running kernel has is meant. For others it follows from the kernel's habit of
naming functions after their subsystem.
"""

import re
from pathlib import PurePath

from datacrumbs_utils.discovery.regex import Regex, compile_regex

DECLARED = {
    "pagemap.h": """
    __add_to_page_cache_locked __delete_from_page_cache __filemap_add_folio
    __filemap_fdatawrite_range __filemap_get_folio __filemap_remove_folio
    __filemap_set_wb_err __folio_cancel_dirty __folio_lock __folio_lock_killable
    __folio_lock_or_retry __folio_mark_dirty __lock_page __lock_page_async
    __lock_page_killable __lock_page_or_retry __page_cache_alloc __set_page_dirty_nobuffers
    add_page_wait_queue add_to_page_cache_locked add_to_page_cache_lru
    clear_page_dirty_for_io delete_from_page_cache delete_from_page_cache_batch
    end_page_writeback fault_in_readable fault_in_safe_writeable fault_in_subpage_writeable
    fault_in_writeable filemap_add_folio filemap_alloc_folio filemap_alloc_folio_noprof
    filemap_check_errors filemap_fdatawait_keep_errors filemap_fdatawait_range
    filemap_fdatawait_range_keep_errors filemap_fdatawrite filemap_fdatawrite_range
    filemap_fdatawrite_range_kick filemap_fdatawrite_wbc filemap_flush filemap_get_folios
    filemap_get_folios_contig filemap_get_folios_tag filemap_invalidate_inode
    filemap_invalidate_pages filemap_migrate_folio filemap_range_has_page
    filemap_range_has_writeback filemap_release_folio filemap_remove_folio
    filemap_write_and_wait_range find_get_entries find_get_entries_tag find_get_entry
    find_get_pages_contig find_get_pages_range find_get_pages_range_tag find_lock_entry
    folio_account_cleaned folio_add_wait_queue folio_clear_dirty_for_io folio_end_private_2
    folio_end_read folio_end_writeback folio_end_writeback_no_dropbehind folio_invalidate
    folio_mapping folio_put_wait_locked folio_unlock folio_wait_bit folio_wait_bit_killable
    folio_wait_private_2 folio_wait_private_2_killable folio_wait_stable
    folio_wait_writeback folio_wait_writeback_killable grab_cache_page_write_begin
    hugetlb_basepage_index invalidate_inode_pages2 invalidate_inode_pages2_range
    invalidate_mapping_pages kiocb_invalidate_pages kiocb_invalidate_post_direct_write
    linear_hugepage_index mapping_evict_folio mapping_read_folio_gfp mapping_seek_hole_data
    noop_dirty_folio page_cache_async_ra page_cache_next_miss page_cache_prev_miss
    page_cache_ra_order page_cache_ra_unbounded page_cache_readahead_unbounded
    page_cache_sync_ra page_endio page_mapping pagecache_get_page
    put_and_wait_on_page_locked read_cache_folio read_cache_page read_cache_page_gfp
    read_cache_pages readahead_expand replace_page_cache_folio replace_page_cache_page
    set_page_writeback swapcache_mapping try_to_release_page unlock_page
    unlock_page_private_2 wait_for_stable_page wait_on_page_bit wait_on_page_bit_killable
    wait_on_page_locked_killable wait_on_page_writeback write_inode_now
    """,
    "shmem_fs.h": """
    shmem_add_seals shmem_allowable_huge_orders shmem_charge shmem_fallocate
    shmem_file_setup shmem_file_setup_with_mnt shmem_get_folio shmem_get_seals
    shmem_get_unmapped_area shmem_getpage shmem_hpage_pmd_enabled shmem_huge_enabled
    shmem_init shmem_init_fs_context shmem_is_huge shmem_kernel_file_setup shmem_lock
    shmem_mapping shmem_mcopy_atomic_pte shmem_mfill_atomic_pte shmem_mfill_zeropage_pte
    shmem_partial_swap_usage shmem_read_folio_gfp shmem_read_mapping_page_gfp
    shmem_recalc_inode shmem_swap_usage shmem_truncate_range shmem_uncharge
    shmem_unlock_mapping shmem_unuse shmem_writeout shmem_zero_setup vma_is_anon_shmem
    vma_is_shmem
    """,
}
# Headers whose functions are not called like the header.
HABITS = {
    "bio.h": r"_*bio_.*|submit_bio.*",
    "blkdev.h": r"_*(blk|blkdev|submit_bio|bdev)_.*",
    "buffer_head.h": r"_*(bh|block|buffer|submit_bh|sync_dirty|mark_buffer|cont_write)_.*",
    "dcache.h": r"_*(d|dentry)_.*|dput|dget.*",
    "fs.h": r"_*(vfs|generic_file|generic_write|generic_read|simple|inode|file|iterate)_.*",
    "fscache.h": r"_*(fscache|netfs)_.*",
    "mm.h": r"_*(handle_mm_fault|do_(mmap|munmap|fault)|vm_|filemap_|truncate_|unmap_mapping).*",
    "mount.h": r"_*(mnt|vfs_kern_mount|mount)_.*",
    "namei.h": r"_*(kern_path|user_path|lookup|follow|path|vfs_path|done_path)_.*",
    "nfs_fs.h": r"_*nfs[0-9]?_.*",
    "splice.h": r"_*(splice|vmsplice|do_splice|copy_splice)_.*",
    "swap.h": r"_*(swap|swapin|swapout|lru)_.*",
    "writeback.h": r"_*(wb|writeback|write_cache_pages|balance_dirty|sync_inode|wakeup_flusher)_.*",
}
_STEM_SUFFIXES = ("_fs", "_types", "_api", "_internal")


def functions_regex(header: str) -> Regex:
    """Return what the functions of a header are called.

    Args:
        header: Its file name, such as ``pagemap.h``.
    """
    if header in DECLARED:
        return compile_regex("|".join(DECLARED[header].split()))
    if header in HABITS:
        return compile_regex(HABITS[header])
    stem = PurePath(header).stem
    for suffix in _STEM_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return compile_regex(f"_*{re.escape(stem)}_.*")


def description(header: str) -> str:
    """Return in a few words which functions are meant by a header that is not there."""
    if header in DECLARED:
        return f"those that {header} is known to declare"
    return f"those named like {functions_regex(header).source}"
