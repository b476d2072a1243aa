/* SPDX-License-Identifier: MIT */
/*
 * statistics.h: sums and percentiles per function.
 */
#ifndef DATACRUMBS_STATISTICS_H
#define DATACRUMBS_STATISTICS_H

#include <stdint.h>

/*
 * Durations are counted in buckets that are exact below 64 ns and at most 1/32 of their lower end
 * wide above: the middle of a bucket is at most 1.6 % away from any duration in it. The last bucket
 * ends at 2^44 ns, almost five hours; what is longer counts there.
 */
#define DC_BUCKET_BITS 5
#define DC_BUCKETS_PER_OCTAVE (1u << DC_BUCKET_BITS)
#define DC_LONGEST_BITS 44
#define DC_BUCKETS ((DC_LONGEST_BITS - DC_BUCKET_BITS + 1) * DC_BUCKETS_PER_OCTAVE)

struct dc_statistics {
	uint64_t calls;
	uint64_t errors;
	uint64_t time_ns;
	uint64_t min_ns;
	uint64_t max_ns;
	uint64_t bytes;
	uint64_t buckets[DC_BUCKETS];
};

static inline uint32_t dc_bucket(uint64_t duration_ns)
{
	uint32_t octave;

	if (duration_ns < DC_BUCKETS_PER_OCTAVE)
		return duration_ns;
	if (duration_ns >> DC_LONGEST_BITS)
		return DC_BUCKETS - 1;
	octave = 63 - __builtin_clzll(duration_ns) - DC_BUCKET_BITS;
	return octave * DC_BUCKETS_PER_OCTAVE + (uint32_t)(duration_ns >> octave);
}

static inline void dc_statistics_add(struct dc_statistics *statistics, uint64_t duration_ns,
				     uint32_t is_error, uint64_t bytes)
{
	statistics->calls++;
	statistics->errors += is_error;
	statistics->time_ns += duration_ns;
	statistics->bytes += bytes;
	if (duration_ns < statistics->min_ns || statistics->calls == 1)
		statistics->min_ns = duration_ns;
	if (duration_ns > statistics->max_ns)
		statistics->max_ns = duration_ns;
	statistics->buckets[dc_bucket(duration_ns)]++;
}

/* i where a bucket lies in [2^i, 2^(i+1)); 0 for the bucket of 0 ns too. */
static inline uint32_t dc_bucket_octave(uint32_t bucket)
{
	if (bucket < 2)
		return 0;
	if (bucket < DC_BUCKETS_PER_OCTAVE)
		return 31 - __builtin_clz(bucket);
	return bucket / DC_BUCKETS_PER_OCTAVE + DC_BUCKET_BITS - 1;
}

/* The duration that a share (0 to 1) of the calls does not exceed: the middle of its bucket. */
uint64_t dc_statistics_percentile(const struct dc_statistics *statistics, double share);

#endif /* DATACRUMBS_STATISTICS_H */
