/* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights with one scale, and for the _1 types a minimum. */
#ifndef GGUFFAST_CODECS_LEGACY_H
#define GGUFFAST_CODECS_LEGACY_H

#include "fit.h"

/* One of the types but Q8_0.  A member that a type lacks has offset 0, where each block has its scale. */
typedef struct {
    int nmax;             /* levels -nmax … nmax - 1, or with a minimum 0 … nmax */
    affine_search search; /* with a minimum and an importance matrix */
    size_t bytes;         /* of a block */
    size_t m, qh, qs;     /* where in it the minimum stands, the fifth bits, the other four */
} legacy_kind;

#define MEMBER(name, member) .member = offsetof(block_##name, member)
static const legacy_kind kind_Q4_0 = {.nmax = 8, .bytes = sizeof(block_Q4_0), MEMBER(Q4_0, qs)};
static const legacy_kind kind_Q5_0 = {.nmax = 16, .bytes = sizeof(block_Q5_0), MEMBER(Q5_0, qh), MEMBER(Q5_0, qs)};
static const legacy_kind kind_Q4_1 = {.nmax = 15,
                                      .search = {15, -0.9f, 0.05f, 36, false},
                                      .bytes = sizeof(block_Q4_1),
                                      MEMBER(Q4_1, m),
                                      MEMBER(Q4_1, qs)};
static const legacy_kind kind_Q5_1 = {.nmax = 31,
                                      .search = {31, -0.9f, 0.05f, 36, false},
                                      .bytes = sizeof(block_Q5_1),
                                      MEMBER(Q5_1, m),
                                      MEMBER(Q5_1, qh),
                                      MEMBER(Q5_1, qs)};
#undef MEMBER

/* The levels of a block, LANES at a time. */
typedef struct {
    lanes at[QK / LANES];
} block_levels;

/* ---- plain: the extremes of a block decide everything ---- */

/* The first weight of a block that equals `value`: zeros are equal, but have signs. */
INLINE float first_equal(const float *x, float value) {
    for (int i = 0; value == 0; i++)
        if (x[i] == 0) return x[i];
    return value;
}

/* The weight of the largest magnitude, the first of equals; in a block of zeros 0, of whichever sign they are. */
INLINE float first_largest(const float *x) {
    lanes m = v_abs(v_load(x));
    for (int i = LANES; i < QK; i += LANES) m = v_max(m, v_abs(v_load(x + i)));
    const float magnitude = v_largest(m);
    for (int i = 0; magnitude != 0; i += LANES) {
        const uint32_t found = v_bits(v_eq(v_abs(v_load(x + i)), v_set(magnitude)));
        if (found) return x[i + lowest_bit(found)];
    }
    return 0;
}

INLINE bool not_finite(float a) { return !(fabsf(a) <= FLT_MAX); }

/* level = (x - min) * scale + half, cut off, at most nmax.  `broken`: the block's span leaves float's range, so
 * that its scale is not finite; x86 then converts infinities and NaN to a number whose low byte is 0. */
INLINE block_levels levels_plain(const float *x, float min, float scale, bool broken, float half, float nmax) {
    block_levels levels;
    for (int i = 0; i < QK / LANES; i++) {
        const lanes v = (v_load(x + i * LANES) - v_set(min)) * v_set(scale) + v_set(half);
        levels.at[i] = v_set(0);
        if (!broken) levels.at[i] = v_min(v, v_set(nmax));
    }
    return levels;
}

/* Around zero: the weight of the largest magnitude gets level 0. */
INLINE block_levels plain_symmetric(const float *x, int nmax, gf_half *d_out) {
    const float d = first_largest(x) / (float)-nmax, scale = d != 0 ? 1 / d : 0;
    *d_out = gf_half_from_float(d);
    return levels_plain(x, 0, scale, not_finite(scale), (float)nmax + 0.5f, (float)(2 * nmax - 1));
}

