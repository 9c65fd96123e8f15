/* Q2_K, Q4_K, Q5_K: super-blocks of 256 weights; each sub-block has a scale and a minimum, which are themselves
 * quantized and share two half-precision factors. */
#ifndef GGUFFAST_CODECS_K_AFFINE_H
#define GGUFFAST_CODECS_K_AFFINE_H

#include "fit.h"
#include "packing.h"

typedef struct {
    int n; /* weights in a sub-block: 16 (Q2_K) or 32 */
    float nmax;
    affine_search search, search_importance;
    float squares; /* with an importance matrix: how many times the mean square goes into the weights */
} affine_kind;

static const affine_kind kind_Q2_K = {16, 3, {3, -0.5f, 0.1f, 15, true}, {3, -0.9f, 0.05f, 36, false}, 1};
static const affine_kind kind_Q4_K = {32, 15, {15, -1.f, 0.1f, 20, false}, {15, -0.9f, 0.05f, 36, false}, 2};
static const affine_kind kind_Q5_K = {32, 31, {31, -0.5f, 0.1f, 15, false}, {31, -0.9f, 0.05f, 36, false}, 2};

enum { MOST = QK_K / 16 }; /* sub-blocks in a super-block, at the most */

/* The fits of a group's sub-blocks: [sub-block][lane]. */
typedef struct {
    float scale[MOST][LANES], min[MOST][LANES]; /* x ~ scale * level - min */
    float level_scale[MOST][LANES], level_min[MOST][LANES];
    lanes sum_w[MOST];
} affine_fits;

/* One super-block: what its lane of the fits becomes. */
typedef struct {
    uint8_t scale[MOST], min[MOST];
    gf_half d, dmin;
} affine_header;

/* How much each weight counts. */
INLINE void affine_weights(const affine_kind *kind, const group *g, size_t at, const lanes *x, lanes mean_square,
                           lanes *w) {
    const int n = kind->n;
    if (g->w[0]) {
        load_columns(g->w, at, (size_t)n, w);
        for (int i = 0; i < n; i++) w[i] = w[i] * v_sqrt(mean_square + x[i] * x[i]);
        return;
    }
    if (kind->search.absolute) {
        for (int i = 0; i < n; i++) w[i] = v_abs(x[i]);
        return;
    }
    lanes sum = v_set(0);
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    const lanes rms = v_sqrt(sum / v_set((float)n));
    for (int i = 0; i < n; i++) w[i] = rms + v_abs(x[i]);
}

INLINE void affine_fit_group(const affine_kind *kind, const group *g, affine_fits *fits) {
    lanes mean_square = v_set(0);
    if (g->w[0]) mean_square = sum_of_squares(g->x, QK_K) * v_set(kind->squares) / v_set(QK_K);
    const int n = kind->n;
    for (int j = 0; j < QK_K / n; j++) {
        const size_t at = (size_t)(j * n);
        lanes x[QK], w[QK];
        load_columns(g->x, at, (size_t)n, x);
        affine_weights(kind, g, at, x, mean_square, w);
        const affine_fit fit =
            g->w[0] ? fit_affine(x, w, n, kind->search_importance) : fit_affine(x, w, n, kind->search);
        v_store(fits->scale[j], fit.scale);
        v_store(fits->min[j], -fit.min);
        v_store(fits->level_scale[j], fit.level_scale);
        v_store(fits->level_min[j], fit.level_min);
        fits->sum_w[j] = fit.sum_w;
    }
}

/* Scales and minima of a super-block, plain: the largest one takes the largest number. */
INLINE void affine_headers_plain(const affine_fits *fits, int count, float top, size_t lane, affine_header *h) {
    float largest_scale = 0, largest_min = 0;
    for (int j = 0; j < count; j++) {
        if (fits->scale[j][lane] > largest_scale) largest_scale = fits->scale[j][lane];
        if (fits->min[j][lane] > largest_min) largest_min = fits->min[j][lane];
    }
    const float per_scale = largest_scale > 0 ? top / largest_scale : 0;
    const float per_min = largest_min > 0 ? top / largest_min : 0;
    for (int j = 0; j < count; j++) {
        h->scale[j] = (uint8_t)nearest_int(per_scale * fits->scale[j][lane]);
        h->min[j] = (uint8_t)nearest_int(per_min * fits->min[j][lane]);
    }
    h->d = gf_half_from_float(largest_scale / top);
    h->dmin = gf_half_from_float(largest_min / top);
}

