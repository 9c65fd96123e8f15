/* Which instruction set works here, and the public functions on top of it. */
#include "target.h"

#include <string.h>

/* ---- types ---------------------------------------------------------------------------------------------------- */

static const gf_type_info types[] = {
#define CODEC(id, type, weights, size, scale_offset, scale_count)                                                      \
    {id, #type, weights, size, (weights) > 1, true, scale_offset, scale_count},
#define KNOWN(id, type, weights, size, scale_offset, scale_count)                                                      \
    {id, #type, weights, size, (weights) > 1, false, scale_offset, scale_count},
#include "types.def"
#undef CODEC
#undef KNOWN
};

const gf_type_info *gf_types(size_t *count) {
    *count = sizeof types / sizeof *types;
    return types;
}

const gf_type_info *gf_type_find(int64_t id) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

/* ---- targets -------------------------------------------------------------------------------------------------- */

/* The tables that were built in and that this machine runs, best first.  The compiler's own test asks the operating
 * system too, whether it saves the wide registers. */
static const gf_target_table *const *available(void) {
    static const gf_target_table *list[4];
    size_t n = 0;
#if defined(GF_HAVE_AVX512) || defined(GF_HAVE_AVX2)
    __builtin_cpu_init();
#endif
#ifdef GF_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        list[n++] = &gf_target_avx512;
#endif
#ifdef GF_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) list[n++] = &gf_target_avx2;
#endif
#ifdef GF_HAVE_NEON
    list[n++] = &gf_target_neon; /* every AArch64 has it */
#endif
    list[n++] = &gf_target_portable;
    list[n] = NULL;
    return list;
}

static const gf_target_table *current;

static const gf_target_table *target(void) {
    if (!current) current = available()[0];
    return current;
}

const char *const *gf_targets(void) {
    static const char *names[4];
    const gf_target_table *const *list = available();
    size_t n = 0;
    for (; list[n]; n++) names[n] = list[n]->name;
    names[n] = NULL;
    return names;
}

const char *gf_target(void) { return target()->name; }

bool gf_set_target(const char *name) {
    for (const gf_target_table *const *t = available(); *t; t++)
        if (!strcmp((*t)->name, name)) {
            current = *t;
            return true;
        }
    return false;
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

void gf_quantize(int type, const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    target()->codecs[type].quantize(src, dst, nrows, ncols, importance);
}

void gf_dequantize(int type, const void *src, float *dst, size_t n) { target()->codecs[type].dequantize(src, dst, n); }

/* The first of `nrows` rows that holds a NaN or an infinity (for a quantized type: as a scale), or nrows. */
static size_t first_bad_row(const gf_type_info *type, const void *data, size_t nrows, size_t ncols) {
    if (!nrows || !ncols) return nrows;
    if (type->id == GF_F32) return target()->first_nonfinite_F32(data, nrows * ncols) / ncols;
    if (type->id == GF_F16) return target()->first_nonfinite_F16(data, nrows * ncols) / ncols;
    if (type->id == GF_BF16) return target()->first_nonfinite_BF16(data, nrows * ncols) / ncols;
    const size_t per_row = ncols / type->block_size;
    const uint8_t *block = data;
    for (size_t b = 0; b < nrows * per_row; b++, block += type->block_bytes)
        for (size_t k = 0; k < type->scale_count; k++) {
            const uint8_t high = block[type->scale_offset + 2 * k + 1];
            if ((high & 0x7c) == 0x7c) return b / per_row;
        }
    return nrows;
}

/* Enough weights at a time to be worth a call, few enough to stay in the second cache with what they become. */
enum { STEP = 32 * 1024 };

size_t gf_recode_scratch(size_t ncols) { return ncols < STEP ? STEP : ncols; }

gf_recode_result gf_recode(int src_type, const void *src, int dst_type, void *dst, size_t nrows, size_t ncols,
                           const float *importance, float *scratch) {
    const gf_type_info *from = gf_type_find(src_type), *to = gf_type_find(dst_type);
    const size_t src_row = ncols / from->block_size * from->block_bytes;
    const size_t dst_row = ncols / to->block_size * to->block_bytes;
    if (from == to) {
        const size_t bad = first_bad_row(from, src, nrows, ncols);
        memcpy(dst, src, nrows * src_row);
        return (gf_recode_result){bad < nrows ? GF_RECODE_BAD_INPUT : GF_RECODE_OK, bad};
    }
    const size_t step = ncols < STEP ? STEP / (ncols ? ncols : 1) : 1;
    for (size_t row = 0; row < nrows; row += step) {
        const size_t n = nrows - row < step ? nrows - row : step;
        uint8_t *out = (uint8_t *)dst + row * dst_row;
        gf_dequantize(src_type, (const uint8_t *)src + row * src_row, scratch, n * ncols);
        size_t bad = target()->first_nonfinite_F32(scratch, n * ncols);
        if (bad < n * ncols) return (gf_recode_result){GF_RECODE_BAD_INPUT, row + bad / ncols};
        gf_quantize(dst_type, scratch, out, n, ncols, importance);
        bad = first_bad_row(to, out, n, ncols);
        if (bad < n) return (gf_recode_result){GF_RECODE_BAD_OUTPUT, row + bad};
    }
    return (gf_recode_result){GF_RECODE_OK, nrows};
}
