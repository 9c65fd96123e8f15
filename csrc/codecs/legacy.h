/* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights with one scale, and for the _1 types a minimum. */

/* The levels of a block, LANES at a time. */
typedef struct {
    lanes at[QK / LANES];
} block_levels;

/* ---- plain: the extremes of a block decide everything --------------------------------------------------------- */

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

/* level = (x - min) * scale + half, cut off, at most nmax.  `broken`: the block's span leaves float's range, so that
 * its scale is not finite; x86 then converts infinities and NaN to a number whose low byte is 0. */
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

/* ---- packing -------------------------------------------------------------------------------------------------- */

INLINE void pack_nibbles(const block_levels *levels, uint8_t qs[QK / 2]) {
    for (int i = 0; i < QK / 2 / LANES; i++)
        v_store_nibbles(qs + i * LANES, levels->at[i], levels->at[i + QK / 2 / LANES]);
}

INLINE void pack_fifth_bits(const block_levels *levels, uint8_t qh[4]) {
    uint32_t bits = 0;
    for (int i = 0; i < QK / LANES; i++) bits |= v_bits(v_ge(levels->at[i], v_set(16))) << i * LANES;
    for (int b = 0; b < 4; b++) qh[b] = (uint8_t)(bits >> 8 * b);
}

INLINE void pack_Q4_0(gf_half d, gf_half m, const block_levels *levels, block_Q4_0 *y) {
    (void)m;
    y->d = d;
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q4_1(gf_half d, gf_half m, const block_levels *levels, block_Q4_1 *y) {
    y->d = d, y->m = m;
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q5_0(gf_half d, gf_half m, const block_levels *levels, block_Q5_0 *y) {
    (void)m;
    y->d = d;
    pack_fifth_bits(levels, y->qh);
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q5_1(gf_half d, gf_half m, const block_levels *levels, block_Q5_1 *y) {
    y->d = d, y->m = m;
    pack_fifth_bits(levels, y->qh);
    pack_nibbles(levels, y->qs);
}

/* ---- with an importance matrix: the searches of the K types, and a mean square taken over the whole row --------- */

static const affine_search search_Q4_1 = {15, -0.9f, 0.05f, 36, false};
static const affine_search search_Q5_1 = {31, -0.9f, 0.05f, 36, false};

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

INLINE row_fits fit_rows_symmetric(const row_group *r, const float *importance, size_t b, float nmax) {
    lanes x[QK], w[QK];
    row_fits fits = {{0}, {0}, {0}, {0}};
    row_weights(r, importance, b, x, w);
    const symmetric_fit fit = fit_symmetric(x, w, QK, nmax, true);
    v_store(fits.d, fit.scale);
    v_store(fits.level_scale, fit.level_scale);
    return fits;
}

INLINE row_fits fit_rows_affine(const row_group *r, const float *importance, size_t b, affine_search search) {
    lanes x[QK], w[QK];
    row_fits fits;
    row_weights(r, importance, b, x, w);
    const affine_fit fit = fit_affine(x, w, QK, search);
    v_store(fits.d, fit.scale);
    v_store(fits.m, fit.min);
    v_store(fits.level_scale, fit.level_scale);
    v_store(fits.level_min, fit.level_min);
    return fits;
}

/* ---- the codecs ----------------------------------------------------------------------------------------------- */

/* PLAIN: levels of the block x, and its d and m.  FIT: of block b of the rows r.  LEVELS: LANES levels from x + i, from the
 * fit of lane k. */
#define QUANTIZE_LEGACY(name, PLAIN, FIT, LEVELS)                                                                      \
    static void quantize_##name(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {   \
        const size_t per_row = ncols / QK;                                                                             \
        block_##name *y = dst;                                                                                         \
        for (size_t block = 0; !importance && block < nrows * per_row; block++) {                                      \
            const float *x = src + block * QK;                                                                         \
            gf_half d, m = {{0, 0}};                                                                                   \
            const block_levels levels = PLAIN;                                                                         \
            pack_##name(d, m, &levels, y + block);                                                                     \
        }                                                                                                              \
        for (size_t first = 0; importance && first < nrows; first += LANES) {                                          \
            const row_group r = rows_at(src, importance, first, nrows, ncols);                                         \
            for (size_t b = 0; b < per_row; b++) {                                                                     \
                const row_fits fits = FIT;                                                                             \
                for (size_t k = 0; k < r.rows.count; k++) {                                                            \
                    const float *x = r.rows.x[k] + b * QK;                                                             \
                    block_levels levels;                                                                               \
                    for (int i = 0; i < QK; i += LANES) levels.at[i / LANES] = LEVELS;                                 \
                    const gf_half d = gf_half_from_float(fits.d[k]), m = gf_half_from_float(fits.m[k]);                \
                    pack_##name(d, m, &levels, y + (first + k) * per_row + b);                                         \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

QUANTIZE_LEGACY(Q4_0, plain_symmetric(x, 8, &d), fit_rows_symmetric(&r, importance, b, 8),
                levels_symmetric(x + i, fits.level_scale[k], 8))
QUANTIZE_LEGACY(Q5_0, plain_symmetric(x, 16, &d), fit_rows_symmetric(&r, importance, b, 16),
                levels_symmetric(x + i, fits.level_scale[k], 16))
QUANTIZE_LEGACY(Q4_1, plain_affine(x, 15, &d, &m), fit_rows_affine(&r, importance, b, search_Q4_1),
                levels_affine(x + i, fits.level_scale[k], fits.level_min[k], 15))
QUANTIZE_LEGACY(Q5_1, plain_affine(x, 31, &d, &m), fit_rows_affine(&r, importance, b, search_Q5_1),
                levels_affine(x + i, fits.level_scale[k], fits.level_min[k], 31))

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

static void dequantize_Q4_0(const void *src, float *dst, size_t n) {
    const block_Q4_0 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = gf_half_to_float(x->d);
        for (int i = 0; i < QK / 2; i++) {
            dst[i] = d * (float)((x->qs[i] & 15) - 8);
            dst[i + QK / 2] = d * (float)((x->qs[i] >> 4) - 8);
        }
    }
}

static void dequantize_Q4_1(const void *src, float *dst, size_t n) {
    const block_Q4_1 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = gf_half_to_float(x->d), m = gf_half_to_float(x->m);
        for (int i = 0; i < QK / 2; i++) {
            dst[i] = d * (float)(x->qs[i] & 15) + m;
            dst[i + QK / 2] = d * (float)(x->qs[i] >> 4) + m;
        }
    }
}

/* The fifth bits of a block as a number, weight j at bit j. */
INLINE uint32_t fifth_bits(const uint8_t qh[4]) {
    return qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;
}

static void dequantize_Q5_0(const void *src, float *dst, size_t n) {
    const block_Q5_0 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = gf_half_to_float(x->d);
        const uint32_t high = fifth_bits(x->qh);
        for (int i = 0; i < QK / 2; i++) {
            dst[i] = d * (float)((int)((x->qs[i] & 15u) | (high >> i & 1) << 4) - 16);
            dst[i + QK / 2] = d * (float)((int)((unsigned)x->qs[i] >> 4 | (high >> (i + 16) & 1) << 4) - 16);
        }
    }
}

static void dequantize_Q5_1(const void *src, float *dst, size_t n) {
    const block_Q5_1 *x = src;
    for (size_t b = 0; b < n / QK; b++, x++, dst += QK) {
        const float d = gf_half_to_float(x->d), m = gf_half_to_float(x->m);
        const uint32_t high = fifth_bits(x->qh);
        for (int i = 0; i < QK / 2; i++) {
            dst[i] = d * (float)((x->qs[i] & 15u) | (high >> i & 1) << 4) + m;
            dst[i + QK / 2] = d * (float)((unsigned)x->qs[i] >> 4 | (high >> (i + 16) & 1) << 4) + m;
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