/* From the least weight, level 0, to the largest, level nmax. */
INLINE block_levels plain_affine(const float *x, int nmax, gf_half *d_out, gf_half *m_out) {
    lanes low = v_load(x), high = low;
    for (int i = LANES; i < QK; i += LANES) {
        low = v_min(v_load(x + i), low);
        high = v_max(v_load(x + i), high);
    }
    const float min = first_equal(x, v_smallest(low)), max = first_equal(x, v_largest(high));
    const float d = (max - min) / (float)nmax, scale = d != 0 ? 1 / d : 0;
    *d_out = gf_half_from_float(d);
    *m_out = gf_half_from_float(min);
    return levels_plain(x, min, scale, not_finite(scale) || not_finite(d), 0.5f, (float)nmax);
}

/* ---- packing ---- */

INLINE void pack_nibbles(const block_levels *levels, uint8_t qs[QK / 2]) {
    for (int i = 0; i < QK / 2 / LANES; i++)
        v_store_nibbles(qs + i * LANES, levels->at[i], levels->at[i + QK / 2 / LANES]);
}

INLINE void pack_fifth_bits(const block_levels *levels, uint8_t qh[4]) {
    uint32_t bits = 0;
    for (int i = 0; i < QK / LANES; i++) bits |= v_bits(v_ge(levels->at[i], v_set(16))) << i * LANES;
    for (int b = 0; b < 4; b++) qh[b] = (uint8_t)(bits >> 8 * b);
}

INLINE void pack_legacy(const legacy_kind *kind, gf_half d, gf_half m, const block_levels *levels, uint8_t *y) {
    memcpy(y, d.bytes, sizeof d);
    if (kind->m) memcpy(y + kind->m, m.bytes, sizeof m);
    if (kind->qh) pack_fifth_bits(levels, y + kind->qh);
    pack_nibbles(levels, y + kind->qs);
}

INLINE void quantize_plain(const legacy_kind *kind, const float *x, size_t n, uint8_t *y) {
    for (size_t b = 0; b < n / QK; b++, x += QK, y += kind->bytes) {
        gf_half d, m = {{0, 0}};
        const block_levels levels =
            kind->m ? plain_affine(x, kind->nmax, &d, &m) : plain_symmetric(x, kind->nmax, &d);
        pack_legacy(kind, d, m, &levels, y);
    }
}

/* ---- with an importance matrix: the searches of the K types, and a mean square taken over the whole row ---- */

/* Here a lane is a row, because the mean square belongs to a row. */
typedef struct {
    group rows;
    lanes mean_square;
} row_group;

INLINE row_group rows_at(const float *src, const float *importance, size_t first, size_t nrows, size_t ncols) {
    row_group r = {.rows = group_at(src, importance, ncols, first, nrows, 1)};
    r.mean_square = sum_of_squares(r.rows.x, ncols) / v_set((float)ncols);
    return r;
}

/* The weights of block b of each row and what each counts. */
INLINE void row_weights(const row_group *r, const float *importance, size_t b, lanes x[QK], lanes w[QK]) {
    load_columns(r->rows.x, b * QK, QK, x);
    for (int i = 0; i < QK; i++) w[i] = v_set(importance[b * QK + i]) * v_sqrt(r->mean_square + x[i] * x[i]);
}

/* What block b of each row becomes. */
typedef struct {
    float d[LANES], m[LANES];
    float level_scale[LANES], level_min[LANES];
} row_fits;

INLINE row_fits fit_rows(const legacy_kind *kind, const row_group *r, const float *importance, size_t b) {
    lanes x[QK], w[QK];
    row_fits fits = {{0}, {0}, {0}, {0}};
    row_weights(r, importance, b, x, w);
    if (!kind->m) {
        const symmetric_fit fit = fit_symmetric(x, w, QK, (float)kind->nmax, true);
        v_store(fits.d, fit.scale);
        v_store(fits.level_scale, fit.level_scale);
        return fits;
    }
    const affine_fit fit = fit_affine(x, w, QK, kind->search);
    v_store(fits.d, fit.scale);
    v_store(fits.m, fit.min);
    v_store(fits.level_scale, fit.level_scale);
    v_store(fits.level_min, fit.level_min);
    return fits;
}

