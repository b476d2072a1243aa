// SPDX-License-Identifier: MIT
/* addresses.c: addresses of the kernel in traces of users. */
#include "addresses.h"

#include <sys/random.h>

static uint64_t rotate(uint64_t word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int count)
{
	while (count--) {
		v[0] += v[1];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[0] = rotate(v[0], 32);
		v[2] += v[3];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

bool dc_address_key_make(struct dc_address_key *key)
{
	return getrandom(key->words, sizeof(key->words), 0) == sizeof(key->words);
}

/* SipHash-2-4 of the eight bytes, which is what the kernel does for %p. */
uint32_t dc_hide_address(const struct dc_address_key *key, uint64_t address)
{
	const uint64_t words[] = { address, (uint64_t)sizeof(address) << 56 };
	uint64_t v[4] = {
		key->words[0] ^ 0x736f6d6570736575ULL,
		key->words[1] ^ 0x646f72616e646f6dULL,
		key->words[0] ^ 0x6c7967656e657261ULL,
		key->words[1] ^ 0x7465646279746573ULL,
	};

	for (int i = 0; i < 2; i++) {
		v[3] ^= words[i];
		sip_rounds(v, 2);
		v[0] ^= words[i];
	}
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
