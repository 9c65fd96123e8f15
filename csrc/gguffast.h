/* gguffast: GGUF and GGML quantization, the C core.
 *
 * The whole public interface.  It knows no Python, prints nothing, never aborts; its state is the target and the
 * codebooks.  Sizes and lengths are checked by the caller of the row functions (see each) and by the GGUF parser.
 */
#ifndef GGUFFAST_H
#define GGUFFAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- tensor types ---- */

/* Every type by its number in GGUF files (enum ggml_type): GF_F32, GF_Q4_K … */
enum gf_type {
#define CODEC(id, type, weights, size, scale_offset, scale_count) GF_##type = id,
#define KNOWN CODEC
#include "types.def"
#undef CODEC
#undef KNOWN
};

typedef struct {
    int id;              /* the number in the file */
    const char *name;    /* as gguf-py spells it: "Q4_K", "IQ4_NL" */
    uint32_t block_size; /* weights in a block */
    uint32_t block_bytes;
    bool quantized;        /* not a plain number format */
    bool has_codec;        /* gf_quantize and gf_dequantize know it */
    bool needs_importance; /* gf_quantize must be given some */
    /* Where a block keeps its half-precision scales, and how many stand side by side. */
    uint16_t scale_offset, scale_count;
} gf_type_info;

/* All known types, in the order of their numbers. */
const gf_type_info *gf_types(size_t *count);

/* One type's facts, or NULL for a number that no type has. */
const gf_type_info *gf_type_find(int64_t id);

/* ---- targets ---- */

/* The instruction sets that were built in and that this CPU and operating system run, best first: "avx512", "avx2",
 * "neon", "portable".  NULL for an index beyond the last one. */
const char *gf_available_target(size_t index);

/* The one in use, by any thread: the best one, unless another was forced. */
const char *gf_target(void);

/* Force one.  False if this machine does not have it; then nothing changes.  Kernels that are running go on as they
 * began; the bits are the same. */
bool gf_set_target(const char *name);

/* ---- rows ---- */

/* Quantize nrows rows of ncols weights.  The type has a codec and ncols is a multiple of its block size.
 * importance: ncols non-negative weights that serve for every row, or NULL unless the type needs them.  dst holds
 * nrows * row bytes and may have any alignment.  The bytes equal those of ggml_quantize_chunk() of llama.cpp for
 * every input; where that aborts the process, which the codebook types do when a search overflows, the block's
 * scale is infinite. */
void gf_quantize(int type, const float *src, void *dst, size_t nrows, size_t ncols, const float *importance);

/* Dequantize n weights; n is a multiple of the block size.  src may have any alignment. */
void gf_dequantize(int type, const void *src, float *dst, size_t n);

enum gf_recode_status {
    GF_RECODE_OK = 0,
    GF_RECODE_BAD_INPUT,  /* a NaN or an infinity in the source */
    GF_RECODE_BAD_OUTPUT, /* finite weights, but too large for the type's scale; MXFP4: too small */
};

typedef struct {
    int status;
    size_t row; /* the first bad row */
} gf_recode_result;

/* Rows of one type into rows of another, through scratch of gf_recode_scratch() floats: widen, check, quantize, a
 * few weights at a time so that everything stays in cache.  If the types are equal the rows are copied and checked.
 * Each type has a codec unless they are equal; ncols is not 0 and a multiple of both block sizes. */
gf_recode_result gf_recode(int src_type, const void *src, int dst_type, void *dst, size_t nrows, size_t ncols,
                           const float *importance, float *scratch);
size_t gf_recode_scratch(size_t ncols, bool importance);

/* ---- GGUF files ---- */

/* Types of metadata values, by their number in the file. */
enum gf_gguf_type {
    GF_GGUF_UINT8,
    GF_GGUF_INT8,
    GF_GGUF_UINT16,
    GF_GGUF_INT16,
    GF_GGUF_UINT32,
    GF_GGUF_INT32,
    GF_GGUF_FLOAT32,
    GF_GGUF_BOOL,
    GF_GGUF_STRING,
    GF_GGUF_ARRAY,
    GF_GGUF_UINT64,
    GF_GGUF_INT64,
    GF_GGUF_FLOAT64,
};

enum { GF_GGUF_MAX_DIMS = 4, GF_GGUF_MAX_NAME = 63, GF_GGUF_DEFAULT_ALIGNMENT = 32 };

/* Bounds of our own, so that no small file costs much: pairs or tensors of a file, bytes of alignment, bytes of a
 * header.  The largest model has some thousand tensors, the largest vocabulary takes some 30 MB. */
enum { GF_GGUF_MAX_COUNT = 1 << 16, GF_GGUF_MAX_ALIGNMENT = 1 << 20, GF_GGUF_MAX_HEADER = 1 << 30 };