/* With an importance matrix: a fit again, with the sub-blocks' weights, for all lanes at once. */
INLINE void affine_headers_fitted(const affine_fits *fits, int count, float top, affine_header headers[LANES]) {
    lanes values[MOST], levels[MOST];
    for (int minima = 0; minima < 2; minima++) {
        for (int j = 0; j < count; j++) values[j] = v_load(minima ? fits->min[j] : fits->scale[j]);
        float d[LANES];
        v_store(d, fit_nonnegative(values, fits->sum_w, count, top, levels));
        uint8_t bytes[LANES];
        for (int j = 0; j < count; j++) {
            v_store_u8(bytes, levels[j]);
            for (int k = 0; k < LANES; k++) *(minima ? &headers[k].min[j] : &headers[k].scale[j]) = bytes[k];
        }
        for (int k = 0; k < LANES; k++) *(minima ? &headers[k].dmin : &headers[k].d) = gf_half_from_float(d[k]);
    }
}

/* The levels of a super-block from its final scales and minima: nearest((x + dm) / d).  Where d came out as 0 the
 * levels that the search found stay. */
INLINE void affine_levels(const affine_kind *kind, const float *x, const affine_header *h, const affine_fits *fits,
                          size_t lane, uint8_t levels[QK_K]) {
    const float all_d = gf_half_to_float(h->d), all_dm = gf_half_to_float(h->dmin);
    const int n = kind->n;
    for (int j = 0; j < QK_K / n; j++) {
        const float d = all_d * h->scale[j], dm = all_dm * h->min[j];
        for (int i = j * n; i < (j + 1) * n; i += LANES) {
            lanes l;
            if (d == 0) l = levels_affine(x + i, fits->level_scale[j][lane], fits->level_min[j][lane], kind->nmax);
            else l = clamp(v_nearest_any((v_load(x + i) + v_set(dm)) / v_set(d)), 0, kind->nmax);
            v_store_u8(levels + i, l);
        }
    }
}

/* ---- packing ---- */

/* Eight scales and eight minima of six bits in twelve bytes: the first four of each lie in the low bits, the low
 * nibbles of the last four in bytes 8 … 11, and their high bits above the first ones. */
INLINE void pack_scales(const affine_header *h, uint8_t scales[12]) {
    for (int j = 0; j < 4; j++) {
        const uint8_t s = h->scale[j + 4], m = h->min[j + 4];
        scales[j] = (uint8_t)(h->scale[j] | s >> 4 << 6);
        scales[j + 4] = (uint8_t)(h->min[j] | m >> 4 << 6);
        scales[j + 8] = (uint8_t)((s & 15) | (m & 15) << 4);
    }
}

INLINE void unpack_scales(const uint8_t scales[12], uint8_t scale[8], uint8_t min[8]) {
    for (int j = 0; j < 4; j++) {
        scale[j] = scales[j] & 63;
        min[j] = scales[j + 4] & 63;
        scale[j + 4] = (uint8_t)((scales[j + 8] & 15) | scales[j] >> 6 << 4);
        min[j + 4] = (uint8_t)(scales[j + 8] >> 4 | scales[j + 4] >> 6 << 4);
    }
}

INLINE void pack_Q2_K(const affine_header *h, const uint8_t *levels, block_Q2_K *y) {
    for (int j = 0; j < QK_K / 16; j++) y->scales[j] = (uint8_t)(h->scale[j] | h->min[j] << 4);
    pack_2bit(levels, y->qs);
    y->d = h->d, y->dmin = h->dmin;
}

INLINE void pack_Q4_K(const affine_header *h, const uint8_t *levels, block_Q4_K *y) {
    y->d = h->d, y->dmin = h->dmin;
    pack_scales(h, y->scales);
    pack_4bit(levels, y->qs);
}

