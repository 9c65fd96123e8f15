/* Which instruction set works here, and the public functions on top of it. */
#include "target.h"

#include <fenv.h>
#include <stdatomic.h>
#include <string.h>
#ifdef GF_HAVE_AVX2
#include <cpuid.h>
#endif

/* ---- types ---- */

static const gf_type_info types[] = {
#define CODEC(id, type, weights, size, scale_offset, scale_count)                                                  \
    {id, #type, weights, size, (weights) > 1, true, false, scale_offset, scale_count},
#define GUIDED(id, type, weights, size, scale_offset, scale_count)                                                 \
    {id, #type, weights, size, (weights) > 1, true, true, scale_offset, scale_count},
#define KNOWN(id, type, weights, size, scale_offset, scale_count)                                                  \
    {id, #type, weights, size, (weights) > 1, false, false, scale_offset, scale_count},
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

/* ---- targets ---- */

/* What each needs of the CPU.  The compiler's own test of a vector extension asks the operating system too, whether
 * it saves the wide registers. */

#ifdef GF_HAVE_AVX512
static bool runs_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef GF_HAVE_AVX2
static bool runs_avx2(void) {
    /* Clang before 16 has no name for F16C. */
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static bool runs_anywhere(void) { return true; }

/* The tables that were built in, best first. */
static const struct {
    const gf_target_table *table;
    bool (*runs)(void);
} built[] = {
#ifdef GF_HAVE_AVX512
    {&gf_target_avx512, runs_avx512},
#endif
#ifdef GF_HAVE_AVX2
    {&gf_target_avx2, runs_avx2},
#endif
#ifdef GF_HAVE_NEON
    {&gf_target_neon, runs_anywhere}, /* every AArch64 has it */
#endif
    {&gf_target_portable, runs_anywhere},
};

/* Number `index` of those that run here, or NULL. */
static const gf_target_table *available(size_t index) {
    for (size_t i = 0; i < sizeof built / sizeof *built; i++)
        if (built[i].runs() && index-- == 0) return built[i].table;
    return NULL;
}

/* NULL until someone asks.  Atomic, because any thread may be the first: all of them settle on the same one. */
static _Atomic(const gf_target_table *) current;

static const gf_target_table *target(void) {
    const gf_target_table *t = atomic_load_explicit(&current, memory_order_relaxed);
    if (t) return t;
    const gf_target_table *best = available(0);
    /* Unless another thread has forced one meanwhile. */
    return atomic_compare_exchange_strong(&current, &t, best) ? best : t;
}

const char *gf_available_target(size_t index) {
    const gf_target_table *t = available(index);
    return t ? t->name : NULL;
}

const char *gf_target(void) { return target()->name; }

bool gf_set_target(const char *name) {
    const gf_target_table *t;
    for (size_t i = 0; (t = available(i)); i++)
        if (!strcmp(t->name, name)) {
            atomic_store(&current, t);
            return true;
        }
    return false;
}

/* ---- rows ---- */

static const gf_target_table *quantizing(int type, const float *importance) {
    const gf_target_table *t = target();
#if defined(GF_HAVE_AVX512) && defined(GF_HAVE_AVX2)
    /* With an importance matrix a lane of these types is a row, and sixteen rows at once were slower than eight on
     * the Zen 4 where both were measured (Q4_0: 4.3 against 7.8 times llama.cpp's speed).  The bits are the same.
     */
    const bool lane_is_row = type == GF_Q4_0 || type == GF_Q4_1 || type == GF_Q5_0 || type == GF_Q5_1;
    if (t == &gf_target_avx512 && importance && lane_is_row) return &gf_target_avx2;
#else
    (void)type, (void)importance;
#endif
    return t;
}

/* Other libraries change how a thread calculates (torch.set_flush_denormal(), anything linked with -Ofast flushes
 * denormals to zero), and that would change bits: kernels run as IEEE 754 has it, and then all is as it was. */
static fenv_t strict_arithmetic(void) {
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    return before;
}

void gf_quantize(int type, const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const fenv_t before = strict_arithmetic();
    quantizing(type, importance)->codecs[type].quantize(src, dst, nrows, ncols, importance);
    fesetenv(&before);
}

void gf_dequantize(int type, const void *src, float *dst, size_t n) {
    const fenv_t before = strict_arithmetic();
    target()->codecs[type].dequantize(src, dst, n);
    fesetenv(&before);
}

/* The first of n weights that is a NaN or an infinity, or for a quantized type the first of a block with such a
 * scale; n if all are sound. */
static size_t first_bad(const gf_type_info *type, const void *data, size_t n) {
    if (type->id == GF_F32) return target()->first_nonfinite_F32(data, n);
    if (type->id == GF_F16) return target()->first_nonfinite_F16(data, n);
    if (type->id == GF_BF16) return target()->first_nonfinite_BF16(data, n);
    const uint8_t *block = data;
    for (size_t at = 0; at < n; at += type->block_size, block += type->block_bytes) {
        if (type->id == GF_MXFP4 && block[0] == 0xff) return at; /* the NaN of E8M0 */
        /* The scale lies in the high nibbles of eight bytes' even ones. */
        if (type->id == GF_IQ1_M && (block[55] & 0x70) == 0x70 && (block[53] & 0xc0) == 0xc0) return at;
        for (size_t k = 0; k < type->scale_count; k++) {
            const uint8_t high = block[type->scale_offset + 2 * k + 1];
            if ((high & 0x7c) == 0x7c) return at;
        }
    }
    return n;
}

static size_t bytes_of(const gf_type_info *type, size_t n) { return n / type->block_size * type->block_bytes; }

/* Enough weights at a time to be worth a call, few enough to stay in the second cache with what they become; whole
 * blocks of any type. */
enum { STEP = 32 * 1024 };

/* Weights at a time.  Importance belongs to rows, which then stay whole; else rows are only a way to count. */
static size_t recode_step(size_t ncols, bool importance) {
    if (!importance) return STEP;
    return ncols < STEP ? STEP / ncols * ncols : ncols;
}

size_t gf_recode_scratch(size_t ncols, bool importance) { return recode_step(ncols, importance); }

gf_recode_result gf_recode(int src_type, const void *src, int dst_type, void *dst, size_t nrows, size_t ncols,
                           const float *importance, float *scratch) {
    const gf_type_info *from = gf_type_find(src_type), *to = gf_type_find(dst_type);
    const size_t total = nrows * ncols, step = recode_step(ncols, importance);
    if (from == to) {
        const size_t bad = first_bad(from, src, total);
        memcpy(dst, src, bytes_of(from, total));
        return (gf_recode_result){bad < total ? GF_RECODE_BAD_INPUT : GF_RECODE_OK, bad / ncols};
    }
    for (size_t at = 0; at < total; at += step) {
        const size_t n = total - at < step ? total - at : step, row = importance ? ncols : n;
        uint8_t *out = (uint8_t *)dst + bytes_of(to, at);
        gf_dequantize(src_type, (const uint8_t *)src + bytes_of(from, at), scratch, n);
        size_t bad = target()->first_nonfinite_F32(scratch, n);
        if (bad < n) return (gf_recode_result){GF_RECODE_BAD_INPUT, (at + bad) / ncols};
        gf_quantize(dst_type, scratch, out, n / row, row, importance);
        bad = first_bad(to, out, n);
        if (bad < n) return (gf_recode_result){GF_RECODE_BAD_OUTPUT, (at + bad) / ncols};
    }
    return (gf_recode_result){GF_RECODE_OK, nrows};
}
