// SPDX-License-Identifier: MIT
/* ring.c: mapping a BPF ring buffer. */
#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A memory file maps its data once; the kernel's rings map it twice by themselves. */
static int map_data_again(const uint8_t *data, int fd, uint64_t size, size_t page_bytes)
{
	void *second = mmap((void *)(data + size), size, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
			    2 * page_bytes);

	return second == MAP_FAILED ? -errno : 0;
}

int dc_ring_open(struct dc_ring *ring, int fd, uint64_t size_bytes)
{
	size_t page_bytes = sysconf(_SC_PAGESIZE);
	bool is_file;
	struct stat status;
	uint8_t *readable;
	int error = 0;

	memset(ring, 0, sizeof(*ring));
	if (size_bytes < page_bytes || size_bytes & (size_bytes - 1))
		return -EINVAL;
	if (fstat(fd, &status) < 0)
		return -errno;
	is_file = S_ISREG(status.st_mode);
	if (is_file && (uint64_t)status.st_size < 2 * page_bytes + size_bytes)
		return -EINVAL;

	ring->page_bytes = page_bytes;
	ring->size = size_bytes;
	ring->consumer = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring->consumer == MAP_FAILED) {
		ring->consumer = NULL;
		return -errno;
	}
	if (is_file) {
		/* room for both copies of the data, then the parts over it */
		readable = mmap(NULL, page_bytes + 2 * size_bytes, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (readable != MAP_FAILED &&
		    mmap(readable, page_bytes + size_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
			 page_bytes) == MAP_FAILED)
			error = -errno;
	} else {
		readable = mmap(NULL, page_bytes + 2 * size_bytes, PROT_READ, MAP_SHARED, fd,
				page_bytes);
	}
	if (readable == MAP_FAILED) {
		error = -errno;
		dc_ring_close(ring);
		return error;
	}
	ring->producer = (const uint64_t *)readable;
	ring->data = readable + page_bytes;
	if (is_file && !error)
		error = map_data_again(ring->data, fd, size_bytes, page_bytes);
	if (error) {
		dc_ring_close(ring);
		return error;
	}
	ring->position = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
	ring->released = ring->position;
	ring->end = ring->position;
	return 0;
}

void dc_ring_close(struct dc_ring *ring)
{
	if (ring->producer)
		munmap((void *)ring->producer, ring->page_bytes + 2 * ring->size);
	if (ring->consumer)
		munmap(ring->consumer, ring->page_bytes);
	memset(ring, 0, sizeof(*ring));
}

bool dc_ring_snapshot(struct dc_ring *ring)
{
	uint64_t end;

	if (ring->broken)
		return true;
	end = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	if (end - ring->position > ring->size)
		return false;
	ring->end = end;
	return true;
}

void dc_ring_release(struct dc_ring *ring)
{
	if (ring->position == ring->released)
		return;
	ring->released = ring->position;
	__atomic_store_n(ring->consumer, ring->position, __ATOMIC_RELEASE);
}
