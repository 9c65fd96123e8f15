/* The codebooks of the IQ1, IQ2 and IQ3 types.
 *
 * Such a type stores the levels of eight (IQ1, IQ2) or four (IQ3) weights as one number: the index of a point in a
 * codebook, which holds some of the points that the levels could make.  Levels that make another point are replaced
 * by those of one of its neighbours, the points of the codebook that are nearest to it. */
#ifndef GGUFFAST_CODEBOOKS_H
#define GGUFFAST_CODEBOOKS_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    GF_IQ2_XXS_BOOK,
    GF_IQ2_XS_BOOK,
    GF_IQ2_S_BOOK,
    GF_IQ1_BOOK,
    GF_IQ3_XXS_BOOK,
    GF_IQ3_S_BOOK
} gf_book_name;

enum { GF_BOOK_POINTS = 6561, GF_BOOK_SIZE = 2048 }; /* at the most: 3^8 points, 2^11 of them chosen */

typedef struct {
    /* Points are written as codes, which hold the levels side by side, the first weight's lowest: two bits each
     * (IQ1, IQ2: levels 0 … 2) or three (IQ3: levels 0 … 7). */
    uint16_t codes[GF_BOOK_SIZE];
    /* For each point, by its number (see gf_point_number): a chosen one's index, else where its neighbours start
     * among those below, shifted by GF_COUNT_BITS, plus how many there are.  No chosen point has any. */
    uint32_t points[GF_BOOK_POINTS];
    /* Codes, the nearest first, equally near ones in the order of the codebook: the first of the best wins.  A list
     * is filled up with its last one to a multiple of GF_NEIGHBOURS_STEP. */
    const uint16_t *neighbours;
} gf_codebook;

enum { GF_NEIGHBOURS_STEP = 16 }; /* lanes, at the most */
enum { GF_COUNT_BITS = 10, GF_COUNT_MASK = (1 << GF_COUNT_BITS) - 1 };

/* The codebook, made by whoever asks for it first, in some milliseconds during which others that ask wait.  It
 * lives in static memory: nothing is allocated. */
const gf_codebook *gf_codebook_get(gf_book_name name);

/* The digits of a code's levels to base 3, which number the points of IQ1 and IQ2 without gaps.  (To base 8 a code
 * of IQ3 is its own number.) */
static inline uint32_t gf_ternary(uint32_t code) {
    uint32_t number = 0;
    for (int i = 14; i >= 0; i -= 2) number = 3 * number + (code >> i & 3);
    return number;
}

#endif
