/* Four lanes: AArch64 NEON.  See portable.h for what each name means. */
#ifndef GGUFFAST_LANES_NEON_H
#define GGUFFAST_LANES_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define LANES 4
typedef float32x4_t lanes;
typedef uint32x4_t mask;
typedef uint32x4_t codes;

static inline lanes v_set(float a) { return vdupq_n_f32(a); }
static inline lanes v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, lanes a) { vst1q_f32(p, a); }

/* Not vminq_f32: that one orders zeros by sign and hands NaN on. */
static inline lanes v_min(lanes a, lanes b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline lanes v_max(lanes a, lanes b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline lanes v_abs(lanes a) { return vabsq_f32(a); }
static inline lanes v_sqrt(lanes a) { return vsqrtq_f32(a); }

static inline lanes v_load_f16(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
static inline void v_store_f16(uint8_t *p, lanes a) { vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(a))); }

static inline mask v_lt(lanes a, lanes b) { return vcltq_f32(a, b); }
static inline mask v_ge(lanes a, lanes b) { return vcgeq_f32(a, b); }
static inline mask v_eq(lanes a, lanes b) { return vceqq_f32(a, b); }
static inline mask v_and(mask a, mask b) { return vandq_u32(a, b); }
static inline mask v_andnot(mask a, mask b) { return vbicq_u32(a, b); }
static inline lanes v_select(mask m, lanes yes, lanes no) { return vbslq_f32(m, yes, no); }
static inline int v_any(mask m) { return vmaxvq_u32(m) != 0; }
static inline int v_all(mask m) { return vminvq_u32(m) != 0; }
static inline uint32_t v_bits(mask m) {
    static const uint32_t bit[LANES] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(bit)));
}

static inline float v_largest(lanes a) { return vmaxvq_f32(a); }
static inline float v_smallest(lanes a) { return vminvq_f32(a); }

static inline lanes v_nearest_any(lanes a) {
    const int32x4_t bits = vreinterpretq_s32_f32(vaddq_f32(a, vdupq_n_f32(12582912.f)));
    const int32x4_t low = vandq_s32(bits, vdupq_n_s32(0x007fffff));
    return vcvtq_f32_s32(vsubq_s32(low, vdupq_n_s32(0x00400000)));
}

static inline lanes v_wrap_u8(lanes a) { return vcvtq_f32_s32(vandq_s32(vcvtq_s32_f32(a), vdupq_n_s32(255))); }

/* The low byte of each of four numbers. */
static inline void store_low_bytes(uint8_t *p, int32x4_t a) {
    const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    memcpy(p, &four, sizeof four);
}

static inline void v_store_u8(uint8_t *p, lanes a) { store_low_bytes(p, vcvtq_s32_f32(a)); }

static inline void v_store_nibbles(uint8_t *p, lanes low, lanes high) {
    const int32x4_t four = vdupq_n_s32(15);
    const int32x4_t l = vandq_s32(vcvtq_s32_f32(low), four), h = vandq_s32(vcvtq_s32_f32(high), four);
    store_low_bytes(p, vorrq_s32(l, vshlq_n_s32(h, 4)));
}

static inline void v_load_columns(const float *const p[LANES], size_t at, lanes out[LANES]) {
    const float32x4x2_t a = vtrnq_f32(vld1q_f32(p[0] + at), vld1q_f32(p[1] + at));
    const float32x4x2_t b = vtrnq_f32(vld1q_f32(p[2] + at), vld1q_f32(p[3] + at));
    out[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    out[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    out[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    out[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

static inline lanes v_staircase(lanes a, const float steps[16], const float values[16]) {
    /* No float table look-up here: count the steps, which four lanes do quickly enough. */
    uint32x4_t i = vdupq_n_u32(0);
    for (int k = 1; k < 16; k++) i = vsubq_u32(i, vmvnq_u32(vcltq_f32(a, vdupq_n_f32(steps[k]))));
    uint32_t at[LANES];
    vst1q_u32(at, i);
    const float found[LANES] = {values[at[0]], values[at[1]], values[at[2]], values[at[3]]};
    return vld1q_f32(found);
}

static inline codes v_load_codes(const uint16_t *p) { return vmovl_u16(vld1_u16(p)); }
static inline void v_store_codes(uint16_t *p, lanes a) { vst1_u16(p, vmovn_u32(vcvtq_u32_f32(a))); }

/* Tables are looked up by bytes: index k becomes the bytes 4 * k … 4 * k + 3. */
static inline uint8x16_t bytes_of(codes c, int at, uint32_t bits) {
    const uint32x4_t k = vandq_u32(vshlq_u32(c, vdupq_n_s32(-at)), vdupq_n_u32(bits));
    return vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100), k, 0x04040404));
}
static inline lanes v_lookup4(const float *table, codes c, int at) {
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(vld1q_f32(table)), bytes_of(c, at, 3)));
}
static inline lanes v_lookup8(const float *table, codes c, int at) {
    const uint8x16x2_t both = {
        {vreinterpretq_u8_f32(vld1q_f32(table)), vreinterpretq_u8_f32(vld1q_f32(table + 4))}};
    return vreinterpretq_f32_u8(vqtbl2q_u8(both, bytes_of(c, at, 7)));
}

#endif
