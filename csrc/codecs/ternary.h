/* Q1_0, Q2_0, TQ1_0, TQ2_0: one scale, and of each weight little more than its sign.
 *
 * llama.cpp looks at no importance matrix here: there is nothing to search. */
#ifndef GGUFFAST_CODECS_TERNARY_H
#define GGUFFAST_CODECS_TERNARY_H

#include "common.h"

/* ---- Q1_0: the mean magnitude, and whether a weight is negative ---- */

static void quantize_Q1_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    const size_t total = nrows * (ncols / QK_1);
    block_Q1_0 *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, NULL, QK_1, first, total, 1);
        lanes sum = v_set(0), tile[LANES];
        float mean[LANES];
        for (size_t at = 0; at < QK_1; at += LANES) {
            v_load_columns(g.x, at, tile);
            for (int i = 0; i < LANES; i++) sum += v_abs(tile[i]);
        }
        v_store(mean, sum / v_set(QK_1));
        for (size_t k = 0; k < g.count; k++, y++) {
            y->d = gf_half_from_float(mean[k]);
            for (int byte = 0; byte < QK_1 / 8; byte += 4) {
                uint32_t bits = 0;
                for (int i = 0; i < 32; i += LANES)
                    bits |= v_bits(v_ge(v_load(g.x[k] + 8 * byte + i), v_set(0))) << i;
                for (int b = 0; b < 4; b++) y->qs[byte + b] = (uint8_t)(bits >> 8 * b);
            }
        }
    }
}

#define SIGNS(a, b)                                                                                                \
    {-1, -1, a, b}, {1, -1, a, b}, {-1, 1, a, b}, { 1, 1, a, b }
static const float signs[16][4] = {SIGNS(-1, -1), SIGNS(1, -1), SIGNS(-1, 1), SIGNS(1, 1)};
#undef SIGNS

static void dequantize_Q1_0(const void *src, float *dst, size_t n) {
    const block_Q1_0 *x = src;
    for (size_t b = 0; b < n / QK_1; b++, x++, dst += QK_1) {
        const float d = gf_half_to_float(x->d);
        for (int i = 0; i < QK_1; i += 4) {
            const float *sign = signs[x->qs[i / 8] >> i % 8 & 15];
            for (int k = 0; k < 4; k++) dst[i + k] = d * sign[k];
        }
    }
}

/* ---- -1, 0 or 1 times the largest magnitude ---- */

/* 1 / d, but 0 where d is 0 or so small that 1 / d is infinite: every weight is level 0 then. */
INLINE float ternary_scale(float d) {
    const float scale = 1 / d;
    return d != 0 && scale <= FLT_MAX ? scale : 0;
}

/* The level + 1 of each weight; halves go away from zero. */
INLINE lanes ternary_levels(const float *x, float scale) {
    const lanes v = v_load(x) * v_set(scale);
    return v_select(v_ge(v, v_set(0.5f)), v_set(2), v_select(v_ge(v_set(-0.5f), v), v_set(0), v_set(1)));
}

/* n levels below 4, four to a byte, neighbours side by side. */
INLINE void pack_twos(const uint8_t *levels, int n, uint8_t *qs) {
    for (int i = 0; i < n; i += 8) {
        uint64_t eight;
        memcpy(&eight, levels + i, sizeof eight);
        eight |= eight >> 6;  /* two to each lower byte of 16 bits */
        eight |= eight >> 12; /* four to the lowest of 32 */
        qs[i / 4] = (uint8_t)eight;
        qs[i / 4 + 1] = (uint8_t)(eight >> 32);
    }
}

static void quantize_Q2_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    enum {
        AHEAD = 16
    }; /* so many blocks have their scales before the first is packed: no division is waited for */
    const size_t total = nrows * (ncols / QK_2);
    block_Q2_0 *y = dst;
    for (size_t first = 0; first < total; first += AHEAD) {
        const size_t count = total - first < AHEAD ? total - first : AHEAD;
        float d[AHEAD];
        for (size_t b = 0; b < count; b++) d[b] = largest_magnitude(src + b * QK_2, QK_2);
        for (size_t b = 0; b < count; b++, y++, src += QK_2) {
            const float scale = ternary_scale(d[b]);
            uint8_t levels[QK_2];
            y->d = gf_half_from_float(d[b]);
            for (int i = 0; i < QK_2; i += LANES) v_store_u8(levels + i, ternary_levels(src + i, scale));
            /* Where 1 / d is infinite, llama.cpp's conversion of infinity to an integer gives x86's least one. */
            if (scale == 0 && d[b] != 0) memset(levels, 0, sizeof levels);
            pack_twos(levels, QK_2, y->qs);
        }
    }
}

