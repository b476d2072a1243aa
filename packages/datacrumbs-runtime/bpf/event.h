/* SPDX-License-Identifier: MIT */
/*
 * event.h: everything that crosses between the BPF programs, the native pump and the loader.
 *
 * This is the only declaration of these structures. The BPF programs and the pump include it; the
 * Python side (src/datacrumbs_runtime/bpf/layout.py) is generated from the BTF of the compiled
 * object. All integers are in host byte order; all times are CLOCK_MONOTONIC nanoseconds
 * (bpf_ktime_get_ns()).
 */
#ifndef DATACRUMBS_EVENT_H
#define DATACRUMBS_EVENT_H

#include <linux/types.h>

#define DC_MAX_ARGUMENTS 6 /* in registers */
#define DC_MAX_TRACEPOINT_ARGUMENTS 9
#define DC_MAX_VALUES 8	      /* values[] of one call record */
#define DC_MAX_DEREFERENCES 4 /* member accesses from a tracepoint argument to a value */
#define DC_MAX_SYSTEM_CALLS 1024
#define DC_AIO_OPCODES 16	 /* IOCB_CMD_* of io_submit() */
#define DC_MAX_STRING_BYTES 4096 /* PATH_MAX; text of one string record */
/* slot i counts durations in [2^i, 2^(i+1)) ns, the last all above */
#define DC_HISTOGRAM_SLOTS 32
#define DC_NO_FUNCTION 0xffffffff
/* Attach cookies: bits 0 to 31 are a function; of attachments that many places share, a number */
#define DC_COOKIE_SHARED_BIT 63	  /* "places" knows the function, see places.bpf.h */
#define DC_COOKIE_BY_STACK_BIT 62 /* begin and end are matched by their stack pointer */
#define DC_PLACE_BITS 12	  /* of a user address; no machine has smaller pages */

/* ---- records: per-CPU ring "events" --------------------------------------------------------- */

enum dc_call_flag {
	DC_CALL_NO_RETURN = 1
		<< 0, /* the call has no return value (an instant or a span without) */
	DC_CALL_SLOT_SHIFT = 8,
};

/*
 * One finished call. Strides: 0, 4 or 8 values, told by nr_values (0, 4, 8). Bit i of present says
 * whether values[i] holds something; a value that could not be had is absent, not zero.
 */
struct dc_call {
	__u64 start_ns;
	__u64 duration_ns;
	__s64 ret;
	__u32 process;	/* tgid in the initial pid namespace */
	__u32 thread;	/* tid in the initial pid namespace */
	__u32 function; /* index in the map "functions" */
	__u8 nr_values;
	__u8 present;
	__u16 flags; /* enum dc_call_flag */
	__u64 values[];
};

/* ---- records: shared ring "strings" --------------------------------------------------------- */

enum dc_string_kind {
	/* text as captured from a char pointer, maybe cut */
	DC_STRING_TEXT = 1,
	/* absolute path of a file: components from the last to the first, each ended by a NUL */
	DC_STRING_FILE = 2,
	/* path argument as given, ended by a NUL; relative to the file with the id "directory" */
	DC_STRING_PATH = 3,
	/* unnamed files: text is what the kernel calls them, number the inode */
	DC_STRING_PIPE = 4,
	DC_STRING_SOCKET = 5,
	DC_STRING_ANONYMOUS = 6, /* text is the dentry's name: "[eventfd]", "memfd:x" */
	/* id is not used: a process or thread began or took this name */
	DC_STRING_PROCESS_NAME = 7,
	DC_STRING_THREAD_NAME = 8,
	/* id is not used: a process ended */
	DC_STRING_PROCESS_EXIT = 9,
};

enum dc_string_flag {
	DC_STRING_CUT = 1 << 0,	      /* longer than what was read */
	DC_STRING_DIRECTORY = 1 << 1, /* the file is a directory */
};

struct dc_string {
	__u64 id; /* what values[] of later calls hold; never 0 */
	__u64 directory;
	__u64 number; /* inode of an unnamed file; parent tgid of a process */
	__u64 time_ns;
	__u32 process;
	__u32 thread;
	__u32 uid;
	__u16 kind;   /* enum dc_string_kind */
	__u16 flags;  /* enum dc_string_flag */
	__u32 length; /* bytes of text, with the NULs */
	__u32 reserved;
	char text[];
};

