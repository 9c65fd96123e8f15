/* Eight lanes: AVX2.  See portable.h for what each name means. */
#ifndef GGUFFAST_LANES_AVX2_H
#define GGUFFAST_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
typedef __m256 lanes;
typedef __m256 mask;
typedef __m256i codes;

static inline lanes v_set(float a) { return _mm256_set1_ps(a); }
static inline lanes v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, lanes a) { _mm256_storeu_ps(p, a); }

static inline lanes v_min(lanes a, lanes b) { return _mm256_min_ps(a, b); }
static inline lanes v_max(lanes a, lanes b) { return _mm256_max_ps(a, b); }
static inline lanes v_abs(lanes a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
static inline lanes v_sqrt(lanes a) { return _mm256_sqrt_ps(a); }

static inline lanes v_load_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void v_store_f16(uint8_t *p, lanes a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline mask v_lt(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline mask v_ge(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline mask v_eq(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline mask v_and(mask a, mask b) { return _mm256_and_ps(a, b); }
static inline mask v_andnot(mask a, mask b) { return _mm256_andnot_ps(b, a); }
static inline lanes v_select(mask m, lanes yes, lanes no) { return _mm256_blendv_ps(no, yes, m); }
static inline int v_any(mask m) { return _mm256_movemask_ps(m) != 0; }
static inline int v_all(mask m) { return _mm256_movemask_ps(m) == 255; }
static inline uint32_t v_bits(mask m) { return (uint32_t)_mm256_movemask_ps(m); }

static inline float v_largest(lanes a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
static inline float v_smallest(lanes a) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
}

static inline lanes v_nearest_any(lanes a) {
    const __m256i bits = _mm256_castps_si256(_mm256_add_ps(a, _mm256_set1_ps(12582912.f)));
    const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(0x00400000)));
}

static inline lanes v_wrap_u8(lanes a) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_cvttps_epi32(a), _mm256_set1_epi32(255)));
}

/* The low byte of each of eight numbers below 65536. */
static inline void store_low_bytes(uint8_t *p, __m256i a) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}

static inline void v_store_u8(uint8_t *p, lanes a) {
    store_low_bytes(p, _mm256_and_si256(_mm256_cvttps_epi32(a), _mm256_set1_epi32(255)));
}

static inline void v_store_nibbles(uint8_t *p, lanes low, lanes high) {
    const __m256i four = _mm256_set1_epi32(15);
    const __m256i l = _mm256_and_si256(_mm256_cvttps_epi32(low), four);
    const __m256i h = _mm256_and_si256(_mm256_cvttps_epi32(high), four);
    store_low_bytes(p, _mm256_or_si256(l, _mm256_slli_epi32(h, 4)));
}

static inline void v_load_columns(const float *const p[LANES], size_t at, lanes out[LANES]) {
    lanes pairs[8], quads[8];
    /* Rows r and r + 4 share a register, so that only shuffles inside its halves remain. */
    lanes rows[8];
    for (int r = 0; r < 4; r++) {
        rows[r] =
            _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[r] + at)), _mm_loadu_ps(p[r + 4] + at), 1);
        rows[r + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[r] + at + 4)),
                                           _mm_loadu_ps(p[r + 4] + at + 4), 1);
    }
    for (int h = 0; h < 8; h += 4) {
        pairs[h] = _mm256_unpacklo_ps(rows[h], rows[h + 1]);
        pairs[h + 1] = _mm256_unpackhi_ps(rows[h], rows[h + 1]);
        pairs[h + 2] = _mm256_unpacklo_ps(rows[h + 2], rows[h + 3]);
        pairs[h + 3] = _mm256_unpackhi_ps(rows[h + 2], rows[h + 3]);
        quads[h] = _mm256_shuffle_ps(pairs[h], pairs[h + 2], 0x44);
        quads[h + 1] = _mm256_shuffle_ps(pairs[h], pairs[h + 2], 0xee);
        quads[h + 2] = _mm256_shuffle_ps(pairs[h + 1], pairs[h + 3], 0x44);
        quads[h + 3] = _mm256_shuffle_ps(pairs[h + 1], pairs[h + 3], 0xee);
    }
    for (int i = 0; i < 8; i++) out[i] = quads[i];
}

static inline lanes v_staircase(lanes a, const float steps[16], const float values[16]) {
    /* Four questions; each answer is a bit of the index.  Tables of eight fit a register, so the last one is asked
     * of both halves of steps[] at once. */
    const __m256i eight = _mm256_set1_epi32(8), four = _mm256_set1_epi32(4), two = _mm256_set1_epi32(2),
                  one = _mm256_set1_epi32(1);
    const __m256 m8 = _mm256_cmp_ps(a, _mm256_set1_ps(steps[8]), _CMP_NLT_UQ);
    const __m256 s4 = _mm256_blendv_ps(_mm256_set1_ps(steps[4]), _mm256_set1_ps(steps[12]), m8);
    const __m256 m4 = _mm256_cmp_ps(a, s4, _CMP_NLT_UQ);
    __m256i i = _mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(m8), eight),
                                _mm256_and_si256(_mm256_castps_si256(m4), four));
    /* vpermps looks at the low three bits of the index alone: bit 3 chooses between the halves by its own mask. */
    const __m256 low = _mm256_loadu_ps(steps), high = _mm256_loadu_ps(steps + 8);
    const __m256i at2 = _mm256_or_si256(i, two);
    const __m256 s2 = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at2), _mm256_permutevar8x32_ps(high, at2), m8);
    const __m256 m2 = _mm256_cmp_ps(a, s2, _CMP_NLT_UQ);
    i = _mm256_or_si256(i, _mm256_and_si256(_mm256_castps_si256(m2), two));
    const __m256i at1 = _mm256_or_si256(i, one);
    const __m256 s1 = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at1), _mm256_permutevar8x32_ps(high, at1), m8);
    const __m256 m1 = _mm256_cmp_ps(a, s1, _CMP_NLT_UQ);
    i = _mm256_or_si256(i, _mm256_and_si256(_mm256_castps_si256(m1), one));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(values), i),
                            _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), i), m8);
}

static inline codes v_load_codes(const uint16_t *p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}
static inline void v_store_codes(uint16_t *p, lanes a) {
    const __m256i c = _mm256_cvttps_epi32(a);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1)));
}

/* Both look at the low bits of each index alone. */
static inline lanes v_lookup4(const float *table, codes c, int at) {
    return _mm256_permutevar_ps(_mm256_loadu_ps(table), _mm256_srli_epi32(c, at));
}
static inline lanes v_lookup8(const float *table, codes c, int at) {
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), _mm256_srli_epi32(c, at));
}

#endif
