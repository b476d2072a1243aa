// SPDX-License-Identifier: MIT
/* statistics.c: percentiles. */
#include "statistics.h"

static uint64_t bucket_middle(uint32_t bucket)
{
	uint32_t octave = bucket / DC_BUCKETS_PER_OCTAVE;
	uint64_t lowest, width;

	if (octave < 2)
		return bucket;
	octave--;
	width = 1ull << octave;
	lowest = (uint64_t)(bucket - octave * DC_BUCKETS_PER_OCTAVE) << octave;
	return lowest + width / 2;
}

uint64_t dc_statistics_percentile(const struct dc_statistics *statistics, double share)
{
	double exact = share * (double)statistics->calls;
	uint64_t wanted = (uint64_t)exact;
	uint64_t seen = 0;
	uint64_t middle;

	if ((double)wanted < exact || wanted == 0)
		wanted++;
	for (uint32_t bucket = 0; bucket < DC_BUCKETS; bucket++) {
		seen += statistics->buckets[bucket];
		if (seen < wanted)
			continue;
		middle = bucket_middle(bucket);
		if (middle < statistics->min_ns)
			return statistics->min_ns;
		return middle < statistics->max_ns ? middle : statistics->max_ns;
	}
	return statistics->max_ns;
}