/* The levels of block x of the row in lane k. */
INLINE block_levels levels_fitted(const legacy_kind *kind, const float *x, const row_fits *fits, size_t k) {
    const float nmax = (float)kind->nmax;
    block_levels levels;
    for (int i = 0; i < QK / LANES; i++, x += LANES)
        levels.at[i] = kind->m ? levels_affine(x, fits->level_scale[k], fits->level_min[k], nmax)
                               : levels_symmetric(x, fits->level_scale[k], nmax);
    return levels;
}

INLINE void quantize_fitted(const legacy_kind *kind, const float *src, size_t nrows, size_t ncols,
                            const float *importance, uint8_t *y) {
    const size_t per_row = ncols / QK;
    for (size_t first = 0; first < nrows; first += LANES) {
        const row_group r = rows_at(src, importance, first, nrows, ncols);
        for (size_t b = 0; b < per_row; b++) {
            const row_fits fits = fit_rows(kind, &r, importance, b);
            for (size_t k = 0; k < r.rows.count; k++) {
                const block_levels levels = levels_fitted(kind, r.rows.x[k] + b * QK, &fits, k);
                const gf_half d = gf_half_from_float(fits.d[k]), m = gf_half_from_float(fits.m[k]);
                pack_legacy(kind, d, m, &levels, y + ((first + k) * per_row + b) * kind->bytes);
            }
        }
    }
}

/* ---- the codecs ---- */

/* The fifth bits of a block as a number, weight j at bit j. */
INLINE uint32_t fifth_bits(const uint8_t qh[4]) {
    return qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;
}

INLINE void dequantize_legacy(const legacy_kind *kind, const uint8_t *y, float *dst, size_t n) {
    for (size_t b = 0; b < n / QK; b++, y += kind->bytes, dst += QK) {
        const float d = gf_half_to_float(gf_half_at(y));
        const float m = kind->m ? gf_half_to_float(gf_half_at(y + kind->m)) : 0;
        const uint32_t high = kind->qh ? fifth_bits(y + kind->qh) : 0;
        const uint8_t *qs = y + kind->qs;
        for (int i = 0; i < QK / 2; i++) {
            const int low = (int)((qs[i] & 15u) | (high >> i & 1) << 4);
            const int top = (int)((unsigned)qs[i] >> 4 | (high >> (i + 16) & 1) << 4);
            dst[i] = kind->m ? d * (float)low + m : d * (float)(low - kind->nmax);
            dst[i + QK / 2] = kind->m ? d * (float)top + m : d * (float)(top - kind->nmax);
        }
    }
}

#define LEGACY(name)                                                                                               \
    static void quantize_##name(const float *src, void *dst, size_t nrows, size_t ncols,                           \
                                const float *importance) {                                                         \
        if (importance) quantize_fitted(&kind_##name, src, nrows, ncols, importance, dst);                         \
        else quantize_plain(&kind_##name, src, nrows *ncols, dst);                                                 \
    }                                                                                                              \
    static void dequantize_##name(const void *src, float *dst, size_t n) {                                         \
        dequantize_legacy(&kind_##name, src, dst, n);                                                              \
    }

LEGACY(Q4_0)
LEGACY(Q4_1)
LEGACY(Q5_0)
LEGACY(Q5_1)

static void quantize_Q8_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance; /* eight bits are enough: llama.cpp does not look at it either */
    block_Q8_0 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / QK); b++, y++) {
        const float *x = src + b * QK;
        const float d = fabsf(first_largest(x)) / 127, scale = d != 0 ? 1 / d : 0;
        y->d = gf_half_from_float(d);
        if (not_finite(scale)) {
            memset(y->qs, 0, QK);
            continue;
        }
        for (int i = 0; i < QK; i += LANES) {
            /* Halves go away from zero, as with roundf(); the largest float below 0.5, because 0.5 itself would
             * take the largest float below 0.5 to 1. */
            const lanes v = v_load(x + i) * v_set(scale), half = v_set(0x1.fffffep-2f);
            v_store_u8(y->qs + i, v + v_select(v_lt(v, v_set(0)), -half, half));
        }
    }
}

static void dequantize_Q8_0(const void *src, float *dst, size_t n) {
    const block_Q8_0 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = gf_half_to_float(x->d);
        for (int i = 0; i < QK; i++) dst[i] = d * (float)(int8_t)x->qs[i];
    }
}

#endif
