/* Q3_K, Q6_K: super-blocks of 256 weights in sixteen sub-blocks of 16; each has a signed scale, quantized in turn
 * against one half-precision factor. */
#ifndef GGUFFAST_CODECS_K_SYMMETRIC_H
#define GGUFFAST_CODECS_K_SYMMETRIC_H

#include "fit.h"
#include "packing.h"

enum { SUBS = QK_K / 16 };

/* What a group's searches found: [sub-block][lane], and for a descent the levels too, [weight][lane]. */
typedef struct {
    float scale[SUBS][LANES];
    float level_scale[SUBS][LANES];
    float level[QK_K][LANES];
} symmetric_fits;

/* The levels of a super-block from its final scales: nearest(x / d) + nmax.  Where d came out as 0 the levels that
 * the search found stay. */
INLINE void symmetric_levels(const float *x, float all_d, const int scale[SUBS], float nmax,
                             const symmetric_fits *fits, size_t lane, bool descended, uint8_t levels[QK_K]) {
    for (int j = 0; j < SUBS; j++) {
        const float d = all_d * (float)scale[j];
        if (d == 0 && descended) {
            for (int i = 16 * j; i < 16 * j + 16; i++) levels[i] = (uint8_t)fits->level[i][lane];
            continue;
        }
        for (int i = 16 * j; i < 16 * j + 16; i += LANES) {
            lanes l;
            if (d == 0) l = levels_symmetric(x + i, fits->level_scale[j][lane], nmax);
            else l = clamp(v_nearest_any(v_load(x + i) / v_set(d)), -nmax, nmax - 1) + v_set(nmax);
            v_store_u8(levels + i, l);
        }
    }
}

/* The scale of the largest magnitude, the first of equals; 0 if all are 0. */
INLINE float largest_scale(const float scales[SUBS][LANES], size_t lane) {
    float largest = 0, at = 0;
    for (int j = 0; j < SUBS; j++)
        if (fabsf(scales[j][lane]) > largest) {
            at = scales[j][lane];
            largest = fabsf(at);
        }
    return at;
}

/* ---- Q6_K ---- */

INLINE void pack_Q6_K(const int scale[SUBS], gf_half d, const uint8_t *levels, block_Q6_K *y) {
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *l = levels + 128 * half + i;
            uint8_t *ql = y->ql + 64 * half + i;
            ql[0] = (uint8_t)((l[0] & 15) | (l[64] & 15) << 4);
            ql[32] = (uint8_t)((l[32] & 15) | (l[96] & 15) << 4);
            y->qh[32 * half + i] = (uint8_t)(l[0] >> 4 | l[32] >> 4 << 2 | l[64] >> 4 << 4 | l[96] >> 4 << 6);
        }
    for (int j = 0; j < SUBS; j++) y->scales[j] = (uint8_t)scale[j];
    y->d = d;
}

static void quantize_Q6_K(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    block_Q6_K *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        symmetric_fits fits;
        for (int j = 0; j < SUBS; j++) {
            lanes x[16], w[16];
            load_columns(g.x, 16 * (size_t)j, 16, x);
            if (importance) load_columns(g.w, 16 * (size_t)j, 16, w);
            else
                for (int i = 0; i < 16; i++) w[i] = x[i] * x[i];
            const symmetric_fit fit = fit_symmetric(x, w, 16, 32, true);
            v_store(fits.scale[j], fit.scale);
            v_store(fits.level_scale[j], fit.level_scale);
        }
        for (size_t k = 0; k < g.count; k++, y++) {
            const float top = largest_scale(fits.scale, k);
            if (fabsf(top) < GROUP_EPS) {
                memset(y, 0, sizeof *y);
                continue;
            }
            const float per_scale = -128.f / top;
            const gf_half d = gf_half_from_float(1 / per_scale);
            int scale[SUBS];
            uint8_t levels[QK_K];
            for (int j = 0; j < SUBS; j++) {
                const int s = nearest_int(per_scale * fits.scale[j][k]);
                scale[j] = (int8_t)(s > 127 ? 127 : s);
            }
            symmetric_levels(g.x[k], gf_half_to_float(d), scale, 32, &fits, k, false, levels);
            pack_Q6_K(scale, d, levels, y);
        }
    }
}

static void dequantize_Q6_K(const void *src, float *dst, size_t n) {
    const block_Q6_K *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int j = 0; j < SUBS; j++, dst += 16) {
            const float scale = d * (float)(int8_t)x->scales[j];
            const int quarter = j % 8 / 2, at = j % 2 * 16; /* of the 128 weights that this sub-block lies in */
            const uint8_t *ql = x->ql + j / 8 * 64 + quarter % 2 * 32 + at, *qh = x->qh + j / 8 * 32 + at;
            for (int i = 0; i < 16; i++) {
                const int level = (ql[i] >> quarter / 2 * 4 & 15) | (qh[i] >> 2 * quarter & 3) << 4;
                dst[i] = scale * (float)(level - 32);
            }
        }
    }
}

