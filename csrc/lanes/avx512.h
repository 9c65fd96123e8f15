/* Sixteen lanes: AVX-512 (F, BW, DQ, VL).  See portable.h for what each name means. */
#ifndef GGUFFAST_LANES_AVX512_H
#define GGUFFAST_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
typedef __m512 lanes;
typedef __mmask16 mask;
typedef __m512i codes;

static inline lanes v_set(float a) { return _mm512_set1_ps(a); }
static inline lanes v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, lanes a) { _mm512_storeu_ps(p, a); }

static inline lanes v_min(lanes a, lanes b) { return _mm512_min_ps(a, b); }
static inline lanes v_max(lanes a, lanes b) { return _mm512_max_ps(a, b); }
static inline lanes v_abs(lanes a) { return _mm512_abs_ps(a); }
static inline lanes v_sqrt(lanes a) { return _mm512_sqrt_ps(a); }

static inline lanes v_load_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void v_store_f16(uint8_t *p, lanes a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline mask v_lt(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline mask v_ge(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline mask v_eq(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline mask v_and(mask a, mask b) { return a & b; }
static inline mask v_andnot(mask a, mask b) { return (mask)(a & ~b); }
static inline lanes v_select(mask m, lanes yes, lanes no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline int v_any(mask m) { return m != 0; }
static inline int v_all(mask m) { return m == 0xffff; }
static inline uint32_t v_bits(mask m) { return m; }

static inline float v_largest(lanes a) { return _mm512_reduce_max_ps(a); }
static inline float v_smallest(lanes a) { return _mm512_reduce_min_ps(a); }

static inline lanes v_nearest_any(lanes a) {
    const __m512i bits = _mm512_castps_si512(_mm512_add_ps(a, _mm512_set1_ps(12582912.f)));
    const __m512i low = _mm512_and_si512(bits, _mm512_set1_epi32(0x007fffff));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(0x00400000)));
}

static inline lanes v_wrap_u8(lanes a) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_cvttps_epi32(a), _mm512_set1_epi32(255)));
}

static inline void v_store_u8(uint8_t *p, lanes a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a)));
}

static inline void v_store_nibbles(uint8_t *p, lanes low, lanes high) {
    const __m512i four = _mm512_set1_epi32(15);
    const __m512i l = _mm512_and_si512(_mm512_cvttps_epi32(low), four);
    const __m512i h = _mm512_and_si512(_mm512_cvttps_epi32(high), four);
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_or_si512(l, _mm512_slli_epi32(h, 4))));
}

static inline void v_load_columns(const float *const p[LANES], size_t at, lanes out[LANES]) {
    lanes rows[16], pairs[16];
    /* Rows r, r + 4, r + 8 and r + 12 share a register, a quarter each, so that only shuffles inside the quarters
     * remain: rows[4 * c + r] holds columns 4 * c … 4 * c + 3 of those four rows. */
    for (int c = 0; c < 4; c++)
        for (int r = 0; r < 4; r++) {
            const size_t from = at + 4 * (size_t)c;
            const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[r] + from)),
                                                    _mm_loadu_ps(p[r + 4] + from), 1);
            const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[r + 8] + from)),
                                                     _mm_loadu_ps(p[r + 12] + from), 1);
            rows[4 * c + r] = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
        }
    for (int h = 0; h < 16; h += 4) {
        pairs[h] = _mm512_unpacklo_ps(rows[h], rows[h + 1]);
        pairs[h + 1] = _mm512_unpackhi_ps(rows[h], rows[h + 1]);
        pairs[h + 2] = _mm512_unpacklo_ps(rows[h + 2], rows[h + 3]);
        pairs[h + 3] = _mm512_unpackhi_ps(rows[h + 2], rows[h + 3]);
        out[h] = _mm512_shuffle_ps(pairs[h], pairs[h + 2], 0x44);
        out[h + 1] = _mm512_shuffle_ps(pairs[h], pairs[h + 2], 0xee);
        out[h + 2] = _mm512_shuffle_ps(pairs[h + 1], pairs[h + 3], 0x44);
        out[h + 3] = _mm512_shuffle_ps(pairs[h + 1], pairs[h + 3], 0xee);
    }
}

static inline lanes v_staircase(lanes a, const float steps[16], const float values[16]) {
    const __m512 table = _mm512_loadu_ps(steps);
    __m512i i = _mm512_setzero_si512();
    for (int half = 8; half; half /= 2) {
        const __m512i next = _mm512_or_si512(i, _mm512_set1_epi32(half));
        const mask up = _mm512_cmp_ps_mask(a, _mm512_permutexvar_ps(next, table), _CMP_NLT_UQ);
        i = _mm512_mask_mov_epi32(i, up, next);
    }
    return _mm512_permutexvar_ps(i, _mm512_loadu_ps(values));
}

static inline codes v_load_codes(const uint16_t *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
static inline void v_store_codes(uint16_t *p, lanes a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(a)));
}

/* Both look at the low bits of each index alone: two in a quarter of the table, four in the whole, of which the
 * fourth does not matter, for the table repeats itself. */
static inline lanes v_lookup4(const float *table, codes c, int at) {
    return _mm512_permutevar_ps(_mm512_loadu_ps(table), _mm512_srli_epi32(c, (unsigned)at));
}
static inline lanes v_lookup8(const float *table, codes c, int at) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(c, (unsigned)at), _mm512_loadu_ps(table));
}

#endif