/* What can be wrong with a header, and what `found` and `limit` of the error then hold. */
#define GF_GGUF_STATUSES(X)                                                                                        \
    X(OK)                                                                                                          \
    X(NO_MEMORY)                                                                                                   \
    X(NOT_GGUF)         /* first four bytes, little-endian */                                                      \
    X(BIG_ENDIAN)       /* version as read */                                                                      \
    X(BAD_VERSION)      /* version, newest known */                                                                \
    X(TRUNCATED)        /* bytes that are left, bytes that are needed */                                           \
    X(INCOMPLETE)       /* bytes at hand, bytes that are needed: no fault of the file */                           \
    X(HUGE_HEADER)      /* bytes of the header at the least, most allowed */                                       \
    X(BAD_KV_COUNT)     /* count, the most that the file could hold */                                             \
    X(BAD_TENSOR_COUNT) /* the same */                                                                             \
    X(TOO_MANY_KVS)     /* count, most allowed */                                                                  \
    X(TOO_MANY_TENSORS) /* the same */                                                                             \
    X(BAD_ARRAY_COUNT)  /* count, the most that the file could hold */                                             \
    X(EMPTY_KEY)                                                                                                   \
    X(DUPLICATE_KEY)  /* index of the first */                                                                     \
    X(BAD_VALUE_TYPE) /* type */                                                                                   \
    X(NESTED_ARRAY)                                                                                                \
    X(ALIGNMENT_NOT_U32) /* type */                                                                                \
    X(BAD_ALIGNMENT)     /* alignment, most allowed */                                                             \
    X(LONG_TENSOR_NAME)  /* bytes, most allowed */                                                                 \
    X(DUPLICATE_TENSOR)  /* index of the first */                                                                  \
    X(TOO_MANY_DIMS)     /* number, most allowed */                                                                \
    X(NEGATIVE_DIM)      /* dimension in two's complement, which */                                                \
    X(SHAPE_OVERFLOW)                                                                                              \
    X(UNKNOWN_TENSOR_TYPE) /* type */                                                                              \
    X(PARTIAL_BLOCK)       /* row length, block size */                                                            \
    X(MISALIGNED_TENSOR)   /* offset in the data section, alignment */                                             \
    X(TENSOR_PAST_END)     /* end of its data in the file (UINT64_MAX: beyond), size of the file */                \
    X(TENSOR_OVERLAP)      /* index of the other tensor */

enum gf_gguf_status {
#define GF_GGUF_STATUS(name) GF_GGUF_##name,
    GF_GGUF_STATUSES(GF_GGUF_STATUS)
#undef GF_GGUF_STATUS
};

/* "TRUNCATED" for GF_GGUF_TRUNCATED, and so on. */
const char *gf_gguf_status_name(int status);

/* The part of a header that an index counts in. */
enum gf_gguf_part { GF_GGUF_HEADER, GF_GGUF_KVS, GF_GGUF_TENSORS };

/* A place in the file. */
typedef struct {
    uint64_t offset;
    uint64_t size;
} gf_span;

typedef struct {
    int status;
    int part;        /* where: the fixed header, a key-value pair, a tensor */
    uint64_t index;  /* which pair or tensor */
    gf_span name;    /* its name, empty if that was not read yet */
    uint64_t offset; /* of the offending bytes in the file */
    uint64_t found;
    uint64_t limit;
} gf_gguf_error;

typedef struct {
    gf_span key;
    gf_span value; /* all that follows the type: for an array item type (u32), count (u64), items */
    uint32_t type;
} gf_gguf_kv;

typedef struct {
    gf_span name;
    uint32_t n_dims;              /* as stored, 0 to 4 */
    uint32_t type;                /* known to gf_type_find */
    int64_t ne[GF_GGUF_MAX_DIMS]; /* fastest first; 1 beyond n_dims; may be 0 */
    uint64_t offset;              /* from the start of the file */
    uint64_t nbytes;
} gf_gguf_tensor;

typedef struct {
    uint32_t version;
    uint32_t alignment;
    uint64_t data_offset;
    size_t n_kvs;
    size_t n_tensors;
    gf_gguf_kv *kvs;         /* in file order; keys are not empty and differ */
    gf_gguf_tensor *tensors; /* in file order; names differ, data lies in the file and does not overlap */
} gf_gguf;

/* Read the header of a GGUF file, version 2 or 3, little-endian, of whose `file_size` bytes the first `size` are at
 * `data`.  If the header does not end there the error is GF_GGUF_INCOMPLETE: call again with more.  Nothing in it
 * is trusted; memory is proportional to what was really there.  Strings are located, not decoded: they may hold any
 * bytes.  On success free the result with gf_gguf_free; on an error there is nothing to free. */
gf_gguf_error gf_gguf_parse(const uint8_t *data, size_t size, uint64_t file_size, gf_gguf *out);
void gf_gguf_free(gf_gguf *gguf);

typedef struct {
    const void *key;
    size_t key_size;
    const void *value; /* as in gf_gguf_kv */
    size_t value_size;
    uint32_t type;
} gf_gguf_kv_out;

typedef struct {
    const void *name;
    size_t name_size;
    uint32_t n_dims; /* at most GF_GGUF_MAX_DIMS */
    int64_t ne[GF_GGUF_MAX_DIMS];
    uint32_t type;
    uint64_t offset; /* from the start of the data section */
} gf_gguf_tensor_out;

/* Write a header of the given version, zero-padded to the alignment, if `capacity` is enough; the size that it
 * takes in any case.  What it says is not checked. */
size_t gf_gguf_write(uint8_t *dst, size_t capacity, uint32_t version, const gf_gguf_kv_out *kvs, size_t n_kvs,
                     const gf_gguf_tensor_out *tensors, size_t n_tensors, uint32_t alignment);

#ifdef __cplusplus
}
#endif
#endif
