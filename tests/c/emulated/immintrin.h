/* AVX-512 for a CPU without it: what lanes/avx512.h uses, played lane by lane, after Intel's Intrinsics Guide.
 *
 * Stands before the compiler's own header, whose 128- and 256-bit parts are used as they are. */
#pragma once
#include_next <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union {
    __m512 v;
    __m512i vi;
    __m256 half[2];
    __m128 quarter[4];
    float f[16];
    int32_t i[16];
    uint32_t u[16];
} emu512;

#define EACH for (int k = 0; k < 16; k++)
#define UNARY(name, expression)                                                                                    \
    static inline __m512 name(__m512 v) {                                                                          \
        emu512 a = {.v = v}, r;                                                                                    \
        EACH r.f[k] = (expression);                                                                                \
        return r.v;                                                                                                \
    }
#define BINARY(name, expression)                                                                                   \
    static inline __m512 name(__m512 v, __m512 w) {                                                                \
        emu512 a = {.v = v}, b = {.v = w}, r;                                                                      \
        EACH r.f[k] = (expression);                                                                                \
        return r.v;                                                                                                \
    }
#define INTEGER(name, expression)                                                                                  \
    static inline __m512i name(__m512i v, __m512i w) {                                                             \
        emu512 a = {.vi = v}, b = {.vi = w}, r;                                                                    \
        EACH r.u[k] = (expression);                                                                                \
        return r.vi;                                                                                               \
    }

UNARY(emu_abs, fabsf(a.f[k]))
UNARY(emu_sqrt, sqrtf(a.f[k]))
BINARY(emu_add, a.f[k] + b.f[k])
BINARY(emu_min, a.f[k] < b.f[k] ? a.f[k] : b.f[k])
BINARY(emu_max, a.f[k] > b.f[k] ? a.f[k] : b.f[k])
/* Inside each quarter of four. */
BINARY(emu_unpacklo, k % 2 ? b.f[k / 4 * 4 + k % 4 / 2] : a.f[k / 4 * 4 + k % 4 / 2])
BINARY(emu_unpackhi, k % 2 ? b.f[k / 4 * 4 + 2 + k % 4 / 2] : a.f[k / 4 * 4 + 2 + k % 4 / 2])
INTEGER(emu_and, a.u[k] & b.u[k])
INTEGER(emu_or, a.u[k] | b.u[k])
INTEGER(emu_sub, a.u[k] - b.u[k])