INLINE void pack_Q5_K(const affine_header *h, const uint8_t *levels, block_Q5_K *y) {
    y->d = h->d, y->dmin = h->dmin;
    pack_scales(h, y->scales);
    pack_4bit(levels, y->qs);
    pack_bit(levels, 4, y->qh);
}

/* ---- the codecs ---- */

/* What a scale or minimum may be at most; llama.cpp limits it where its rounding could go past that. */
INLINE void limit_header(affine_header *h, uint8_t top) {
    for (int j = 0; j < 8; j++) {
        if (h->scale[j] > top) h->scale[j] = top;
        if (h->min[j] > top) h->min[j] = top;
    }
}

#define QUANTIZE_AFFINE(name, top, limit_plain, limit_fitted)                                                      \
    static void quantize_##name(const float *src, void *dst, size_t nrows, size_t ncols,                           \
                                const float *importance) {                                                         \
        const size_t per_row = ncols / QK_K, total = nrows * per_row;                                              \
        const int count = QK_K / kind_##name.n;                                                                    \
        block_##name *y = dst;                                                                                     \
        for (size_t first = 0; first < total; first += LANES) {                                                    \
            const group g = group_at(src, importance, QK_K, first, total, per_row);                                \
            affine_fits fits;                                                                                      \
            affine_header headers[LANES];                                                                          \
            affine_fit_group(&kind_##name, &g, &fits);                                                             \
            if (importance) affine_headers_fitted(&fits, count, top, headers);                                     \
            for (size_t k = 0; k < g.count; k++) {                                                                 \
                uint8_t levels[QK_K];                                                                              \
                if (!importance) affine_headers_plain(&fits, count, top, k, &headers[k]);                          \
                if (importance ? limit_fitted : limit_plain) limit_header(&headers[k], top);                       \
                affine_levels(&kind_##name, g.x[k], &headers[k], &fits, k, levels);                                \
                pack_##name(&headers[k], levels, y++);                                                             \
            }                                                                                                      \
        }                                                                                                          \
    }

QUANTIZE_AFFINE(Q2_K, 15, false, false)
QUANTIZE_AFFINE(Q4_K, 63, true, false)
QUANTIZE_AFFINE(Q5_K, 63, true, true)

static void dequantize_Q2_K(const void *src, float *dst, size_t n) {
    const block_Q2_K *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d), dmin = gf_half_to_float(x->dmin);
        for (int j = 0; j < QK_K / 16; j++, dst += 16) {
            const float scale = d * (float)(x->scales[j] & 15), min = dmin * (float)(x->scales[j] >> 4);
            const uint8_t *qs = x->qs + j / 8 * 32 + j % 2 * 16;
            for (int i = 0; i < 16; i++) dst[i] = scale * (float)(qs[i] >> j % 8 / 2 * 2 & 3) - min;
        }
    }
}

/* A super-block of Q4_K or, with the fifth bits in qh, of Q5_K. */
INLINE void dequantize_affine(gf_half d, gf_half dmin, const uint8_t scales[12], const uint8_t *qs,
                              const uint8_t *qh, float *dst) {
    const float all_d = gf_half_to_float(d), all_dm = gf_half_to_float(dmin);
    uint8_t scale[8], min[8];
    unpack_scales(scales, scale, min);
    for (int j = 0; j < 8; j++, dst += 32) {
        const float s = all_d * scale[j], m = all_dm * min[j];
        const uint8_t *low = qs + j / 2 * 32;
        for (int i = 0; i < 32; i++) {
            const int fifth = qh ? (qh[i] >> j & 1) << 4 : 0;
            dst[i] = s * (float)((low[i] >> j % 2 * 4 & 15) | fifth) - m;
        }
    }
}

static void dequantize_Q4_K(const void *src, float *dst, size_t n) {
    const block_Q4_K *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++)
        dequantize_affine(x->d, x->dmin, x->scales, x->qs, NULL, dst + b * QK_K);
}

static void dequantize_Q5_K(const void *src, float *dst, size_t n) {
    const block_Q5_K *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++)
        dequantize_affine(x->d, x->dmin, x->scales, x->qs, x->qh, dst + b * QK_K);
}

#endif
