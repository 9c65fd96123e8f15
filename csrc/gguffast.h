/* gguffast: GGUF and GGML quantization, the C core.
 *
 * The whole public interface.  It knows no Python, prints nothing, never aborts and keeps no state but the chosen
 * target.  Sizes and lengths are checked by the caller of the row functions (see each one) and by the GGUF parser. */
#ifndef GGUFFAST_H
#define GGUFFAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- tensor types ------------------------------------------------------------------------------------------- */

/* Numbers as stored in GGUF files (enum ggml_type).  Only those with a codec have a name here; the table of
 * gf_type_info knows them all. */
enum gf_type {
    GF_F32 = 0,
    GF_F16 = 1,
    GF_Q4_0 = 2,
    GF_Q4_1 = 3,
    GF_Q5_0 = 6,
    GF_Q5_1 = 7,
    GF_Q8_0 = 8,
    GF_Q2_K = 10,
    GF_Q3_K = 11,
    GF_Q4_K = 12,
    GF_Q5_K = 13,
    GF_Q6_K = 14,
    GF_IQ4_NL = 20,
    GF_IQ4_XS = 23,
    GF_BF16 = 30,
};

typedef struct {
    int id;              /* the number in the file */
    const char *name;    /* as gguf-py spells it: "Q4_K", "IQ4_NL" */
    uint32_t block_size; /* weights in a block */
    uint32_t block_bytes;
    bool quantized;  /* not a plain number format */
    bool has_codec; /* gf_quantize and gf_dequantize know it */
} gf_type_info;

/* All known types, in the order of their numbers. */
const gf_type_info *gf_types(size_t *count);

/* One type's facts, or NULL for a number that no type has. */
const gf_type_info *gf_type_find(int64_t id);

/* ---- targets ------------------------------------------------------------------------------------------------ */

/* Names of the instruction sets that were built in and that this CPU and operating system run, best first, ended
 * by NULL: "avx512", "avx2", "neon", "portable". */
const char *const *gf_targets(void);

/* The one in use.  Chosen at the first call: the best one. */
const char *gf_target(void);

/* Force one.  False if this machine does not have it; then nothing changes. */
bool gf_set_target(const char *name);

/* ---- rows --------------------------------------------------------------------------------------------------- */

/* Quantize nrows rows of ncols weights.  The type has a codec and ncols is a multiple of its block size.
 * importance: ncols non-negative weights that serve for every row, or NULL.  dst holds nrows * row bytes and may have
 * any alignment.  The bytes equal those of ggml_quantize_chunk() of llama.cpp for every input. */
void gf_quantize(int type, const float *src, void *dst, size_t nrows, size_t ncols, const float *importance);

/* Dequantize n weights; n is a multiple of the block size.  src may have any alignment. */
void gf_dequantize(int type, const void *src, float *dst, size_t n);

/* The index of the first NaN or infinity among n floats, or n. */
size_t gf_first_nonfinite(const float *x, size_t n);

enum gf_recode_status {
    GF_RECODE_OK = 0,
    GF_RECODE_BAD_INPUT,  /* a NaN or an infinity in the source */
    GF_RECODE_BAD_OUTPUT, /* finite weights, but too large for the type's half-precision scale */
};

typedef struct {
    int status;
    size_t row; /* the first bad row */
} gf_recode_result;

/* Rows of one type into rows of another, through scratch of gf_recode_scratch() floats: widen, check, quantize, a
 * few rows at a time so that everything stays in cache.  If the types are equal the rows are copied and checked. */
gf_recode_result gf_recode(int src_type, const void *src, int dst_type, void *dst, size_t nrows, size_t ncols,
                           const float *importance, float *scratch);
size_t gf_recode_scratch(size_t ncols);

#ifdef __cplusplus
}
#endif
#endif