/* ---- Q3_K ---- */

INLINE void pack_Q3_K(const int scale[SUBS], gf_half d, const uint8_t *levels, block_Q3_K *y) {
    pack_bit(levels, 2, y->hmask);
    pack_2bit(levels, y->qs);
    /* Sixteen scales of six bits in twelve bytes: low nibbles first, then the high bits, four to a byte. */
    memset(y->scales, 0, sizeof y->scales);
    for (int j = 0; j < SUBS; j++) {
        const unsigned s = (unsigned)(scale[j] + 32);
        y->scales[j % 8] |= (uint8_t)((s & 15) << j / 8 * 4);
        y->scales[8 + j % 4] |= (uint8_t)(s >> 4 << j / 4 * 2);
    }
    y->d = d;
}

INLINE void descend_Q3_K(const group *g, symmetric_fits *fits) {
    for (int j = 0; j < SUBS; j++) {
        lanes x[16], found[16];
        load_columns(g->x, 16 * (size_t)j, 16, x);
        v_store(fits->scale[j], fit_descent(x, 16, 4, found));
        for (int i = 0; i < 16; i++) v_store(fits->level[16 * j + i], found[i]);
    }
}

/* With an importance matrix the sub-blocks' scales are fitted in their turn: fits->scale become their levels, and
 * the factor of each super-block goes to d[]. */
INLINE void fit_Q3_K(const group *g, symmetric_fits *fits, float d[LANES]) {
    const lanes mean_square = sum_of_squares(g->x, QK_K) * v_set(2) / v_set(QK_K);
    lanes fitted[SUBS], sums[SUBS];
    for (int j = 0; j < SUBS; j++) {
        lanes x[16], w[16], sum = v_set(0);
        load_columns(g->x, 16 * (size_t)j, 16, x);
        load_columns(g->w, 16 * (size_t)j, 16, w);
        for (int i = 0; i < 16; i++) {
            w[i] = w[i] * v_sqrt(mean_square + x[i] * x[i]);
            sum += w[i];
        }
        const symmetric_fit fit = fit_symmetric(x, w, 16, 4, true);
        fitted[j] = fit.scale, sums[j] = sum;
        v_store(fits->level_scale[j], fit.level_scale);
    }
    const symmetric_fit outer = fit_symmetric(fitted, sums, SUBS, 32, false);
    v_store(d, outer.scale);
    for (int j = 0; j < SUBS; j++) {
        const lanes level = clamp(v_nearest_any(outer.level_scale * fitted[j]), -32, 31);
        v_store(fits->scale[j], v_select(outer.zeros, v_set(-32), level));
    }
}

/* Plain: the scale of the largest magnitude becomes -32. */
INLINE gf_half header_Q3_K(const symmetric_fits *fits, size_t lane, int scale[SUBS]) {
    const float top = largest_scale(fits->scale, lane), per_scale = top != 0 ? -32.f / top : 0;
    for (int j = 0; j < SUBS; j++) {
        const int s = (int8_t)nearest_int(per_scale * fits->scale[j][lane]);
        scale[j] = top != 0 ? clamp_int(s, -32, 31) : -32;
    }
    return gf_half_from_float(top != 0 ? 1 / per_scale : 0);
}

static void quantize_Q3_K(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    block_Q3_K *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        symmetric_fits fits;
        float fitted_d[LANES];
        if (importance) fit_Q3_K(&g, &fits, fitted_d);
        else descend_Q3_K(&g, &fits);
        for (size_t k = 0; k < g.count; k++) {
            int scale[SUBS];
            uint8_t levels[QK_K];
            gf_half d;
            if (importance) {
                d = gf_half_from_float(fitted_d[k]);
                for (int j = 0; j < SUBS; j++) scale[j] = (int)fits.scale[j][k];
            } else d = header_Q3_K(&fits, k, scale);
            symmetric_levels(g.x[k], gf_half_to_float(d), scale, 4, &fits, k, !importance, levels);
            pack_Q3_K(scale, d, levels, y++);
        }
    }
}

static void dequantize_Q3_K(const void *src, float *dst, size_t n) {
    const block_Q3_K *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int j = 0; j < SUBS; j++, dst += 16) {
            const int low = x->scales[j % 8] >> j / 8 * 4 & 15, high = x->scales[8 + j % 4] >> j / 4 * 2 & 3;
            const float scale = d * (float)((low | high << 4) - 32);
            const uint8_t *qs = x->qs + j / 8 * 32 + j % 2 * 16, *hmask = x->hmask + j % 2 * 16;
            for (int i = 0; i < 16; i++) {
                const int level = (qs[i] >> j % 8 / 2 * 2 & 3) | (hmask[i] >> j / 2 & 1) << 2;
                dst[i] = scale * (float)(level - 4);
            }
        }
    }
}

#endif
