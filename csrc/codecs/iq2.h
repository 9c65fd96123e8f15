/* IQ2_XXS, IQ2_XS, IQ2_S: super-blocks of 256 weights; the magnitudes of eight are a point of a codebook of 256,
 * 512 or 1024. */
#ifndef GGUFFAST_CODECS_IQ2_H
#define GGUFFAST_CODECS_IQ2_H

#include "codebook.h"

static const codebook_kind kind_IQ2_XXS = {
    GF_IQ2_XXS_BOOK,
    8,
    2,
    3,
    .block = 32,
    .even = true,
    .squares = 1,
    .tiny = GROUP_EPS,
    .tries = 6,
    .step = 0.1f,
    .fudge = 1,
    .bytes = sizeof(block_IQ2_XXS),
    .refit = REFIT_ALL,
};
static const codebook_kind kind_IQ2_XS = {
    GF_IQ2_XS_BOOK,
    8,
    2,
    3,
    .block = 16,
    .even = true,
    .squares = 1,
    .tiny = GROUP_EPS,
    .tries = 9,
    .step = 0.1f,
    .fudge = 1,
    .bytes = sizeof(block_IQ2_XS),
    .refit = REFIT_OUTSIDE,
};
static const codebook_kind kind_IQ2_S = {
    GF_IQ2_S_BOOK,
    8,
    2,
    3,
    .block = 16,
    .even = false,
    .squares = 2,
    .plain_mean = true,
    .tiny = 1e-8f,
    .tries = 9,
    .step = 0.1f,
    .fudge = 0.9875f,
    .bytes = sizeof(block_IQ2_S),
    .refit = REFIT_OUTSIDE,
};

static const float iq2_values[4] = {8, 25, 43};

/* ---- IQ2_XXS: four points of eight bits, four times seven signs and a scale of four bits ---- */

INLINE void pack_IQ2_XXS(const codebook_block *b, void *dst) {
    block_IQ2_XXS *y = dst;
    memset(y, 0, sizeof *y);
    y->d = b->d;
    for (int j = 0; j < QK_K / QK && !b->zero; j++) {
        uint32_t signs = (uint32_t)b->scale[j] << 28;
        for (int p = 0; p < 4; p++) {
            y->qs[8 * j + p] = (uint8_t)b->index[4 * j + p];
            signs |= (uint32_t)b->signs[4 * j + p] << 7 * p;
        }
        store_u32(y->qs + 8 * j + 4, signs);
    }
}

static void dequantize_IQ2_XXS(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(kind_IQ2_XXS.book);
    const block_IQ2_XXS *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int j = 0; j < QK_K / QK; j++) {
            const uint32_t signs = load_u32(x->qs + 8 * j + 4);
            const float scale = d * (0.5f + (float)(signs >> 28)) * 0.25f;
            for (int p = 0; p < 4; p++, dst += 8)
                unpack_point(&kind_IQ2_XXS, book, x->qs[8 * j + p], eight_signs(signs >> 7 * p & 127), scale,
                             iq2_values, dst);
        }
    }
}

/* ---- IQ2_XS: points of nine bits, seven signs; two scales to a byte ---- */

INLINE void pack_IQ2_XS(const codebook_block *b, void *dst) {
    block_IQ2_XS *y = dst;
    memset(y, 0, sizeof *y);
    y->d = b->d;
    if (b->zero) return;
    for (int p = 0; p < QK_K / 8; p++) store_u16(y->qs + 2 * p, b->index[p] | (uint32_t)b->signs[p] << 9);
    for (int j = 0; j < QK_K / 32; j++) y->scales[j] = (uint8_t)(b->scale[2 * j] | b->scale[2 * j + 1] << 4);
}

static void dequantize_IQ2_XS(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(kind_IQ2_XS.book);
    const block_IQ2_XS *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int p = 0; p < QK_K / 8; p++, dst += 8) {
            const unsigned q = load_u16(x->qs + 2 * p), s = x->scales[p / 4] >> p % 4 / 2 * 4 & 15;
            const float scale = d * (0.5f + (float)s) * 0.25f;
            unpack_point(&kind_IQ2_XS, book, q & 511, eight_signs(q >> 9), scale, iq2_values, dst);
        }
    }
}

/* ---- IQ2_S: points of ten bits, eight signs ---- */

INLINE void pack_IQ2_S(const codebook_block *b, void *dst) {
    block_IQ2_S *y = dst;
    memset(y, 0, sizeof *y);
    y->d = b->d;
    for (int p = 0; p < QK_K / 8; p++) {
        y->qs[p] = (uint8_t)b->index[p];
        y->qh[p / 4] |= (uint8_t)(b->index[p] >> 8 << p % 4 * 2);
        y->signs[p] = b->signs[p];
    }
    for (int j = 0; j < QK_K / 32; j++) y->scales[j] = (uint8_t)(b->scale[2 * j] | b->scale[2 * j + 1] << 4);
}

static void dequantize_IQ2_S(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(kind_IQ2_S.book);
    const block_IQ2_S *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int p = 0; p < QK_K / 8; p++, dst += 8) {
            const unsigned index = x->qs[p] | (x->qh[p / 4] >> p % 4 * 2 & 3u) << 8;
            const unsigned s = x->scales[p / 4] >> p % 4 / 2 * 4 & 15;
            const float scale = d * (0.5f + (float)s) * 0.25f;
            unpack_point(&kind_IQ2_S, book, index, x->signs[p], scale, iq2_values, dst);
        }
    }
}

/* ---- the codecs ---- */

static void quantize_IQ2_XXS(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    quantize_codebook(&kind_IQ2_XXS, pack_IQ2_XXS, src, dst, nrows, ncols, importance);
}

static void quantize_IQ2_XS(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    quantize_codebook(&kind_IQ2_XS, pack_IQ2_XS, src, dst, nrows, ncols, importance);
}

static void quantize_IQ2_S(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    quantize_codebook(&kind_IQ2_S, pack_IQ2_S, src, dst, nrows, ncols, importance);
}

#endif
