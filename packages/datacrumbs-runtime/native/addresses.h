/* SPDX-License-Identifier: MIT */
/*
 * addresses.h: addresses of the kernel in traces of users.
 *
 * Where the kernel keeps what is a secret: it makes attacks on the kernel hard. Like the kernel's
 * own messages (%p), a trace shows a number instead, the same one for the same address.
 */
#ifndef DATACRUMBS_ADDRESSES_H
#define DATACRUMBS_ADDRESSES_H

#include <stdbool.h>
#include <stdint.h>

struct dc_address_key {
	uint64_t words[2];
};

/* Make a key that nobody knows; false: the kernel gives none. */
bool dc_address_key_make(struct dc_address_key *key);

/*
 * Whether a number can be an address of the kernel: those of all architectures served here are in
 * the last 256th of the address space. Small negative numbers are none.
 */
static inline bool dc_is_kernel_address(uint64_t value)
{
	return value >= 0xff00000000000000ULL && value < 0xffffffffff000000ULL;
}

/* What stands for an address. */
uint32_t dc_hide_address(const struct dc_address_key *key, uint64_t address);

#endif /* DATACRUMBS_ADDRESSES_H */
