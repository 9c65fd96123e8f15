/* MXFP4, NVFP4: four bits that are a tiny float (E2M1): a sign and one of eight magnitudes.
 *
 * llama.cpp looks at no importance matrix here. */
#ifndef GGUFFAST_CODECS_FP4_H
#define GGUFFAST_CODECS_FP4_H

#include "legacy.h"

/* Twice the values, so that they are whole; the scales are halved instead. */
static const float fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* ---- which value lies nearest ---- */

/* Halfway between two magnitudes.  On the step itself the lower one is taken, as in llama.cpp, which asks all
 * sixteen for their distance and keeps the first of equals.  Near a step those distances are exact, so this is the
 * same. */
typedef struct {
    lanes at[7];
} fp4_steps;

/* Halves are added, because the sum may be too large for a float where the middle is not.  A value that is too
 * large itself is nearest to nothing. */
INLINE fp4_steps fp4_steps_for(float d) {
    fp4_steps steps;
    for (int i = 0; i < 7; i++) steps.at[i] = v_set(fp4_values[i] * d * 0.5f) + v_set(fp4_values[i + 1] * d * 0.5f);
    return steps;
}

INLINE lanes fp4_levels(const float *x, const fp4_steps *steps) {
    const lanes v = v_load(x), magnitude = v_abs(v), zero = v_set(0), *at = steps->at;
    const mask four = v_lt(at[3], magnitude);
    const mask two = v_lt(v_select(four, at[5], at[1]), magnitude);
    const lanes last = v_select(four, v_select(two, at[6], at[4]), v_select(two, at[2], at[0]));
    lanes level = v_select(four, v_set(4), zero) + v_select(two, v_set(2), zero);
    level += v_select(v_lt(last, magnitude), v_set(1), zero);
    return level + v_select(v_and(v_lt(v, zero), v_lt(zero, level)), v_set(8), zero);
}

/* As llama.cpp does it, to the letter: for weights so far above the largest value that their distances round to the
 * same number. */
INLINE lanes fp4_levels_far(const float *x, float d) {
    const lanes v = v_load(x);
    lanes level = v_set(0), least = v_abs(v_set(fp4_values[0] * d) - v);
    for (int i = 1; i < 16; i++) {
        const lanes distance = v_abs(v_set(fp4_values[i] * d) - v);
        const mask nearer = v_lt(distance, least);
        level = v_select(nearer, v_set((float)i), level);
        least = v_select(nearer, distance, least);
    }
    return level;
}

/* ---- MXFP4: 32 weights, a power of two ---- */

/* floorf(log2f(a)) for a finite a above 0, as the C library has it: log2f rounds to nearest, so that just below 2^k
 * it gives k.  With a = 2^k (1 - u) that is where u / ln 2 is below half a unit in the last place of k. */
INLINE int floor_log2(float a) {
    int k = 1 - 127;
    if (a < FLT_MIN) a *= 0x1p24f, k -= 24;
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    k += (int)(bits >> 23);                              /* a < 2^k */
    const uint32_t below = 0x800000 - (bits & 0x7fffff); /* u in steps of 2^-24 */
    /* The whole part of the logarithm decides about the unit. */
    const int whole = k > 0 ? k - 1 : -k;
    int unit = 128;
    if (below > 128) return k - 1; /* most are */
    while (unit > whole) unit /= 2;
    return (float)below < (float)unit * 0.693147f ? k : k - 1;
}

/* Half of 2^(e - 127). */
INLINE float half_of_e8m0(uint8_t e) {
    const uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static void quantize_MXFP4(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    block_MXFP4 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / QK); b++, y++, src += QK) {
        const float largest = largest_magnitude(src, QK);
        /* The largest weight is 4 to 8 times the scale.  An exponent below 0 comes out as its low byte: such tiny
         * blocks are garbage in llama.cpp too. */
        y->e = largest > 0 ? (uint8_t)(floor_log2(largest) - 2 + 127) : 0;
        const fp4_steps steps = fp4_steps_for(half_of_e8m0(y->e));
        block_levels levels;
        for (int i = 0; i < QK / LANES; i++) levels.at[i] = fp4_levels(src + i * LANES, &steps);
        pack_nibbles(&levels, y->qs);
    }
}

static void dequantize_MXFP4(const void *src, float *dst, size_t n) {
    const block_MXFP4 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = half_of_e8m0(x->e);
        for (int i = 0; i < QK / 2; i++) {
            dst[i] = fp4_values[x->qs[i] & 15] * d;
            dst[i + QK / 2] = fp4_values[x->qs[i] >> 4] * d;
        }
    }
}

/* ---- NVFP4: 64 weights, a scale of eight bits for every 16 ---- */

enum { NV = 16 };

/* To UE4M3: no sign, four bits of exponent, three of fraction.  a >= 0.  Halves go up, also where the rest of the
 * fraction is not 0; the largest is 448. */
INLINE uint8_t to_ue4m3(float a) {
    if (a < 0x1p-6f) { /* in steps of 2^-9; never up to 2^-6 */
        const int steps = (int)(a * 512 + 0.5f);
        return (uint8_t)(steps > 7 ? 7 : steps);
    }
    if (a >= 256) return 0x7e; /* llama.cpp has no number between 240 and 448 */
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    const uint32_t rounded = (bits >> 19) + 1; /* one bit more than is kept; a carry goes into the exponent */
    const uint32_t code = (rounded >> 1) - ((127 - 7) << 3);
    return (uint8_t)(code < 0x78 ? code : 0x7e);
}

/* Half of a UE4M3; the code for NaN counts as 0, and the highest bit not at all. */
INLINE float half_of_ue4m3(uint8_t code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    if (code == 0x7f) return 0;
    if (exponent == 0) return (float)fraction * 0x1p-10f;
    const uint32_t bits = (uint32_t)(exponent - 7 - 1 + 127) << 23 | (uint32_t)fraction << 20;
    float d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* Sixteen levels, weight j low and weight j + 8 high in byte j. */
INLINE void quantize_nv(const float *x, uint8_t *scale, uint8_t qs[NV / 2]) {
    const float largest = largest_magnitude(x, NV);
    *scale = to_ue4m3(largest / 6);
    const float d = half_of_ue4m3(*scale);
    uint8_t levels[NV];
    const fp4_steps steps = fp4_steps_for(d != 0 ? d : INFINITY);
    for (int i = 0; i < NV; i += LANES) v_store_u8(levels + i, fp4_levels(x + i, &steps));
    for (int i = 0; largest >= 0x1p31f && i < NV; i += LANES) v_store_u8(levels + i, fp4_levels_far(x + i, d));
    for (int j = 0; j < NV / 2; j++) qs[j] = (uint8_t)(levels[j] | levels[j + NV / 2] << 4);
}

static void quantize_NVFP4(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    block_NVFP4 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / 64); b++, y++, src += 64)
        for (int s = 0; s < 4; s++) quantize_nv(src + NV * s, y->d + s, y->qs + NV / 2 * s);
}

static void dequantize_NVFP4(const void *src, float *dst, size_t n) {
    const block_NVFP4 *x = src;
    for (size_t b = 0; b < n / 64; b++, x++)
        for (int s = 0; s < 4; s++, dst += NV) {
            const float d = half_of_ue4m3(x->d[s]);
            for (int j = 0; j < NV / 2; j++) {
                const uint8_t two = x->qs[NV / 2 * s + j];
                dst[j] = fp4_values[two & 15] * d;
                dst[j + NV / 2] = fp4_values[two >> 4] * d;
            }
        }
}

#endif