/* ---- losses: per-CPU array "losses" with one element, struct dc_losses ---------------------- */

enum dc_loss {
	/*
	 * Calls that were to be written. The pump counts what it wrote, so that
	 * offered == written + ring full is a check of the whole way and not of one counter.
	 */
	DC_LOSS_OFFERED = 0,
	DC_LOSS_RING_FULL,
	DC_LOSS_STRINGS_FULL,	   /* string records that found no room */
	DC_LOSS_STRING_UNREADABLE, /* memory of a string that was not there */
	DC_LOSS_SCRATCH_BUSY,	   /* strings lost because all buffers of a CPU were in use */
	DC_LOSS_ARGUMENTS,	   /* calls written without their arguments (too deep) */
	DC_LOSS_STATE,		   /* no memory for the state of a thread */
	DC_LOSS_SPANS_FULL,	   /* begins of calls or spans that found no room */
	DC_LOSS_MISSED_BEGIN,	   /* ends of calls or spans whose begin was not seen */
	DC_LOSS_BELOW_THRESHOLD,   /* calls shorter than the threshold, summed in "profile" */
	DC_LOSS_COMPAT,		   /* 32-bit system calls, which have other numbers */
	/* entered - offered - below threshold - counted - filtered: in flight or never returned */
	DC_LOSS_ENTERED,
	DC_LOSS_FILTERED,     /* calls that are not about a file, where only those are kept */
	DC_LOSS_UNFINISHED,   /* threads that died within a call; part of the above */
	DC_LOSS_PROFILE_FULL, /* calls that found no room in "profile" */
	DC_LOSS_REFUSED,      /* registrations by processes of another owner */
	DC_LOSS_COUNTED,      /* calls that were counted (profile mode), not written */
	DC_LOSS_SLOTS,
};

struct dc_losses {
	__u64 counts[DC_LOSS_SLOTS];
};

/* ---- configuration: array map "functions" --------------------------------------------------- */

enum dc_mode {
	DC_MODE_OFF = 0,
	DC_MODE_TRACE = 1,
	DC_MODE_PROFILE = 2,
};

enum dc_source_kind {
	DC_SOURCE_NONE = 0,
	DC_SOURCE_ARGUMENT,    /* the argument register itself */
	DC_SOURCE_USER_STRING, /* char pointer -> id of a DC_STRING_TEXT */
	DC_SOURCE_USER_VALUE,  /* pointer -> "size" bytes behind it (offset: added) */
	DC_SOURCE_FD,	       /* file descriptor -> id of its file, at entry */
	DC_SOURCE_STREAM,      /* FILE pointer -> id of its file, at entry */
	DC_SOURCE_PATH,	       /* path argument; "directory": argument with its dirfd, or 0xff */
	DC_SOURCE_RETURNED_FD, /* file of the returned descriptor; if none the path argument */
	DC_SOURCE_POSITION,    /* file position where the call began, regular files only */
	DC_SOURCE_MAPPING,     /* address -> id of the file mapped there, at entry */
	DC_SOURCE_FIELD,       /* tracepoint: argument, then dereferences[], then "size" bytes */
	DC_SOURCE_FIELD_FILE,  /* tracepoint: the same, a struct file pointer -> id of the file */
	DC_SOURCE_THREAD_FILE, /* tracepoint: file of the system call that the thread is in, if its
				  inode is the one that the field gives */
	DC_SOURCE_REQUEST,     /* known to the program alone: requests of io_submit() */
};

struct dc_source {
	__u8 kind;	/* enum dc_source_kind */
	__u8 argument;	/* position among the arguments */
	__u8 directory; /* DC_SOURCE_PATH, RETURNED_FD: argument with the dirfd, 0xff: none */
	__u8 size;	/* bytes of a USER_VALUE or FIELD: 1, 2, 4, 8 */
	__u8 at_end;	/* USER_VALUE, tracepoint span: taken at the end, not at the begin;
			   PATH: of a call that, if it succeeds, makes it the working directory */
	__u8 nr_dereferences;
	__u8 is_signed;
	__u8 reserved;
	__u16 offsets[DC_MAX_DEREFERENCES];
};

