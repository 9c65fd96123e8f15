/* IQ4_NL, IQ4_XS: four bits that name one of sixteen uneven values. */
#ifndef GGUFFAST_CODECS_IQ4_H
#define GGUFFAST_CODECS_IQ4_H

#include "fit.h"

static const float iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* Halfway between two values; on the step itself the upper one is the nearest, as in llama.cpp (its differences
 * x - lower and upper - x are exact near the middle, so that comparing with it is the same). */
static const float iq4_steps[16] = {0,     -115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16,
                                    -4.5f, 7,       19,     31.5f, 45.5f, 61,  79,     101};
static const float iq4_names[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The scale for which the nearest values lie closest to x. */
INLINE lanes fit_iq4(const lanes *x, const lanes *w) {
    mask zeros;
    const lanes zero = v_set(0), top = extreme(x, QK, &zeros);
    lanes scale = zero, best = zero;
    for (int step = 0; step < 16; step++) {
        /* First the largest weight on the largest value; then that value moved by -7 … 7, which must be better. */
        lanes divide = v_set((float)(step - 8 - 127)) / top;
        if (step == 0) divide = v_set(1) / (-top / v_set(-127));
        lanes sum_qx = zero, sum_q2 = zero;
        for (int i = 0; i < QK; i++) {
            const lanes q = v_staircase(divide * x[i], iq4_steps, iq4_values);
            const lanes wq = w[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
        const mask some = v_lt(zero, sum_q2);
        const lanes fit = sum_qx / sum_q2;
        if (step == 0) {
            scale = v_select(some, fit, zero);
            best = scale * sum_qx;
            continue;
        }
        const mask better = v_and(some, v_lt(best * sum_q2, sum_qx * sum_qx));
        scale = v_select(better, fit, scale);
        best = v_select(better, fit * sum_qx, best);
    }
    return v_select(zeros, zero, scale);
}

/* The scales of a group's blocks of 32: sub-blocks of `block` weights, whose mean square counts. */
INLINE void fit_iq4_group(const group *g, int block, float scale[][LANES]) {
    lanes mean_square = v_set(0);
    if (g->w[0]) mean_square = sum_of_squares(g->x, (size_t)block) * v_set(2.f / (float)block);
    for (int j = 0; j < block / QK; j++) {
        lanes x[QK], w[QK];
        load_columns(g->x, (size_t)(j * QK), QK, x);
        if (g->w[0]) {
            load_columns(g->w, (size_t)(j * QK), QK, w);
            for (int i = 0; i < QK; i++) w[i] = w[i] * v_sqrt(mean_square + x[i] * x[i]);
        } else
            for (int i = 0; i < QK; i++) w[i] = x[i] * x[i];
        v_store(scale[j], fit_iq4(x, w));
    }
}

/* The names of the values nearest to divide * x, two to a byte. */
INLINE void pack_iq4(const float *x, float divide, uint8_t qs[QK / 2]) {
    for (int i = 0; i < QK / 2; i += LANES) {
        const lanes low = v_staircase(v_set(divide) * v_load(x + i), iq4_steps, iq4_names);
        const lanes high = v_staircase(v_set(divide) * v_load(x + QK / 2 + i), iq4_steps, iq4_names);
        v_store_nibbles(qs + i, low, high);
    }
}

static void quantize_IQ4_NL(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const size_t per_row = ncols / QK, total = nrows * per_row;
    block_IQ4_NL *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK, first, total, per_row);
        float scale[1][LANES];
        fit_iq4_group(&g, QK, scale);
        for (size_t k = 0; k < g.count; k++, y++) {
            y->d = gf_half_from_float(scale[0][k]);
            pack_iq4(g.x[k], scale[0][k] != 0 ? 1 / scale[0][k] : 0, y->qs);
        }
    }
}

static void quantize_IQ4_XS(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    enum { COUNT = QK_K / QK };
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    block_IQ4_XS *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        float scale[COUNT][LANES];
        fit_iq4_group(&g, QK_K, scale);
        for (size_t k = 0; k < g.count; k++, y++) {
            float top = 0;
            for (int j = 0; j < COUNT; j++)
                if (fabsf(scale[j][k]) > fabsf(top)) top = scale[j][k];
            const float d = -top / 32, divide = d != 0 ? 1 / d : 0;
            unsigned high = 0;
            memset(y->scales_l, 0, sizeof y->scales_l);
            for (int j = 0; j < COUNT; j++) {
                const int s = clamp_int(nearest_int(divide * scale[j][k]), -32, 31);
                const float dl = d * (float)s;
                pack_iq4(g.x[k] + QK * j, dl != 0 ? 1 / dl : 0, y->qs + QK / 2 * j);
                const unsigned six = (unsigned)(s + 32);
                y->scales_l[j / 2] |= (uint8_t)((six & 15) << j % 2 * 4);
                high |= six >> 4 << 2 * j;
            }
            y->d = gf_half_from_float(d);
            y->scales_h[0] = (uint8_t)high;
            y->scales_h[1] = (uint8_t)(high >> 8);
        }
    }
}

INLINE void dequantize_iq4(const uint8_t qs[QK / 2], float d, float *dst) {
    for (int i = 0; i < QK / 2; i++) {
        dst[i] = d * iq4_values[qs[i] & 15];
        dst[i + QK / 2] = d * iq4_values[qs[i] >> 4];
    }
}

static void dequantize_IQ4_NL(const void *src, float *dst, size_t n) {
    const block_IQ4_NL *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) dequantize_iq4(x->qs, gf_half_to_float(x->d), dst);
}

static void dequantize_IQ4_XS(const void *src, float *dst, size_t n) {
    const block_IQ4_XS *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        const unsigned high = x->scales_h[0] | (unsigned)x->scales_h[1] << 8;
        for (int j = 0; j < QK_K / QK; j++, dst += QK) {
            const int s = (x->scales_l[j / 2] >> j % 2 * 4 & 15) | (int)(high >> 2 * j & 3) << 4;
            dequantize_iq4(x->qs + QK / 2 * j, d * (float)(s - 32), dst);
        }
    }
}

#endif
