/* What every instruction set offers.  One table per compiled copy of target.c. */
#ifndef GGUFFAST_TARGET_H
#define GGUFFAST_TARGET_H

#include "gguffast.h"

typedef struct {
    /* Without importance no block depends on another one; with it, all blocks of a row may. */
    void (*quantize)(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance);
    void (*dequantize)(const void *src, float *dst, size_t n);
} gf_codec;

enum { GF_TYPE_LIMIT = 64 }; /* type numbers in files stay below */

typedef struct {
    const char *name;
    gf_codec codecs[GF_TYPE_LIMIT]; /* by type number; empty where there is none */
    /* The index of the first NaN or infinity among n numbers, or n. */
    size_t (*first_nonfinite_F32)(const void *src, size_t n);
    size_t (*first_nonfinite_F16)(const void *src, size_t n);
    size_t (*first_nonfinite_BF16)(const void *src, size_t n);
} gf_target_table;

/* The name of a target's table: gf_target_avx2 … */
#define GF_TARGET_TABLE(target) GF_TARGET_TABLE_(target)
#define GF_TARGET_TABLE_(target) gf_target_##target

extern const gf_target_table gf_target_portable, gf_target_avx2, gf_target_avx512, gf_target_neon;

#endif
