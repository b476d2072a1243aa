/* SPDX-License-Identifier: MIT */
/*
 * One conversation with the signer over its Unix socket. Each side sends one frame:
 *
 *   offset  bytes  what
 *   0       6      "DCSIGN"
 *   6       1      version of the framing, 1
 *   7       1      kind, enum dc_frame_kind
 *   8       4      length of the payload in bytes, big endian
 *   12      ...    payload
 *
 * The payload of a request and of DC_SIGNED is a probe file document, JSON, gzipped or not. That
 * of DC_REFUSED and DC_FAILED is UTF-8 text: what is wrong and, in a second line, a hint.
 * The runtime's signing_rpc module is the other end.
 */
#ifndef DC_SIGNER_SOCKET_H
#define DC_SIGNER_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#define DC_FRAME_MAGIC "DCSIGN"
#define DC_FRAME_VERSION 1
#define DC_FRAME_HEADER_BYTES 12
#define DC_MAX_PAYLOAD_BYTES (64u << 20)

enum dc_frame_kind {
	DC_REQUEST = 1,
	DC_SIGNED = 2,
	DC_REFUSED = 3, /* by the rules: asking again changes nothing */
	DC_FAILED = 4,	/* the signer could not do it now */
};

struct dc_answer {
	enum dc_frame_kind kind;
	char *payload; /* malloc()ed, with a zero byte behind it */
	size_t payload_bytes;
};

/* The functions return 0, or -1 with errno; ETIMEDOUT when deadline_ns (CLOCK_MONOTONIC) passed. */

/* Returns the connected, non-blocking socket instead of 0. Paths of any length are accepted. */
int dc_signer_connect(const char *path, int64_t deadline_ns);

/*
 * Send the document and wait for the answer. EPROTO: the answer is no frame of this version;
 * ECONNRESET: the signer closed the connection without a whole answer.
 */
int dc_signer_ask(int fd, const char *document, size_t document_bytes, int64_t deadline_ns,
		  struct dc_answer *answer);

int64_t dc_now_ns(void);

#endif
