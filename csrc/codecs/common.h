/* What the codecs share: the walk over groups of blocks, and rounding. */
#ifndef GGUFFAST_CODECS_COMMON_H
#define GGUFFAST_CODECS_COMMON_H

#include "../blocks.h"
#include "../half.h"
#include "../lanes/lanes.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* The number of the lowest bit that is set; one is. */
INLINE int lowest_bit(uint32_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctz(bits);
#else
    int n = 0;
    for (; !(bits & 1); bits >>= 1) n++;
    return n;
#endif
}

/* Below this llama.cpp takes a group of weights for zeros. */
#define GROUP_EPS 1e-15f

/* The heart of the design: a group is LANES blocks, and lane k works on block k.  A search over the weights of a
 * block then runs through them one after the other, as in llama.cpp, and so adds in the same order; no lane ever
 * needs to know of another. */
typedef struct {
    const float *x[LANES]; /* the weights of each block */
    const float *w[LANES]; /* their importance, if there is a matrix */
    size_t count;          /* the blocks that are real: a short last group repeats its last one */
} group;

/* The group that starts at block `first` of `total`.  per_row blocks make a row, and every row has the same
 * importance. */
INLINE group group_at(const float *src, const float *importance, size_t block, size_t first, size_t total,
                      size_t per_row) {
    group g;
    g.count = total - first < LANES ? total - first : LANES;
    for (size_t k = 0; k < LANES; k++) {
        const size_t at = first + (k < g.count ? k : g.count - 1);
        g.x[k] = src + at * block;
        g.w[k] = importance ? importance + at % per_row * block : NULL;
    }
    return g;
}

/* Columns at … at + n - 1 of LANES rows, turned on their side: out[i] holds column at + i. */
INLINE void load_columns(const float *const rows[LANES], size_t at, size_t n, lanes *out) {
    for (size_t i = 0; i < n; i += LANES) v_load_columns(rows, at + i, out + i);
}

/* To the nearest whole number, even in doubt.  `tame`: all |a| < 2^22 here, which is cheaper (1.5 * 2^23 leaves no
 * room for a fraction). */
INLINE lanes nearest(lanes a, bool tame) {
    if (tame) return (a + v_set(12582912.f)) - v_set(12582912.f);
    return v_nearest_any(a);
}

INLINE lanes clamp(lanes a, float low, float high) { return v_min(v_max(a, v_set(low)), v_set(high)); }

/* The same for one number, where blocks are finished one by one. */
INLINE int nearest_int(float a) {
    const float sum = a + 12582912.f;
    int32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

INLINE int clamp_int(int a, int low, int high) { return a < low ? low : a > high ? high : a; }

/* The largest magnitude of n weights; n is a multiple of LANES. */
INLINE float largest_magnitude(const float *x, int n) {
    lanes m = v_abs(v_load(x));
    for (int i = LANES; i < n; i += LANES) m = v_max(m, v_abs(v_load(x + i)));
    return v_largest(m);
}

/* The sum of the squares of n columns, in order. */
INLINE lanes sum_of_squares(const float *const rows[LANES], size_t n) {
    lanes sum = v_set(0), tile[LANES];
    for (size_t at = 0; at < n; at += LANES) {
        v_load_columns(rows, at, tile);
        for (int i = 0; i < LANES; i++) sum += tile[i] * tile[i];
    }
    return sum;
}

/* The levels of LANES weights of one block, from a fit: nearest(scale * (x - min)), 0 … nmax.  In memory order, for
 * nothing is summed here. */
INLINE lanes levels_affine(const float *x, float scale, float min, float nmax) {
    return clamp(v_nearest_any(v_set(scale) * (v_load(x) - v_set(min))), 0, nmax);
}

/* Likewise around zero: nearest(scale * x) + nmax, 0 … 2 * nmax - 1; but a fit of zeros, whose scale is 0, has
 * level 0 throughout. */
INLINE lanes levels_symmetric(const float *x, float scale, float nmax) {
    if (scale == 0) return v_set(0);
    return clamp(v_nearest_any(v_set(scale) * v_load(x)), -nmax, nmax - 1) + v_set(nmax);
}

#endif
