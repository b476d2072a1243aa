"""What the kernel's storage tracepoints have to say: pairs that form spans, fields worth showing.

Nothing here depends on a kernel version. A pair is used where both of its tracepoints exist; its
key and its fields are found by the types of the tracepoints' arguments, so that arguments that were
added, dropped or moved do not matter; a field is used where the structure has the member. Of
several recipes of one name the first that fits the running kernel counts.
"""

from dataclasses import dataclass

THREAD = "thread"


@dataclass(frozen=True, slots=True)
class Field:
    """A value behind a structure that a tracepoint hands over.

    Attributes:
        label: Its key in the trace.
        paths: Member paths; the first that exists on the running kernel counts.
        c_type: What it is, where the member's own type does not say (``struct file *`` behind a
            ``void *``); None: the member's type.
    """

    label: str
    paths: tuple[str, ...]
    c_type: str | None = None


@dataclass(frozen=True, slots=True)
class At:
    """An argument of a tracepoint.

    Attributes:
        structure: The first argument that points to this structure, ``""`` to go by ``index``.
        index: Position, where no structure tells it; negative: from the last.
        path: Member path from there, ``""`` for the argument itself.
    """

    structure: str = ""
    index: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a pair of tracepoints becomes one call.

    Attributes:
        name: What the trace calls it.
        begin: The tracepoint where it begins.
        end: The tracepoint where it ends.
        key: The argument that both have in common; None: the thread.
        end_key: The same at the end, where it is another one.
        result: What becomes its return value, among the arguments at its end; the first that the
            running kernel has.
        at_end: More values from the arguments at its end, with their labels.
    """

    name: str
    begin: str
    end: str
    key: At | None = None
    end_key: At | None = None
    result: tuple[At, ...] = ()
    at_end: tuple[tuple[str, At, str | None], ...] = ()


def _io_uring(begin: str) -> Recipe:
    return Recipe(
        "io_uring_request",
        begin,
        "io_uring_complete",
        key=At("io_kiocb"),
        end_key=At(index=1),
        # Of the completion's entry where there is one, else an argument of its own.
        result=(At("io_uring_cqe", path="->res"), At(index=3)),
        # A request gets its file when it is issued, after the first of the two tracepoints.
        at_end=(("file", At(index=1, path=":io_kiocb->file"), "struct file *"),),
    )


RECIPES = (
    # blk_mq: issue to the driver until the last byte is done. Before 5.11 (a54895fa057c, "block:
    # remove the request_queue to argument request based tracepoints") a queue came first.
    Recipe(
        "block_rq",
        "block_rq_issue",
        "block_rq_complete",
        key=At("request"),
        result=(At(index=-1),),
        at_end=(("error", At(index=1), None),),
    ),
    Recipe("ext4_da_write", "ext4_da_write_begin", "ext4_da_write_end", result=(At(index=-1),)),
    Recipe("ext4_write", "ext4_write_begin", "ext4_write_end", result=(At(index=-1),)),
    Recipe("ext4_sync_file", "ext4_sync_file_enter", "ext4_sync_file_exit", result=(At(index=1),)),
    Recipe(
        "ext4_writepages",
        "ext4_writepages",
        "ext4_writepages_result",
        result=(At(index=2),),
        at_end=(("pages_written", At(index=3), None),),
    ),
    Recipe("ext4_fallocate", "ext4_fallocate_enter", "ext4_fallocate_exit", result=(At(index=-1),)),
    Recipe("ext4_truncate", "ext4_truncate_enter", "ext4_truncate_exit"),
    Recipe("ext4_unlink", "ext4_unlink_enter", "ext4_unlink_exit", result=(At(index=-1),)),
    Recipe(
        "iomap_dio_rw",
        "iomap_dio_rw_begin",
        "iomap_dio_complete",
        key=At("kiocb"),
        result=(At(index=2),),
        at_end=(("error", At(index=1), None),),
    ),
    Recipe("jbd2_commit", "jbd2_start_commit", "jbd2_end_commit"),
    _io_uring("io_uring_submit_req"),
    # Its name before 6.3.
    _io_uring("io_uring_submit_sqe"),
    Recipe(
        "fuse_request",
        "fuse_request_send",
        "fuse_request_end",
        key=At("fuse_req"),
        result=(At("fuse_req", path="->out.h.error"),),
    ),
    Recipe("writeback", "writeback_start", "writeback_written"),
    Recipe("writeback_single_inode", "writeback_single_inode_start", "writeback_single_inode"),
    Recipe(
        "nfs_read",
        "nfs_initiate_read",
        "nfs_readpage_done",
        key=At("nfs_pgio_header"),
        result=(At("nfs_pgio_header", path="->res.count"),),
    ),
    Recipe(
        "nfs_write",
        "nfs_initiate_write",
        "nfs_writeback_done",
        key=At("nfs_pgio_header"),
        result=(At("nfs_pgio_header", path="->res.count"),),
    ),
)

# What is shown of each structure that a tracepoint may hand over, besides its address.
FIELDS: dict[str, tuple[Field, ...]] = {
    "request": (
        Field("dev", ("->part->bd_dev", "->q->disk->part0->bd_dev", "->rq_disk->part0->bd_dev")),
        Field("sector", ("->__sector",)),
        Field("bytes", ("->__data_len",)),
        Field("cmd_flags", ("->cmd_flags",)),
    ),
    "bio": (
        Field("dev", ("->bi_bdev->bd_dev",)),
        Field("sector", ("->bi_iter.bi_sector",)),
        Field("bytes", ("->bi_iter.bi_size",)),
        Field("cmd_flags", ("->bi_opf",)),
    ),
    "inode": (
        Field("file", ("",), "struct inode *"),
        Field("ino", ("->i_ino",)),
        Field("dev", ("->i_sb->s_dev",)),
    ),
    "xfs_inode": (
        Field("ino", ("->i_vnode.i_ino",)),
        Field("dev", ("->i_vnode.i_sb->s_dev",)),
    ),
    "file": (Field("file", ("",), "struct file *"),),
    "dentry": (Field("ino", ("->d_inode->i_ino",)),),
    "kiocb": (
        Field("file", ("->ki_filp",)),
        Field("pos", ("->ki_pos",)),
        Field("flags", ("->ki_flags",)),
    ),
    "iov_iter": (Field("count", ("->count",)),),
    "folio": (
        Field("file", ("->mapping->host",)),
        Field("ino", ("->mapping->host->i_ino",)),
        Field("dev", ("->mapping->host->i_sb->s_dev",)),
        Field("index", ("->index",)),
    ),
    "page": (
        Field("file", ("->mapping->host",)),
        Field("ino", ("->mapping->host->i_ino",)),
        Field("index", ("->index",)),
    ),
    "address_space": (
        Field("file", ("->host",)),
        Field("ino", ("->host->i_ino",)),
        Field("dev", ("->host->i_sb->s_dev",)),
    ),
    "file_ra_state": (
        Field("ra_start", ("->start",)),
        Field("ra_size", ("->size",)),
        Field("ra_pages", ("->ra_pages",)),
    ),
    "writeback_control": (
        Field("nr_to_write", ("->nr_to_write",)),
        Field("range_start", ("->range_start",)),
        Field("range_end", ("->range_end",)),
        Field("sync_mode", ("->sync_mode",)),
    ),
    "wb_writeback_work": (
        Field("nr_pages", ("->nr_pages",)),
        Field("sync_mode", ("->sync_mode",)),
        Field("reason", ("->reason",)),
    ),
    "super_block": (Field("dev", ("->s_dev",)),),
    "io_kiocb": (
        Field("opcode", ("->opcode",)),
        Field("flags", ("->flags",)),
        Field("user_data", ("->cqe.user_data", "->user_data")),
        # Of reads and writes; other requests keep something else there.
        Field("pos", (":io_rw->kiocb.ki_pos",)),
        Field("len", (":io_rw->len",)),
    ),
    "fuse_req": (
        Field("opcode", ("->in.h.opcode",)),
        Field("unique", ("->in.h.unique",)),
        Field("nodeid", ("->in.h.nodeid",)),
        Field("len", ("->in.h.len",)),
    ),
    "journal_s": (Field("dev", ("->j_fs_dev->bd_dev", "->j_dev->bd_dev")),),
    "transaction_s": (
        Field("transaction", ("->t_tid",)),
        Field("blocks", ("->t_nr_buffers",)),
    ),
    "nfs_pgio_header": (
        Field("file", ("->inode",)),
        Field("offset", ("->args.offset",)),
        Field("count", ("->args.count",)),
    ),
}
# Arguments that say nothing to people: their address is not shown.
SILENT = frozenset(
    {"request_queue", "bdi_writeback", "io_ring_ctx", "block_device", "io_uring_cqe"}
)
