/* Block layouts of the quantized types, as GGML stores them (ggml-common.h of llama.cpp).
 *
 * Every member is made of bytes, so a block has no padding and may stand at any address. */
#ifndef GGUFFAST_BLOCKS_H
#define GGUFFAST_BLOCKS_H

#include <assert.h>
#include <stdint.h>

enum { QK = 32, QK_K = 256 };   /* weights in a block, in a super-block */
enum { QK_1 = 128, QK_2 = 64 }; /* in a block of Q1_0, of Q2_0 */

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
    gf_half d;
    uint8_t qs[QK_1 / 8]; /* signs, weight j at bit j: set where it is not negative */
} block_Q1_0;

typedef struct {
    gf_half d;
    uint8_t qs[QK_2 / 4]; /* level + 1, weight j at bit 2 j */
} block_Q2_0;

typedef struct {
    uint8_t qs[48]; /* five levels of -1, 0, 1 a byte: see ternary.h */
    uint8_t qh[4];  /* four a byte */
    gf_half d;
} block_TQ1_0;

typedef struct {
    uint8_t qs[QK_K / 4]; /* level + 1, of every 128 weights j, j + 32, j + 64, j + 96 from the low bits up */
    gf_half d;
} block_TQ2_0;

typedef struct {
    uint8_t e; /* E8M0: the scale is 2^(e - 127) */
    uint8_t qs[QK / 2];
} block_MXFP4;

typedef struct {
    uint8_t d[4];   /* UE4M3, one for 16 weights */
    uint8_t qs[32]; /* of every 16 weights, weight j low, weight j + 8 high */
} block_NVFP4;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 4]; /* of 32 weights: four points, then four times seven signs and a scale of four bits */
} block_IQ2_XXS;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 4]; /* two bytes for eight weights: a point of nine bits, seven signs */
    uint8_t scales[QK_K / 32];
} block_IQ2_XS;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 8];
    uint8_t signs[QK_K / 8];
    uint8_t qh[QK_K / 32]; /* the points' two high bits */
    uint8_t scales[QK_K / 32];
} block_IQ2_S;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 4];
    uint8_t signs[QK_K / 8]; /* of 32 weights: four times seven signs and a scale of four bits */
} block_IQ3_XXS;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 4];
    uint8_t qh[QK_K / 32]; /* the points' ninth bits */
    uint8_t signs[QK_K / 8];
    uint8_t scales[QK_K / 64];
} block_IQ3_S;

typedef struct {
    gf_half d;
    uint8_t qs[QK_K / 8];
    uint8_t qh[QK_K / 16]; /* two bytes for 32 weights: the points' three high bits, a scale of three, a sign */
} block_IQ1_S;

typedef struct {
    uint8_t qs[QK_K / 8];
    uint8_t qh[QK_K / 16];     /* a nibble a point: its three high bits, a sign */
    uint8_t scales[QK_K / 32]; /* four times four scales of three bits and a quarter of a half-precision one */
} block_IQ1_M;

typedef struct {
    uint8_t bytes[4];
} block_F32;

typedef gf_half block_F16;

typedef struct {
    uint8_t bytes[2];
} block_BF16;

#define CODEC(id, name, weights, size, scale_offset, scale_count)                                                  \
    static_assert(sizeof(block_##name) == (size), "block_" #name " has padding");
#define KNOWN(id, name, weights, size, scale_offset, scale_count)
#include "types.def"
#undef CODEC
#undef KNOWN

#endif
