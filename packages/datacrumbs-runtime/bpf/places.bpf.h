/* SPDX-License-Identifier: MIT */
/*
 * places.bpf.h: which function a probe was hit in.
 *
 * Many places can share one attachment, which has one cookie for all of them. Then the cookie says
 * how to learn which place was hit, and the map "places" which function is there:
 * - of the kernel, by its address;
 * - of user space, by the cookie's number and the address within a page, which is the same wherever
 *   a file is mapped. Places with one number differ in it.
 * The end of a function of user space does not know its begin's address: it takes the frame by the
 * stack pointer, whose lowest bit marks the frames of such calls.
 */
#ifndef DATACRUMBS_PLACES_BPF_H
#define DATACRUMBS_PLACES_BPF_H

#include "maps.bpf.h"

#define DC_COOKIE_SHARED (1ULL << DC_COOKIE_SHARED_BIT)
#define DC_COOKIE_BY_STACK (1ULL << DC_COOKIE_BY_STACK_BIT)
#define DC_COOKIE_NUMBER 0xffffffffULL
#define DC_FRAME_BY_STACK 1ULL

/* Between the stack pointer at a function's first instruction and after its return */
#if defined(__TARGET_ARCH_x86)
#define DC_RETURN_ADDRESS_BYTES 8
#else
#define DC_RETURN_ADDRESS_BYTES 0
#endif

static __always_inline __u32 function_at(__u64 place)
{
	__u32 *index = bpf_map_lookup_elem(&places, &place);

	if (index)
		return *index;
	count_loss(DC_LOSS_STATE);
	return DC_NO_FUNCTION;
}

static __always_inline __u32 user_function(struct pt_regs *ctx, __u64 cookie)
{
	if (!(cookie & DC_COOKIE_SHARED))
		return cookie;
	return function_at((cookie & DC_COOKIE_NUMBER) << DC_PLACE_BITS |
			   (PT_REGS_IP(ctx) & ((1 << DC_PLACE_BITS) - 1)));
}

static __always_inline __u32 kernel_function(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);

	return cookie & DC_COOKIE_SHARED ? function_at(bpf_get_func_ip(ctx)) : cookie;
}

#endif /* DATACRUMBS_PLACES_BPF_H */
