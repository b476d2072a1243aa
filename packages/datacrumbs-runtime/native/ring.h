/* SPDX-License-Identifier: MIT */
/*
 * ring.h: reading a BPF ring buffer without the kernel's help.
 *
 * One reader, no wakeups: the reader looks at the producer's position when it wants to. Layout and
 * header bits are those of BPF_MAP_TYPE_RINGBUF (kernel/bpf/ringbuf.c, UAPI bpf.h): one page with
 * the consumer's position, one page with the producer's, then the data, mapped twice in a row so
 * that a record never wraps.
 */
#ifndef DATACRUMBS_RING_H
#define DATACRUMBS_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dc_ring {
	uint64_t *consumer;	  /* position up to which the reader is done, shared */
	const uint64_t *producer; /* position up to which space is reserved, shared */
	const uint8_t *data;	  /* size bytes, mapped twice */
	uint64_t size;
	uint64_t position; /* of the reader; written to *consumer now and then */
	uint64_t released; /* what *consumer holds */
	uint64_t end;	   /* snapshot of *producer */
	size_t page_bytes;
	bool broken; /* a header made no sense: nothing more is read */
};

enum dc_ring_result {
	DC_RING_RECORD,
	DC_RING_EMPTY,	/* all up to the snapshot is read */
	DC_RING_BUSY,	/* the next record is still being written */
	DC_RING_BROKEN, /* the next header makes no sense */
};

/*
 * Map a ring. fd is a BPF map or, for tests and benchmarks, a memory file (memfd) of two pages and
 * size_bytes of data. Returns 0 or a negative errno. The descriptor stays the caller's.
 */
int dc_ring_open(struct dc_ring *ring, int fd, uint64_t size_bytes);
void dc_ring_close(struct dc_ring *ring);

/*
 * Take what the producers have reserved until now as the end of this round. false: their position
 * makes no sense.
 */
bool dc_ring_snapshot(struct dc_ring *ring);

/* Give the space of the records read so far back to the producers. */
void dc_ring_release(struct dc_ring *ring);

#define DC_RING_BUSY_BIT (1u << 31)
#define DC_RING_DISCARD_BIT (1u << 30)
#define DC_RING_HEADER_BYTES 8
#define DC_RING_RELEASE_BYTES (32u << 10) /* release at least this often */

/* Find the next record before the snapshot's end; *discarded grows by the discarded ones. */
static inline enum dc_ring_result dc_ring_next(struct dc_ring *ring, const void **record,
					       uint32_t *length, uint64_t *discarded)
{
	while (ring->position < ring->end) {
		uint64_t offset = ring->position & (ring->size - 1);
		const uint32_t *header = (const uint32_t *)(ring->data + offset);
		uint32_t word = __atomic_load_n(header, __ATOMIC_ACQUIRE);
		uint32_t bytes = word & ~(DC_RING_BUSY_BIT | DC_RING_DISCARD_BIT);
		uint64_t stride = ((uint64_t)bytes + DC_RING_HEADER_BYTES + 7) & ~7ull;

		if (word & DC_RING_BUSY_BIT)
			return DC_RING_BUSY;
		if (stride > ring->end - ring->position)
			return DC_RING_BROKEN;
		ring->position += stride;
		if (ring->position - ring->released >= DC_RING_RELEASE_BYTES + stride) {
			/* not this record yet: the caller has not read it */
			ring->released = ring->position - stride;
			__atomic_store_n(ring->consumer, ring->released, __ATOMIC_RELEASE);
		}
		if (word & DC_RING_DISCARD_BIT) {
			(*discarded)++;
			continue;
		}
		*record = (const uint8_t *)header + DC_RING_HEADER_BYTES;
		*length = bytes;
		return DC_RING_RECORD;
	}
	return DC_RING_EMPTY;
}

#endif /* DATACRUMBS_RING_H */