enum dc_function_flag {
	DC_FUNCTION_FILE_ONLY = 1 << 0,	 /* keep only calls whose first value (a file) is present */
	DC_FUNCTION_BYTES = 1 << 1,	 /* profile: the return value, if positive, is bytes */
	DC_FUNCTION_ERRNO = 1 << 2,	 /* a negative return value is an error */
	DC_FUNCTION_NULL_ERROR = 1 << 3, /* a return value of 0 is an error (fopen) */
	DC_FUNCTION_RENAMES = 1 << 4,	 /* system calls that give files other names */
	DC_FUNCTION_RET_INT = 1 << 5,	 /* the return value is a 32-bit int */
	DC_FUNCTION_MINUS_ERROR = 1 << 6,    /* a return value of -1 is an error (libc) */
	DC_FUNCTION_NO_RETURN = 1 << 7,	     /* returns void: no ret in the trace */
	DC_FUNCTION_KERNEL_THREADS = 1 << 8, /* also record kernel threads, if the run allows it */
	/* Some source is taken when the call ends: PATH, RETURNED_FD, USER_STRING, POSITION,
	   USER_VALUE with at_end. Set by whoever fills the row; spares the others a look. */
	DC_FUNCTION_EXIT_VALUES = 1 << 9,
	/* Some source is taken when the call begins: all but PATH, RETURNED_FD and those. */
	DC_FUNCTION_ENTRY_VALUES = 1 << 10,
	DC_FUNCTION_AIO_SUBMIT = 1 << 11, /* io_submit(): its requests are calls of their own */
	DC_FUNCTION_AIO_EVENTS = 1 << 12, /* io_getevents(): their results */
	DC_FUNCTION_HIDES_ADDRESSES = 1 << 13, /* the trace does not show where the kernel is */
};

struct dc_function {
	__u32 flags; /* enum dc_function_flag */
	__u8 mode;   /* enum dc_mode; may change while running */
	__u8 nr_sources;
	__u8 nr_values;	     /* stride: 0, 4 or 8, >= nr_sources */
	__u8 bytes_argument; /* value index + 1 whose product with ret is bytes; 0: none */
	__u64 threshold_ns;  /* shorter calls are only summed */
	struct dc_source sources[DC_MAX_VALUES];
};

/* ---- configuration: array map "tracepoints", indexed by the attach cookie ------------------- */

enum dc_tracepoint_role {
	DC_TRACEPOINT_INSTANT = 0,
	DC_TRACEPOINT_BEGIN = 1,
	DC_TRACEPOINT_END = 2,
};

enum dc_key_kind {
	DC_KEY_THREAD = 0,
	DC_KEY_FIELD = 1, /* key: value of a field, usually a pointer */
};

struct dc_tracepoint {
	__u32 function;
	__u8 role;	/* enum dc_tracepoint_role */
	__u8 key_kind;	/* enum dc_key_kind */
	__u8 publishes; /* remember the thread as the owner of the pointer in "owner" */
	__u8 looks_up;	/* act for the owner of the pointer in "owner", if there is one */
	struct dc_source key;
	struct dc_source owner;
	struct dc_source result; /* END: kind NONE or a field that is the return value */
};

/* ---- profile: hash map "profile" ------------------------------------------------------------ */

struct dc_profile_key {
	__u32 function;
	__u32 process;
	__u32 cpu;
	__u32 epoch; /* 0 or 1: user space empties one while the programs fill the other */
};

struct dc_profile {
	__u64 count;
	__u64 errors;
	__u64 time_ns;
	__u64 min_ns;
	__u64 max_ns;
	__u64 bytes;
	__u32 histogram[DC_HISTOGRAM_SLOTS];
};

/* ---- state that user space reads and writes while running: the map ".data" ------------------- */

struct dc_control {
	__u32 recording;	       /* 0: programs return at once */
	__u32 epoch;		       /* of "profile" */
	__u64 rename_generation;       /* grows with every rename: file names are looked up again */
	__u64 registration_generation; /* grows when a process stops being recorded */
};

#endif /* DATACRUMBS_EVENT_H */
