// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "signer_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RETRY_INTERVAL_MS 20

int64_t dc_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Wait for events until the deadline. Returns 0, or -1 with errno. */
static int wait_for(int fd, short events, int64_t deadline_ns, short *happened)
{
	struct pollfd poll_fd = { .fd = fd, .events = events };
	int64_t left_ns;
	int count;

	do {
		left_ns = deadline_ns - dc_now_ns();
		if (left_ns <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		count = poll(&poll_fd, 1, (int)(left_ns / 1000000) + 1);
	} while (count == 0 || (count < 0 && errno == EINTR));
	*happened = poll_fd.revents;
	return count < 0 ? -1 : 0;
}

/* A socket address holds 108 bytes. A longer path is named through its directory's descriptor. */
static int fill_address(struct sockaddr_un *address, const char *path, int *directory_fd)
{
	const char *slash = strrchr(path, '/');
	char directory[PATH_MAX];
	int length;

	*directory_fd = -1;
	address->sun_family = AF_UNIX;
	if (strlen(path) < sizeof(address->sun_path)) {
		strcpy(address->sun_path, path);
		return 0;
	}
	if (!slash || slash == path || (size_t)(slash - path) >= sizeof(directory)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(directory, path, slash - path);
	directory[slash - path] = '\0';
	*directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*directory_fd < 0)
		return -1;
	length = snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s",
			  *directory_fd, slash + 1);
	if (length >= (int)sizeof(address->sun_path)) {
		close(*directory_fd);
		errno = ENAMETOOLONG;
		return -1;
	}
	return 0;
}

int dc_signer_connect(const char *path, int64_t deadline_ns)
{
	struct sockaddr_un address = { 0 };
	int directory_fd, saved_errno;
	int fd;

	if (fill_address(&address, path, &directory_fd))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	while (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		saved_errno = errno;
		/* EAGAIN: the queue of the signer is full; no poll() tells when it is not. */
		if (saved_errno == EAGAIN && dc_now_ns() < deadline_ns) {
			poll(NULL, 0, RETRY_INTERVAL_MS);
			continue;
		}
		close(fd);
		fd = -1;
		errno = saved_errno == EAGAIN ? ETIMEDOUT : saved_errno;
	}
	saved_errno = errno;
	if (directory_fd >= 0)
		close(directory_fd);
	errno = saved_errno;
	return fd;
}

/*
 * Send all parts. A signer that refuses early answers before it read everything: then stop
 * sending, the answer is what counts.
 */
static int send_request(int fd, struct iovec *parts, int part_count, int64_t deadline_ns)
{
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = part_count };
	short happened;
	ssize_t sent;

	while (message.msg_iovlen > 0) {
		if (wait_for(fd, POLLIN | POLLOUT, deadline_ns, &happened))
			return -1;
		if (happened & POLLIN)
			return 0;
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EPIPE || errno == ECONNRESET)
				return 0;
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return -1;
		}
		while (message.msg_iovlen > 0 && (size_t)sent >= message.msg_iov->iov_len) {
			sent -= message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (message.msg_iovlen > 0) {
			message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
			message.msg_iov->iov_len -= sent;
		}
	}
	return 0;
}

static int receive(int fd, void *buffer, size_t size, int64_t deadline_ns)
{
	char *at = buffer;
	short happened;
	ssize_t count;

	while (size > 0) {
		if (wait_for(fd, POLLIN, deadline_ns, &happened))
			return -1;
		count = recv(fd, at, size, 0);
		if (count == 0) {
			errno = ECONNRESET;
			return -1;
		}
		if (count < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return -1;
		}
		at += count;
		size -= count;
	}
	return 0;
}

static int receive_answer(int fd, int64_t deadline_ns, struct dc_answer *answer)
{
	unsigned char header[DC_FRAME_HEADER_BYTES];
	size_t bytes;
	int saved_errno;

	if (receive(fd, header, sizeof(header), deadline_ns))
		return -1;
	bytes = (size_t)header[8] << 24 | (size_t)header[9] << 16 | (size_t)header[10] << 8 |
		header[11];
	if (memcmp(header, DC_FRAME_MAGIC, 6) || header[6] != DC_FRAME_VERSION ||
	    header[7] < DC_SIGNED || header[7] > DC_FAILED || bytes > DC_MAX_PAYLOAD_BYTES) {
		errno = EPROTO;
		return -1;
	}
	answer->kind = header[7];
	answer->payload_bytes = bytes;
	answer->payload = malloc(bytes + 1);
	if (!answer->payload)
		return -1;
	answer->payload[bytes] = '\0';
	if (receive(fd, answer->payload, bytes, deadline_ns)) {
		saved_errno = errno;
		free(answer->payload);
		answer->payload = NULL;
		errno = saved_errno;
		return -1;
	}
	return 0;
}

int dc_signer_ask(int fd, const char *document, size_t document_bytes, int64_t deadline_ns,
		  struct dc_answer *answer)
{
	unsigned char header[DC_FRAME_HEADER_BYTES] = DC_FRAME_MAGIC;
	struct iovec parts[] = {
		{ header, sizeof(header) },
		{ (void *)document, document_bytes },
	};

	if (document_bytes > DC_MAX_PAYLOAD_BYTES) {
		errno = EMSGSIZE;
		return -1;
	}
	header[6] = DC_FRAME_VERSION;
	header[7] = DC_REQUEST;
	header[8] = document_bytes >> 24;
	header[9] = document_bytes >> 16;
	header[10] = document_bytes >> 8;
	header[11] = document_bytes;
	if (send_request(fd, parts, 2, deadline_ns))
		return -1;
	return receive_answer(fd, deadline_ns, answer);
}