static void dequantize_Q2_0(const void *src, float *dst, size_t n) {
    const block_Q2_0 *x = src;
    for (size_t b = 0; b < n / QK_2; b++, x++, dst += QK_2) {
        const float d = gf_half_to_float(x->d);
        for (int i = 0; i < QK_2 / 4; i++)
            for (int k = 0; k < 4; k++) dst[4 * i + k] = (float)((x->qs[i] >> 2 * k & 3) - 1) * d;
    }
}

static void quantize_TQ2_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    block_TQ2_0 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / QK_K); b++, y++, src += QK_K) {
        const float d = largest_magnitude(src, QK_K), scale = ternary_scale(d);
        y->d = gf_half_from_float(d);
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < 32; i += LANES) {
                const float *x = src + 128 * half + i;
                lanes byte = ternary_levels(x + 96, scale);
                for (int k = 64; k >= 0; k -= 32) byte = byte * v_set(4) + ternary_levels(x + k, scale);
                v_store_u8(y->qs + 32 * half + i, byte);
            }
    }
}

static void dequantize_TQ2_0(const void *src, float *dst, size_t n) {
    const block_TQ2_0 *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int half = 0; half < 2; half++)
            for (int shift = 0; shift < 8; shift += 2)
                for (int i = 0; i < 32; i++) *dst++ = (float)((x->qs[32 * half + i] >> shift & 3) - 1) * d;
    }
}

/* ---- TQ1_0: five to a byte ----
 *
 * A byte is a fraction of 256 in base 3: the first level + 1 is its first digit after the point, which multiplying
 * by 3 brings to the front.  Rounded up, so that the digits come back. */

/* `digits`: a whole number below 3^5.  The sum is 1/486 or more from any whole number, so it need not be exact. */
INLINE lanes ternary_fraction(lanes digits) { return (digits * v_set(256) + v_set(242.5f)) * v_set(1 / 243.f); }

/* 5 * width weights in `width` bytes, weight j of each fifth in byte j. */
INLINE void pack_fives(const float *x, int width, float scale, uint8_t *qs) {
    for (int i = 0; i < width; i += LANES) {
        lanes digits = ternary_levels(x + i, scale);
        for (int k = 1; k < 5; k++) digits = digits * v_set(3) + ternary_levels(x + k * width + i, scale);
        v_store_u8(qs + i, ternary_fraction(digits));
    }
}

/* The last 16 weights in four bytes, weight j of each quarter in byte j. */
INLINE void pack_fours(const float *x, float scale, uint8_t qh[4]) {
    uint8_t levels[16];
    for (int i = 0; i < 16; i += LANES) v_store_u8(levels + i, ternary_levels(x + i, scale));
    for (int j = 0; j < 4; j++) {
        const int digits = ((levels[j] * 3 + levels[j + 4]) * 3 + levels[j + 8]) * 3 + levels[j + 12];
        qh[j] = (uint8_t)((digits * 3 * 256 + 242) / 243);
    }
}

static void quantize_TQ1_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance;
    block_TQ1_0 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / QK_K); b++, y++, src += QK_K) {
        const float d = largest_magnitude(src, QK_K), scale = ternary_scale(d);
        y->d = gf_half_from_float(d);
        pack_fives(src, 32, scale, y->qs);
        pack_fives(src + 160, 16, scale, y->qs + 32);
        pack_fours(src + 240, scale, y->qh);
    }
}

/* The first `digits` digits of `width` bytes, one digit of all of them after the other. */
INLINE float *unpack_digits(const uint8_t *bytes, int width, int digits, float d, float *dst) {
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (int k = 0; k < digits; k++)
        for (int i = 0; i < width; i++) {
            const unsigned rest = (uint8_t)(bytes[i] * powers[k]);
            *dst++ = (float)((int)(rest * 3 >> 8) - 1) * d;
        }
    return dst;
}

static void dequantize_TQ1_0(const void *src, float *dst, size_t n) {
    const block_TQ1_0 *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        dst = unpack_digits(x->qs, 32, 5, d, dst);
        dst = unpack_digits(x->qs + 32, 16, 5, d, dst);
        dst = unpack_digits(x->qh, 4, 4, d, dst);
    }
}

#endif
