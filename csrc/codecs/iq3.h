/* IQ3_XXS, IQ3_S: super-blocks of 256 weights; the magnitudes of four are a point of a codebook of 256 or 512. */
#ifndef GGUFFAST_CODECS_IQ3_H
#define GGUFFAST_CODECS_IQ3_H

#include "codebook.h"

static const codebook_kind kind_IQ3_XXS = {
    GF_IQ3_XXS_BOOK,
    4,
    3,
    8,
    .block = 32,
    .even = true,
    .squares = 2,
    .tiny = 1e-8f,
    .tries = 15,
    .step = 0.2f,
    .fudge = 1.0125f,
    .bytes = sizeof(block_IQ3_XXS),
    .refit = REFIT_OUTSIDE,
};
static const codebook_kind kind_IQ3_S = {
    GF_IQ3_S_BOOK,
    4,
    3,
    8,
    .block = 32,
    .even = false,
    .squares = 2,
    .tiny = 0x1p-149f, /* nothing but zeros */
    .tries = 9,
    .step = 0.2f,
    .fudge = 1.033f,
    .bytes = sizeof(block_IQ3_S),
    .refit = REFIT_IF_OUTSIDE,
};

static const float iq3_xxs_values[8] = {4, 12, 20, 28, 36, 44, 52, 62};

/* ---- IQ3_XXS: points of eight bits; four times seven signs and a scale of four bits ---- */

INLINE void pack_IQ3_XXS(const codebook_block *b, void *dst) {
    block_IQ3_XXS *y = dst;
    memset(y, 0, sizeof *y);
    y->d = b->d;
    if (b->zero) return;
    for (int p = 0; p < QK_K / 4; p++) y->qs[p] = (uint8_t)b->index[p];
    for (int j = 0; j < QK_K / QK; j++) {
        uint32_t signs = (uint32_t)b->scale[j] << 28;
        for (int i = 0; i < 4; i++) signs |= (uint32_t)b->signs[4 * j + i] << 7 * i;
        store_u32(y->signs + 4 * j, signs);
    }
}

static void dequantize_IQ3_XXS(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(kind_IQ3_XXS.book);
    const block_IQ3_XXS *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int p = 0; p < QK_K / 4; p++, dst += 4) {
            const uint32_t signs = load_u32(x->signs + p / 8 * 4);
            const float scale = d * (0.5f + (float)(signs >> 28)) * 0.5f;
            const unsigned eight = eight_signs(signs >> p % 8 / 2 * 7 & 127);
            unpack_point(&kind_IQ3_XXS, book, x->qs[p], eight >> p % 2 * 4, scale, iq3_xxs_values, dst);
        }
    }
}

/* ---- IQ3_S: points of nine bits, eight signs; two scales to a byte ---- */

INLINE void pack_IQ3_S(const codebook_block *b, void *dst) {
    block_IQ3_S *y = dst;
    memset(y, 0, sizeof *y);
    y->d = b->d;
    for (int p = 0; p < QK_K / 4; p++) y->qh[p / 8] |= (uint8_t)(b->index[p] >> 8 << p % 8);
    /* llama.cpp forgets to step over sub-blocks of zeros here: what follows them moves up, and comes back as the
     * weights of others.  Its bits are the definition. */
    uint8_t *qs = y->qs, *signs = y->signs;
    for (int j = 0; j < QK_K / QK; j++) {
        if (b->zeros[j]) continue;
        for (int p = 0; p < 8; p++) *qs++ = (uint8_t)b->index[8 * j + p];
        memcpy(signs, b->signs + 4 * j, 4);
        signs += 4;
    }
    for (int j = 0; j < QK_K / 64; j++) y->scales[j] = (uint8_t)(b->scale[2 * j] | b->scale[2 * j + 1] << 4);
}

static void dequantize_IQ3_S(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(kind_IQ3_S.book);
    const block_IQ3_S *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int p = 0; p < QK_K / 4; p++, dst += 4) {
            const unsigned index = x->qs[p] | (x->qh[p / 8] >> p % 8 & 1u) << 8;
            const float scale = d * (float)(1 + 2 * (x->scales[p / 16] >> p % 16 / 8 * 4 & 15));
            unpack_point(&kind_IQ3_S, book, index, x->signs[p / 2] >> p % 2 * 4, scale, odd_numbers, dst);
        }
    }
}

/* ---- the codecs ---- */

static void quantize_IQ3_XXS(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    quantize_codebook(&kind_IQ3_XXS, pack_IQ3_XXS, src, dst, nrows, ncols, importance);
}

static void quantize_IQ3_S(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    quantize_codebook(&kind_IQ3_S, pack_IQ3_S, src, dst, nrows, ncols, importance);
}

#endif
