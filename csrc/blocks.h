/* Block layouts of the quantized types, as GGML stores them (ggml-common.h of llama.cpp).
 *
 * Every member is made of bytes, so a block has no padding and may stand at any address. */
#ifndef GGUFFAST_BLOCKS_H
#define GGUFFAST_BLOCKS_H

#include <assert.h>
#include <stdint.h>

enum { QK = 32, QK_K = 256 }; /* weights in a block, in a super-block */

typedef struct {
    uint8_t bytes[2]; /* IEEE half precision, little-endian */
} gf_half;

typedef struct {
    gf_half d;
    uint8_t qs[QK / 2]; /* weight j low, weight j + 16 high */
} block_Q4_0, block_IQ4_NL;

typedef struct {
    gf_half d, m;
    uint8_t qs[QK / 2];
} block_Q4_1;

typedef struct {
    gf_half d;
    uint8_t qh[4]; /* the fifth bits, weight j at bit j */
    uint8_t qs[QK / 2];
} block_Q5_0;

typedef struct {
    gf_half d, m;
    uint8_t qh[4];
    uint8_t qs[QK / 2];
} block_Q5_1;

typedef struct {
    gf_half d;
    uint8_t qs[QK]; /* signed */
} block_Q8_0;

typedef struct {
    uint8_t scales[QK_K / 16]; /* scale low, minimum high */
    uint8_t qs[QK_K / 4];
    gf_half d, dmin;
} block_Q2_K;

typedef struct {
    uint8_t hmask[QK_K / 8];
    uint8_t qs[QK_K / 4];
    uint8_t scales[12]; /* sixteen of six bits */
    gf_half d;
} block_Q3_K;

typedef struct {
    gf_half d, dmin;
    uint8_t scales[12]; /* eight scales and eight minima of six bits */
    uint8_t qs[QK_K / 2];
} block_Q4_K;

typedef struct {
    gf_half d, dmin;
    uint8_t scales[12];
    uint8_t qh[QK_K / 8];
    uint8_t qs[QK_K / 2];
} block_Q5_K;

typedef struct {
    uint8_t ql[QK_K / 2];
    uint8_t qh[QK_K / 4];
    uint8_t scales[QK_K / 16]; /* signed */
    gf_half d;
} block_Q6_K;

typedef struct {
    gf_half d;
    uint8_t scales_h[2]; /* little-endian, two bits a sub-block */
    uint8_t scales_l[QK_K / 64];
    uint8_t qs[QK_K / 2];
} block_IQ4_XS;

typedef struct {
    uint8_t bytes[4];
} block_F32;

typedef gf_half block_F16;

typedef struct {
    uint8_t bytes[2];
} block_BF16;

#define CODEC(id, name, weights, size, scale_offset, scale_count) \
    static_assert(sizeof(block_##name) == (size), "block_" #name " has padding");
#define KNOWN(id, name, weights, size, scale_offset, scale_count)
#include "types.def"
#undef CODEC
#undef KNOWN

#endif
