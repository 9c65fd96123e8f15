/* F32, F16, BF16: no blocks, only rounding.  And the search for numbers that are none. */
#ifndef GGUFFAST_CODECS_PLAIN_H
#define GGUFFAST_CODECS_PLAIN_H

#include "common.h"

static void quantize_F32(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    memcpy(dst, src, nrows * ncols * sizeof *src);
}

static void dequantize_F32(const void *src, float *dst, size_t n) { memcpy(dst, src, n * sizeof *dst); }

static void quantize_F16(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    const size_t n = nrows * ncols;
    uint8_t *y = dst;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store_f16(y + 2 * i, v_load(src + i));
    for (; i < n; i++) memcpy(y + 2 * i, gf_half_from_float(src[i]).bytes, 2);
}

static void dequantize_F16(const void *src, float *dst, size_t n) {
    const uint8_t *x = src;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, v_load_f16(x + 2 * i));
    for (; i < n; i++) dst[i] = gf_half_to_float(gf_half_at(x + 2 * i));
}

/* The upper half of a float, to nearest even; NaN stay NaN, and quiet. */
static void quantize_BF16(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    uint8_t *y = dst;
    for (size_t i = 0; i < nrows * ncols; i++) {
        uint32_t bits;
        memcpy(&bits, src + i, sizeof bits);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 64;
        const uint16_t half = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
        memcpy(y + 2 * i, &half, sizeof half);
    }
}

static void dequantize_BF16(const void *src, float *dst, size_t n) {
    const uint8_t *x = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, x + 2 * i, sizeof half);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(dst + i, &bits, sizeof bits);
    }
}

/* The first of n numbers whose exponent has all bits set, or n.  Stretches without one go by quickly. */
#define FIRST_NONFINITE(name, bits, exponent)                                                                      \
    static size_t name(const void *src, size_t n) {                                                                \
        const uint8_t *x = src;                                                                                    \
        for (size_t from = 0; from < n; from += 512) {                                                             \
            const size_t to = n - from < 512 ? n : from + 512;                                                     \
            unsigned found = 0;                                                                                    \
            for (size_t i = from; i < to; i++) {                                                                   \
                bits b;                                                                                            \
                memcpy(&b, x + i * sizeof b, sizeof b);                                                            \
                found |= (b & (exponent)) == (exponent);                                                           \
            }                                                                                                      \
            for (size_t i = from; found && i < to; i++) {                                                          \
                bits b;                                                                                            \
                memcpy(&b, x + i * sizeof b, sizeof b);                                                            \
                if ((b & (exponent)) == (exponent)) return i;                                                      \
            }                                                                                                      \
        }                                                                                                          \
        return n;                                                                                                  \
    }

FIRST_NONFINITE(first_nonfinite_F32, uint32_t, 0x7f800000u)
FIRST_NONFINITE(first_nonfinite_F16, uint16_t, 0x7c00u)
FIRST_NONFINITE(first_nonfinite_BF16, uint16_t, 0x7f80u)

#endif
