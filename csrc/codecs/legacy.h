/* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights with one scale, and for the _1 types a minimum. */

/* ---- plain: the extremes of a block decide everything --------------------------------------------------------- */

/* The first weight of a block for which `is` holds.  Equal numbers need not be alike (zeros have signs). */
#define FIRST_WEIGHT(x, is)                                                                                            \
    for (int i = 0; i < QK; i += LANES) {                                                                              \
        const lanes v = v_load(x + i);                                                                                 \
        const int at = v_first(is);                                                                                    \
        if (at < LANES) return x[i + at];                                                                              \
    }

INLINE float first_of_magnitude(const float *x, float magnitude) {
    if (magnitude == 0) return 0; /* and not the -0 that a block of zeros may begin with */
    FIRST_WEIGHT(x, v_eq(v_abs(v), v_set(magnitude)))
    return 0;
}

INLINE float first_equal(const float *x, float value) {
    FIRST_WEIGHT(x, v_eq(v, v_set(value)))
    return 0;
}

INLINE float largest_magnitude(const float *x) {
    lanes m = v_abs(v_load(x));
    for (int i = LANES; i < QK; i += LANES) m = v_max(m, v_abs(v_load(x + i)));
    return v_largest(m);
}

/* level = (x - min) * scale + half, cut off, at most nmax.  A scale that is not finite comes from a block whose span
 * leaves float's range; x86 then converts infinities and NaN to a number whose low byte is 0, for every weight. */
INLINE void levels_plain(const float *x, float min, float scale, bool broken, float half, float nmax,
                         uint8_t levels[QK]) {
    if (broken) {
        memset(levels, 0, QK);
        return;
    }
    for (int i = 0; i < QK; i += LANES) {
        const lanes v = (v_load(x + i) - v_set(min)) * v_set(scale) + v_set(half);
        v_store_u8(levels + i, v_min(v, v_set(nmax)));
    }
}

INLINE bool not_finite(float a) { return !(fabsf(a) <= FLT_MAX); }

/* Around zero: the weight of the largest magnitude gets level 0. */
INLINE gf_half plain_symmetric(const float *x, int nmax, uint8_t levels[QK]) {
    const float d = first_of_magnitude(x, largest_magnitude(x)) / (float)-nmax;
    const float scale = d != 0 ? 1 / d : 0;
    levels_plain(x, 0, scale, not_finite(scale), (float)nmax + 0.5f, (float)(2 * nmax - 1), levels);
    return gf_half_from_float(d);
}

/* From the least weight, level 0, to the largest, level nmax. */
INLINE gf_half plain_affine(const float *x, int nmax, gf_half *m, uint8_t levels[QK]) {
    lanes low = v_load(x), high = low;
    for (int i = LANES; i < QK; i += LANES) {
        const lanes v = v_load(x + i);
        low = v_min(v, low);
        high = v_max(v, high);
    }
    const float min = first_equal(x, v_smallest(low)), max = first_equal(x, v_largest(high));
    const float d = (max - min) / (float)nmax;
    const float scale = d != 0 ? 1 / d : 0;
    levels_plain(x, min, scale, not_finite(scale) || not_finite(d), 0.5f, (float)nmax, levels);
    *m = gf_half_from_float(min);
    return gf_half_from_float(d);
}

/* ---- packing -------------------------------------------------------------------------------------------------- */

INLINE void pack_nibbles(const uint8_t levels[QK], uint8_t qs[QK / 2]) {
    for (int i = 0; i < QK / 2; i++) qs[i] = (uint8_t)((levels[i] & 15) | (levels[i + QK / 2] & 15) << 4);
}

INLINE void pack_fifth_bits(const uint8_t levels[QK], uint8_t qh[4]) {
    for (int b = 0; b < 4; b++) {
        unsigned bits = 0;
        for (int i = 0; i < 8; i++) bits |= (levels[8 * b + i] >> 4 & 1u) << i;
        qh[b] = (uint8_t)bits;
    }
}

