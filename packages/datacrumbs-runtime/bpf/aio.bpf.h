/* SPDX-License-Identifier: MIT */
/*
 * aio.bpf.h: the requests within io_submit() and io_getevents().
 *
 * One io_submit() starts many reads and writes, each on a file of its own; the call itself says
 * nothing about them. Each becomes a span from the call that submitted it to the call that fetched
 * its result, found again by the address of its struct iocb.
 */
#ifndef DATACRUMBS_AIO_BPF_H
#define DATACRUMBS_AIO_BPF_H

#include "calls.bpf.h"

#define DC_MAX_AIO_BATCH 4096
#define DC_AIO_KEY (1ULL << 63) /* apart from the spans of tracepoints */

/* include/uapi/linux/aio_abi.h, little endian */
struct dc_iocb {
	__u64 data;
	__u32 key;
	__u32 rw_flags;
	__u16 opcode;
	__s16 priority;
	__u32 descriptor;
	__u64 buffer;
	__u64 bytes;
	__s64 offset;
};

struct dc_io_event {
	__u64 data;
	__u64 iocb;
	__s64 result;
	__s64 result2;
};

struct dc_aio_batch {
	__u64 addresses; /* of the array, in user space */
	__u64 time_ns;
};

static __always_inline void aio_key(struct dc_span_key *key, __u64 iocb)
{
	key->key = iocb;
	key->function = DC_AIO_KEY | bpf_get_current_pid_tgid() >> 32;
}

/* Filled in where it lies: together with the walk of its file's name it is too much for a stack. */
static const struct dc_span new_span = {};

static long begin_request(__u64 index, struct dc_aio_batch *batch)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct dc_span_key key = {};
	struct dc_iocb iocb = {};
	struct dc_span *span;
	__u64 address = 0;
	__u32 function;

	if (bpf_probe_read_user(&address, sizeof(address),
				(const void *)(batch->addresses + index * sizeof(address))) ||
	    bpf_probe_read_user(&iocb, sizeof(iocb), (const void *)address))
		return 0;
	if (iocb.opcode >= DC_AIO_OPCODES)
		return 0;
	function = dc_aio_functions[iocb.opcode];
	if (!function)
		return 0;
	aio_key(&key, address);
	count_loss(DC_LOSS_ENTERED);
	span = NULL;
	if (!bpf_map_update_elem(&spans, &key, &new_span, BPF_ANY))
		span = bpf_map_lookup_elem(&spans, &key);
	if (!span) {
		count_loss(DC_LOSS_SPANS_FULL);
		return 0;
	}
	span->process = pid_tgid >> 32;
	span->thread = (__u32)pid_tgid;
	span->pending.start_ns = batch->time_ns;
	span->pending.function = function - 1;
	if (note_file(&span->pending, NULL, file_of_descriptor(iocb.descriptor)))
		set_value(&span->pending, 0, span->pending.file);
	set_value(&span->pending, 1, iocb.offset);
	set_value(&span->pending, 2, iocb.bytes);
	return 0;
}

static long end_request(__u64 index, struct dc_aio_batch *batch)
{
	struct dc_function *function;
	struct dc_io_event event = {};
	struct dc_span_key key = {};
	struct dc_span *span;

	if (bpf_probe_read_user(&event, sizeof(event),
				(const void *)(batch->addresses + index * sizeof(event))))
		return 0;
	aio_key(&key, event.iocb);
	span = bpf_map_lookup_elem(&spans, &key);
	if (!span)
		return 0;
	function = function_row(span->pending.function);
	if (function)
		settle_call(function, &span->pending, (__u64)span->process << 32 | span->thread,
			    batch->time_ns, event.result, 0);
	bpf_map_delete_elem(&spans, &key);
	return 0;
}

/* io_submit(context, count, iocbs): it returned how many of them were accepted. */
__noinline int dc_begin_requests(struct dc_pending *pending, __s64 accepted)
{
	struct dc_aio_batch batch;

	if (!pending || accepted <= 0)
		return 0;
	batch.addresses = pending->arguments[2];
	batch.time_ns = pending->start_ns;
	bpf_loop(accepted < DC_MAX_AIO_BATCH ? accepted : DC_MAX_AIO_BATCH, begin_request, &batch,
		 0);
	return 0;
}

/* io_getevents(context, least, most, events, ...): it returned how many events there are. */
__noinline int dc_end_requests(struct dc_pending *pending, __s64 fetched, __u64 end_ns)
{
	struct dc_aio_batch batch;

	if (!pending || fetched <= 0)
		return 0;
	batch.addresses = pending->arguments[3];
	batch.time_ns = end_ns;
	bpf_loop(fetched < DC_MAX_AIO_BATCH ? fetched : DC_MAX_AIO_BATCH, end_request, &batch, 0);
	return 0;
}

#endif /* DATACRUMBS_AIO_BPF_H */
