/* IEEE half precision, one number at a time: for the scales of blocks, where the lanes have none to share. */
#ifndef GGUFFAST_HALF_H
#define GGUFFAST_HALF_H

#include "blocks.h"

#include <math.h>
#include <string.h>

static inline gf_half gf_half_at(const uint8_t *p) { return (gf_half){{p[0], p[1]}}; }

/* To nearest even; what is too large becomes infinite. */
static inline gf_half gf_half_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff, half;
    if (magnitude > 0x7f800000) half = 0x7e00;       /* NaN */
    else if (magnitude >= 0x477ff000) half = 0x7c00; /* 65520 and above */
    else if (magnitude >= 0x38800000) {              /* 2^-14 and above: drop 13 bits, rebias the exponent */
        magnitude += 0xfff + (magnitude >> 13 & 1);
        half = (magnitude - 0x38000000) >> 13;
    } else { /* subnormal: next to 0.5 a float counts in steps of 2^-24, as a subnormal half does */
        const float sum = fabsf(f) + 0.5f;
        memcpy(&half, &sum, sizeof half);
        half -= 0x3f000000;
    }
    half |= sign;
    return (gf_half){{(uint8_t)half, (uint8_t)(half >> 8)}};
}

static inline float gf_half_to_float(gf_half h) {
    const uint32_t half = h.bytes[0] | (uint32_t)h.bytes[1] << 8;
    const uint32_t sign = (half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude < 0x400) { /* subnormal, in steps of 2^-24 */
        const float f = (float)magnitude * 0x1p-24f;
        return sign ? -f : f;
    }
    const uint32_t bias = magnitude >= 0x7c00 ? 0x70000000 : 0x38000000;
    const uint32_t bits = sign | ((magnitude << 13) + bias);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