INLINE void pack_Q4_0(gf_half d, gf_half m, const uint8_t levels[QK], block_Q4_0 *y) {
    (void)m;
    y->d = d;
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q4_1(gf_half d, gf_half m, const uint8_t levels[QK], block_Q4_1 *y) {
    y->d = d, y->m = m;
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q5_0(gf_half d, gf_half m, const uint8_t levels[QK], block_Q5_0 *y) {
    (void)m;
    y->d = d;
    pack_fifth_bits(levels, y->qh);
    pack_nibbles(levels, y->qs);
}

INLINE void pack_Q5_1(gf_half d, gf_half m, const uint8_t levels[QK], block_Q5_1 *y) {
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

INLINE void fitted_symmetric(const row_group *r, const float *importance, size_t b, int nmax, gf_half d[LANES],
                             uint8_t levels[LANES][QK]) {
    lanes x[QK], w[QK];
    row_weights(r, importance, b, x, w);
    const symmetric_fit fit = fit_symmetric(x, w, QK, (float)nmax, true);
    float scale[LANES], level_scale[LANES];
    v_store(scale, fit.scale);
    v_store(level_scale, fit.level_scale);
    for (size_t k = 0; k < r->rows.count; k++) {
        d[k] = gf_half_from_float(scale[k]);
        levels_symmetric(r->rows.x[k] + b * QK, QK, level_scale[k], (float)nmax, levels[k]);
    }
}

INLINE void fitted_affine(const row_group *r, const float *importance, size_t b, affine_search search,
                          gf_half d[LANES], gf_half m[LANES], uint8_t levels[LANES][QK]) {
    lanes x[QK], w[QK];
    row_weights(r, importance, b, x, w);
    const affine_fit fit = fit_affine(x, w, QK, search);
    float scale[LANES], min[LANES], level_scale[LANES], level_min[LANES];
    v_store(scale, fit.scale);
    v_store(min, fit.min);
    v_store(level_scale, fit.level_scale);
    v_store(level_min, fit.level_min);
    for (size_t k = 0; k < r->rows.count; k++) {
        d[k] = gf_half_from_float(scale[k]);
        m[k] = gf_half_from_float(min[k]);
        levels_affine(r->rows.x[k] + b * QK, QK, level_scale[k], level_min[k], search.nmax, levels[k]);
    }
}

/* ---- the codecs ----------------------------------------------------------------------------------------------- */

#define QUANTIZE_LEGACY(name, PLAIN, FITTED)                                                                           \
    static void quantize_##name(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {   \
        const size_t per_row = ncols / QK;                                                                             \
        block_##name *y = dst;                                                                                         \
        if (!importance) {                                                                                             \
            for (size_t b = 0; b < nrows * per_row; b++) {                                                             \
                const float *x = src + b * QK;                                                                         \
                uint8_t levels[QK];                                                                                    \
                gf_half d, m = {{0, 0}};                                                                               \
                PLAIN;                                                                                                 \
                pack_##name(d, m, levels, y + b);                                                                      \
            }                                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
        for (size_t first = 0; first < nrows; first += LANES) {                                                        \
            const row_group r = rows_at(src, importance, first, nrows, ncols);                                         \
            for (size_t b = 0; b < per_row; b++) {                                                                     \
                uint8_t levels[LANES][QK];                                                                             \
                gf_half d[LANES], m[LANES] = {{{0, 0}}};                                                               \
                FITTED;                                                                                                \
                for (size_t k = 0; k < r.rows.count; k++)                                                              \
                    pack_##name(d[k], m[k], levels[k], y + (first + k) * per_row + b);                                 \
            }                                                                                                          \
        }                                                                                                              \
    }

QUANTIZE_LEGACY(Q4_0, d = plain_symmetric(x, 8, levels), fitted_symmetric(&r, importance, b, 8, d, levels))
QUANTIZE_LEGACY(Q5_0, d = plain_symmetric(x, 16, levels), fitted_symmetric(&r, importance, b, 16, d, levels))
QUANTIZE_LEGACY(Q4_1, d = plain_affine(x, 15, &m, levels), fitted_affine(&r, importance, b, search_Q4_1, d, m, levels))
QUANTIZE_LEGACY(Q5_1, d = plain_affine(x, 31, &m, levels), fitted_affine(&r, importance, b, search_Q5_1, d, m, levels))

static void quantize_Q8_0(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    (void)importance; /* eight bits are enough: llama.cpp does not look at it either */
    block_Q8_0 *y = dst;
    for (size_t b = 0; b < nrows * (ncols / QK); b++, y++) {
        const float *x = src + b * QK;
        const float d = largest_magnitude(x) / 127, scale = d != 0 ? 1 / d : 0;
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
