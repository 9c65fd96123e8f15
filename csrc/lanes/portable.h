/* One lane: plain C for any compiler.  The other files of this folder have the same names; here the meaning of each
 * is easiest to read.
 *
 *     lanes     LANES floats
 *     mask      LANES truth values
 *     codes     LANES codes of 16 bits, each made of small fields
 *     + - * /   lane by lane, each rounded once; no operation here ever changes the order of another
 */
#ifndef GGUFFAST_LANES_PORTABLE_H
#define GGUFFAST_LANES_PORTABLE_H

#include "../half.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 1
typedef float lanes;
typedef int mask;
typedef uint32_t codes;

static inline lanes v_set(float a) { return a; }
static inline lanes v_load(const float *p) { return *p; }
static inline void v_store(float *p, lanes a) { *p = a; }

/* As C's a < b ? a : b, so the second one where either is NaN or both are zeros. */
static inline lanes v_min(lanes a, lanes b) { return a < b ? a : b; }
static inline lanes v_max(lanes a, lanes b) { return a > b ? a : b; }
static inline lanes v_abs(lanes a) { return fabsf(a); }
static inline lanes v_sqrt(lanes a) { return sqrtf(a); }

/* Half precision: LANES of them, to nearest even. */
static inline lanes v_load_f16(const uint8_t *p) { return gf_half_to_float(gf_half_at(p)); }
static inline void v_store_f16(uint8_t *p, lanes a) {
    const gf_half h = gf_half_from_float(a);
    memcpy(p, h.bytes, sizeof h);
}

/* Comparisons are false where either is NaN. */
static inline mask v_lt(lanes a, lanes b) { return a < b; }
static inline mask v_ge(lanes a, lanes b) { return a >= b; }
static inline mask v_eq(lanes a, lanes b) { return a == b; }
static inline mask v_and(mask a, mask b) { return a & b; }
static inline mask v_andnot(mask a, mask b) { return a & !b; }
static inline lanes v_select(mask m, lanes yes, lanes no) { return m ? yes : no; }
static inline int v_any(mask m) { return m; }
static inline int v_all(mask m) { return m; }
/* Lane k at bit k. */
static inline uint32_t v_bits(mask m) { return (uint32_t)m; }

/* The largest and the smallest lane.  No lane is NaN. */
static inline float v_largest(lanes a) { return a; }
static inline float v_smallest(lanes a) { return a; }

/* What llama.cpp's nearest_int() gives for *any* float: to nearest even below 2^22, and beyond that whatever the
 * low 23 bits of the sum with 1.5 * 2^23 happen to be. */
static inline lanes v_nearest_any(lanes a) {
    const float sum = a + 12582912.f;
    int32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return (float)((bits & 0x007fffff) - 0x00400000);
}

/* Whole numbers: the low eight bits of each.  |a| < 2^22. */
static inline lanes v_wrap_u8(lanes a) { return (float)((int32_t)a & 255); }

/* Toward zero, then the low eight bits of each, in LANES bytes.  |a| < 2^31. */
static inline void v_store_u8(uint8_t *p, lanes a) { *p = (uint8_t)(int32_t)a; }

/* Likewise the low four bits of two numbers a byte: of `low` below, of `high` above. */
static inline void v_store_nibbles(uint8_t *p, lanes low, lanes high) {
    *p = (uint8_t)(((int32_t)low & 15) | ((int32_t)high & 15) << 4);
}

/* out[i] = the floats p[0][at + i] … p[LANES - 1][at + i]: a square turned on its side. */
static inline void v_load_columns(const float *const p[LANES], size_t at, lanes out[LANES]) { out[0] = p[0][at]; }

/* The value on the stair that a stands on: values[i], where i counts those of steps[1] … steps[15], which ascend,
 * that a is not below.  So NaN stands on the last one, as in llama.cpp.  steps[0] is not used. */
static inline lanes v_staircase(lanes a, const float steps[16], const float values[16]) {
    int i = 0;
    for (int half = 8; half; half /= 2) i += a < steps[i + half] ? 0 : half;
    return values[i];
}

static inline codes v_load_codes(const uint16_t *p) { return *p; }
/* Whole numbers, 0 … 65535. */
static inline void v_store_codes(uint16_t *p, lanes a) { *p = (uint16_t)a; }

/* table[k], where k is the two or three bits of each code that start at bit `at`.  The table repeats itself until
 * it fills LANES. */
static inline lanes v_lookup4(const float *table, codes c, int at) { return table[c >> at & 3]; }
static inline lanes v_lookup8(const float *table, codes c, int at) { return table[c >> at & 7]; }

#endif
