/* How the K types lay the bits of 256 levels out. */
#ifndef GGUFFAST_CODECS_PACKING_H
#define GGUFFAST_CODECS_PACKING_H

#include "common.h"

/* Two bits a weight: of each 128, byte i holds weights i, i + 32, i + 64, i + 96. */
INLINE void pack_2bit(const uint8_t *levels, uint8_t *qs) {
    for (int at = 0; at < QK_K; at += 128, qs += 32)
        for (int i = 0; i < 32; i++) {
            const uint8_t *l = levels + at + i;
            qs[i] = (uint8_t)((l[0] & 3) | (l[32] & 3) << 2 | (l[64] & 3) << 4 | (l[96] & 3) << 6);
        }
}

/* Four bits a weight: of each 64, byte i holds weights i and i + 32. */
INLINE void pack_4bit(const uint8_t *levels, uint8_t *qs) {
    for (int at = 0; at < QK_K; at += 64, qs += 32)
        for (int i = 0; i < 32; i++) qs[i] = (uint8_t)((levels[at + i] & 15) | (levels[at + i + 32] & 15) << 4);
}

/* One bit a weight, the one at `place` of its level: byte i holds weights i, i + 32, i + 64 … */
INLINE void pack_bit(const uint8_t *levels, int place, uint8_t qh[QK_K / 8]) {
    for (int i = 0; i < 32; i++) {
        unsigned bits = 0;
        for (int j = 0; j < 8; j++) bits |= (levels[32 * j + i] >> place & 1u) << j;
        qh[i] = (uint8_t)bits;
    }
}

#endif