static inline __m512 emu_set1(float x) {
    emu512 r;
    EACH r.f[k] = x;
    return r.v;
}
static inline __m512i emu_set1i(int x) {
    emu512 r;
    EACH r.i[k] = x;
    return r.vi;
}
static inline __m512 emu_load(const void *p) {
    emu512 r;
    memcpy(r.f, p, sizeof r.f);
    return r.v;
}
static inline void emu_store(void *p, __m512 v) { memcpy(p, &v, sizeof v); }
static inline __m512 emu_shuffle(__m512 v, __m512 w, int how) {
    emu512 a = {.v = v}, b = {.v = w}, r;
    EACH r.f[k] = (k % 4 < 2 ? a : b).f[k / 4 * 4 + (how >> k % 4 * 2 & 3)];
    return r.v;
}
static inline __mmask16 emu_cmp(__m512 v, __m512 w, int how) {
    emu512 a = {.v = v}, b = {.v = w};
    unsigned m = 0;
    EACH {
        const float x = a.f[k], y = b.f[k];
        const int yes = how == _CMP_LT_OQ   ? x < y
                        : how == _CMP_GE_OQ ? x >= y
                        : how == _CMP_EQ_OQ ? x == y
                                            : !(x < y);
        m |= (unsigned)yes << k;
    }
    return (__mmask16)m;
}
static inline __m512 emu_blend(__mmask16 m, __m512 no, __m512 yes) {
    emu512 a = {.v = no}, b = {.v = yes};
    EACH a.f[k] = m >> k & 1 ? b.f[k] : a.f[k];
    return a.v;
}
static inline __m512i emu_mask_mov(__m512i no, __mmask16 m, __m512i yes) {
    emu512 a = {.vi = no}, b = {.vi = yes};
    EACH a.u[k] = m >> k & 1 ? b.u[k] : a.u[k];
    return a.vi;
}
static inline float emu_reduce_max(__m512 v) {
    emu512 a = {.v = v};
    EACH a.f[0] = a.f[k] > a.f[0] ? a.f[k] : a.f[0];
    return a.f[0];
}
static inline float emu_reduce_min(__m512 v) {
    emu512 a = {.v = v};
    EACH a.f[0] = a.f[k] < a.f[0] ? a.f[k] : a.f[0];
    return a.f[0];
}
static inline __m512i emu_bits(__m512 v) { return (emu512){.v = v}.vi; }
static inline __m512 emu_from_int(__m512i v) {
    emu512 a = {.vi = v}, r;
    EACH r.f[k] = (float)a.i[k];
    return r.v;
}
static inline __m512i emu_truncate(__m512 v) {
    emu512 a = {.v = v}, r;
    EACH r.i[k] = a.f[k] >= -0x1p31f && a.f[k] < 0x1p31f ? (int32_t)a.f[k] : INT32_MIN;
    return r.vi;
}
static inline __m128i emu_low_bytes(__m512i v) {
    emu512 a = {.vi = v};
    uint8_t bytes[16];
    EACH bytes[k] = (uint8_t)a.u[k];
    return _mm_loadu_si128((const __m128i *)bytes);
}
static inline __m512i emu_slli(__m512i v, int by) {
    emu512 a = {.vi = v};
    EACH a.u[k] <<= by;
    return a.vi;
}
static inline __m512i emu_srli(__m512i v, unsigned by) {
    emu512 a = {.vi = v};
    EACH a.u[k] >>= by;
    return a.vi;
}
static inline __m512i emu_from_u16(__m256i v) {
    uint16_t words[16];
    emu512 r;
    memcpy(words, &v, sizeof words);
    EACH r.u[k] = words[k];
    return r.vi;
}
static inline __m256i emu_to_u16(__m512i v) {
    emu512 a = {.vi = v};
    uint16_t words[16];
    EACH words[k] = (uint16_t)a.u[k];
    return _mm256_loadu_si256((const __m256i *)words);
}
static inline __m512 emu_permute_quarters(__m512 v, __m512i at) {
    emu512 a = {.v = v}, i = {.vi = at}, r;
    EACH r.f[k] = a.f[k / 4 * 4 + (i.u[k] & 3)];
    return r.v;
}
static inline __m512 emu_cast(__m256 low) { return (emu512){.half = {low, low}}.v; }
static inline __m512 emu_insert(__m512 v, __m256 high) {
    emu512 a = {.v = v};
    a.half[1] = high;
    return a.v;
}
static inline __m512 emu_permute(__m512i at, __m512 v) {
    emu512 a = {.v = v}, i = {.vi = at}, r;
    EACH r.f[k] = a.f[i.u[k] & 15];
    return r.v;
}
static inline __m512 emu_from_half(__m256i h) {
    return (emu512){
        .half = {_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))}}
        .v;
}
static inline __m256i emu_to_half(__m512 v) {
    emu512 a = {.v = v};
    return _mm256_set_m128i(_mm256_cvtps_ph(a.half[1], 0), _mm256_cvtps_ph(a.half[0], 0));
}

#define _mm512_set1_ps emu_set1
#define _mm512_set1_epi32 emu_set1i
#define _mm512_setzero_si512() emu_set1i(0)
#define _mm512_loadu_ps emu_load
#define _mm512_storeu_ps emu_store
#define _mm512_add_ps emu_add
#define _mm512_min_ps emu_min
#define _mm512_max_ps emu_max
#define _mm512_abs_ps emu_abs
#define _mm512_sqrt_ps emu_sqrt
#define _mm512_unpacklo_ps emu_unpacklo
#define _mm512_unpackhi_ps emu_unpackhi
#define _mm512_shuffle_ps emu_shuffle
#define _mm512_cmp_ps_mask emu_cmp
#define _mm512_mask_blend_ps emu_blend
#define _mm512_mask_mov_epi32 emu_mask_mov
#define _mm512_reduce_max_ps emu_reduce_max
#define _mm512_reduce_min_ps emu_reduce_min
#define _mm512_castps_si512 emu_bits
#define _mm512_and_si512 emu_and
#define _mm512_or_si512 emu_or
#define _mm512_sub_epi32 emu_sub
#define _mm512_slli_epi32 emu_slli
#define _mm512_srli_epi32 emu_srli
#define _mm512_cvtepu16_epi32 emu_from_u16
#define _mm512_cvtepi32_epi16 emu_to_u16
#define _mm512_cvtepi32_ps emu_from_int
#define _mm512_cvttps_epi32 emu_truncate
#define _mm512_cvtepi32_epi8 emu_low_bytes
#define _mm512_castps256_ps512 emu_cast
#define _mm512_insertf32x8(v, high, where) emu_insert(v, high)
#define _mm512_permutexvar_ps emu_permute
#define _mm512_permutevar_ps emu_permute_quarters
#define _mm512_cvtph_ps emu_from_half
#define _mm512_cvtps_ph(v, rounding) emu_to_half(v)
