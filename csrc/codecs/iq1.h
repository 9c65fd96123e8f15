/* IQ1_S, IQ1_M: super-blocks of 256 weights; eight are a point of a codebook of 2048, whose levels mean -1, 0 and
 * 1, all an eighth more or all an eighth less. */
#ifndef GGUFFAST_CODECS_IQ1_H
#define GGUFFAST_CODECS_IQ1_H

#include "codebook.h"

#define FOUR_TIMES(a, b, c) {a, b, c, 0, a, b, c, 0, a, b, c, 0, a, b, c, 0}
static const float iq1_values[2][16] = {FOUR_TIMES(-0.875f, 0.125f, 1.125f), FOUR_TIMES(-1.125f, -0.125f, 0.875f)};
#undef FOUR_TIMES

static const codebook_kind kind_IQ1_S = {GF_IQ1_BOOK, 8, 2, 3, .block = 32, .squares = 2, .tiny = 1e-12f};
static const codebook_kind kind_IQ1_M = {GF_IQ1_BOOK, 8, 2, 3, .block = 16, .squares = 2, .tiny = 1e-7f};

/* Which of the two values: bit 1 for the first half of a sub-block, bit 0 for the second. */
INLINE int less_at(const codebook_kind *kind, int choice, int p) {
    return 16 * p < kind->block ? choice >> 1 : choice & 1;
}

/* What was found for the super-blocks of a group. */
typedef struct {
    float scale[QK_K / 16][LANES], choice[QK_K / 16][LANES];
    uint16_t code[QK_K / 8][LANES]; /* [point] */
    uint32_t lost;
} iq1_fits;

/* ---- the best split: in order of size, the first weights become -1, then come zeros, the rest become 1 ---- */

/* A sub-block of every lane: x and w as they stand; then, in the order of x, of equals the first first, what each
 * half of the sub-block adds. */
typedef struct {
    float x[QK][LANES], w[QK][LANES];
    uint8_t order[QK][LANES];
    float sorted_wx[2][QK][LANES], sorted_w[2][QK][LANES];
} iq1_block;

typedef struct {
    lanes best; /* Σ² w x q / Σ w q² */
    lanes scale;
    lanes ones, zeros; /* where the zeros begin, where they end; -1 while there is none */
    lanes choice;
} iq1_split;

INLINE void iq1_sort(const codebook_kind *kind, const lanes *x, const lanes *w, iq1_block *b) {
    const int n = kind->block;
    lanes rank[QK];
    for (int i = 0; i < n; i++) {
        rank[i] = v_set(0);
        v_store(b->x[i], x[i]);
        v_store(b->w[i], w[i]);
    }
    for (int i = 1; i < n; i++)
        for (int j = 0; j < i; j++) {
            const mask before = v_lt(x[i], x[j]);
            rank[j] += v_select(before, v_set(1), v_set(0));
            rank[i] += v_select(before, v_set(0), v_set(1));
        }
    memset(b->sorted_wx, 0, sizeof b->sorted_wx);
    memset(b->sorted_w, 0, sizeof b->sorted_w);
    for (int i = 0; i < n; i++) {
        float at[LANES], wx[LANES];
        v_store(at, rank[i]);
        v_store(wx, w[i] * x[i]);
        for (size_t k = 0; k < LANES; k++) {
            const int to = (int)at[k], half = 2 * i >= n;
            b->order[to][k] = (uint8_t)i;
            b->sorted_wx[half][to][k] = wx[k];
            b->sorted_w[half][to][k] = b->w[i][k];
        }
    }
}

INLINE mask iq1_better(const iq1_split *s, lanes qx, lanes q2) {
    return v_and(v_lt(v_set(0), q2), v_lt(s->best * q2, qx * qx));
}

/* Takes a candidate where it is better. */
INLINE void iq1_take(iq1_split *s, lanes qx, lanes q2, int ones, int zeros, int choice) {
    const mask better = iq1_better(s, qx, q2);
    const lanes scale = qx / q2;
    s->scale = v_select(better, scale, s->scale);
    s->best = v_select(better, scale * qx, s->best);
    s->ones = v_select(better, v_set((float)ones), s->ones);
    s->zeros = v_select(better, v_set((float)zeros), s->zeros);
    s->choice = v_select(better, v_set((float)choice), s->choice);
}

/* Takes the best of `n` candidates, 2 (both halves alike) or 4, in their order.  Mostly none is better than the
 * best, which only grows: one question tells. */
INLINE void iq1_consider(iq1_split *s, int n, const lanes *qx, const lanes *q2, int ones, int zeros) {
    uint32_t any = 0;
    for (int c = 0; c < n; c++) any |= v_bits(iq1_better(s, qx[c], q2[c]));
    if (!any) return;
    for (int c = 0; c < n; c++) iq1_take(s, qx[c], q2[c], ones, zeros, n == 2 ? 3 * c : c);
}

/* IQ1_S: both halves are alike.  Sums run from the first weight on, of all together. */
INLINE void split_IQ1_S(const iq1_block *b, iq1_split *s) {
    lanes x[QK + 1], w[QK + 1], rest_x[2][QK + 1], rest_w[2][QK + 1];
    x[0] = w[0] = v_set(0);
    for (int i = 0; i < QK; i++) {
        x[i + 1] = x[i] + (v_load(b->sorted_wx[0][i]) + v_load(b->sorted_wx[1][i])); /* one of them is 0 */
        w[i + 1] = w[i] + (v_load(b->sorted_w[0][i]) + v_load(b->sorted_w[1][i]));
    }
    for (int less = 0; less < 2; less++)
        for (int i = 0; i <= QK; i++) {
            const lanes v = v_set(iq1_values[less][2]);
            rest_x[less][i] = (x[QK] - x[i]) * v;
            rest_w[less][i] = (w[QK] - w[i]) * v * v;
        }
    for (int i = 0; i <= QK; i++)
        for (int j = i; j <= QK; j++) {
            lanes qx[2], q2[2];
            for (int less = 0; less < 2; less++) {
                const lanes v0 = v_set(iq1_values[less][0]), v1 = v_set(iq1_values[less][1]);
                qx[less] = x[i] * v0 + (x[j] - x[i]) * v1 + rest_x[less][j];
                q2[less] = w[i] * v0 * v0 + (w[j] - w[i]) * v1 * v1 + rest_w[less][j];
            }
            iq1_consider(s, 2, qx, q2, i, j);
        }
}

/* IQ1_M: each half has its own sums and its own choice.  Neighbouring values differ by 1, so that llama.cpp writes
 * Σ w x q as a total less two sums, and Σ w q² likewise. */
INLINE void split_IQ1_M(const iq1_block *b, iq1_split *s) {
    enum { N = 16 };
    lanes x[2][N + 1], w[2][N + 1];
    for (int half = 0; half < 2; half++) {
        x[half][0] = w[half][0] = v_set(0);
        for (int i = 0; i < N; i++) {
            x[half][i + 1] = x[half][i] + v_load(b->sorted_wx[half][i]);
            w[half][i + 1] = w[half][i] + v_load(b->sorted_w[half][i]);
        }
    }
    for (int i = 0; i <= N; i++)
        for (int j = i; j <= N; j++) {
            lanes qx[2][2], q2[2][2];
            for (int half = 0; half < 2; half++)
                for (int less = 0; less < 2; less++) {
                    const float *v = iq1_values[less];
                    const lanes top = v_set(v[2]);
                    const lanes step1 = v_set(v[0] * v[0] - v[1] * v[1]), step2 = v_set(v[1] * v[1] - v[2] * v[2]);
                    qx[half][less] = x[half][N] * top - (x[half][i] + x[half][j]);
                    q2[half][less] = w[half][N] * top * top + w[half][i] * step1 + w[half][j] * step2;
                }
            lanes both_qx[4], both_q2[4];
            for (int choice = 0; choice < 4; choice++) {
                both_qx[choice] = qx[0][choice >> 1] + qx[1][choice & 1];
                both_q2[choice] = q2[0][choice >> 1] + q2[1][choice & 1];
            }
            iq1_consider(s, 4, both_qx, both_q2, i, j);
        }
}

/* ---- points of the codebook ---- */

/* The codes of one lane's split, those that the codebook lacks replaced; returns whether there were any. */
INLINE bool iq1_points(const codebook_kind *kind, const gf_codebook *book, const iq1_block *b, int ones, int zeros,
                       int choice, float scale, bool turned, size_t lane, uint16_t code[][LANES], bool *lost) {
    uint8_t level[QK];
    for (int i = 0; i < kind->block; i++) {
        const int l = i < ones ? 0 : i < zeros ? 1 : 2;
        level[b->order[i][lane]] = (uint8_t)(turned ? 2 - l : l);
    }
    bool outside = false;
    for (int p = 0; p < kind->block / 8; p++) {
        uint32_t own = 0;
        for (int i = 0; i < 8; i++) own |= (uint32_t)level[8 * p + i] << 2 * i;
        const float *values = iq1_values[less_at(kind, choice, p)];
        const int32_t found = nearest_code(kind, book, own, values, &b->x[8 * p][lane], &b->w[8 * p][lane], scale);
        outside |= found != (int32_t)own;
        *lost |= found < 0;
        code[p][lane] = (uint16_t)(found < 0 ? 0 : found);
    }
    return outside;
}

/* Adds to Σ w x q and Σ w q² what the points of a sub-block give; q is a value times `times`. */
INLINE void iq1_sums(const codebook_kind *kind, const lanes *x, const lanes *w, const uint16_t code[][LANES],
                     lanes choice, lanes times, lanes *sum_qx, lanes *sum_q2) {
    const mask first = v_ge(choice, v_set(2)), second = v_lt(v_set(0), v_select(first, choice - v_set(2), choice));
    for (int p = 0; p < kind->block / 8; p++) {
        const codes c = v_load_codes(code[p]);
        const mask less = 16 * p < kind->block ? first : second;
        for (int i = 0; i < 8; i++) {
            const lanes value =
                v_select(less, v_lookup4(iq1_values[1], c, 2 * i), v_lookup4(iq1_values[0], c, 2 * i));
            const lanes q = value * times, wq = w[8 * p + i] * q;
            *sum_qx += wq * x[8 * p + i];
            *sum_q2 += wq * q;
        }
    }
}

/* ---- a sub-block ---- */

INLINE void iq1_load(const codebook_kind *kind, const group *g, int j, lanes square_sum, lanes *x, lanes *w) {
    load_columns(g->x, (size_t)(j * kind->block), (size_t)kind->block, x);
    codebook_weights(kind, g, (size_t)(j * kind->block), square_sum, x, w);
}

INLINE void fit_iq1(const codebook_kind *kind, const gf_codebook *book, const group *g, int j, lanes square_sum,
                    iq1_fits *fits) {
    const lanes zero = v_set(0);
    lanes x[QK], w[QK], largest = zero;
    iq1_block b;
    iq1_load(kind, g, j, square_sum, x, w);
    for (int i = 0; i < kind->block; i++) largest = v_max(largest, v_abs(x[i]));
    iq1_sort(kind, x, w, &b);
    iq1_split s = {v_set(-FLT_MAX), largest, v_set(-1), v_set(-1), zero};
    if (kind->block == 32) split_IQ1_S(&b, &s);
    else split_IQ1_M(&b, &s);

    const mask live = v_andnot(v_ge(s.ones, zero), v_lt(largest, v_set(kind->tiny)));
    const mask negative = v_and(live, v_lt(s.scale, zero));
    lanes scale = v_select(live, v_select(negative, -s.scale, s.scale), zero);
    const lanes choice = v_select(live, v_select(negative, v_set(3) - s.choice, s.choice), zero);
    float ones[LANES], zeros[LANES], outside[LANES] = {0};
    uint16_t(*code)[LANES] = fits->code + j * kind->block / 8;
    v_store(ones, s.ones), v_store(zeros, s.zeros);
    v_store(fits->scale[j], scale), v_store(fits->choice[j], choice);
    for (size_t k = 0; k < LANES; k++) {
        bool lost = false;
        if (k >= g->count || !(v_bits(live) >> k & 1))
            for (int p = 0; p < kind->block / 8; p++) code[p][k] = 0;
        else
            outside[k] = iq1_points(kind, book, &b, (int)ones[k], (int)zeros[k], (int)fits->choice[j][k],
                                    fits->scale[j][k], v_bits(negative) >> k & 1, k, code, &lost);
        if (lost) fits->lost |= 1u << k;
    }
    lanes sum_qx = zero, sum_q2 = zero;
    iq1_sums(kind, x, w, code, choice, v_set(1), &sum_qx, &sum_q2);
    const mask good = v_and(v_lt(zero, sum_qx), v_lt(zero, sum_q2));
    scale = v_select(v_and(v_lt(zero, v_load(outside)), good), sum_qx / sum_q2, scale);
    v_store(fits->scale[j], scale);
    fits->lost |= ~v_bits(v_ge(scale, zero));
}

INLINE void fit_iq1_group(const codebook_kind *kind, const gf_codebook *book, const group *g, lanes square_sum,
                          iq1_fits *fits) {
    fits->lost = 0;
    for (int j = 0; j < QK_K / kind->block; j++) fit_iq1(kind, book, g, j, square_sum, fits);
}

/* The scales of a super-block as numbers from 0 to 7, which mean 1, 3, 5 …; returns the largest. */
INLINE float iq1_scales(const codebook_kind *kind, const iq1_fits *fits, size_t lane, uint8_t scale[QK_K / 16]) {
    float largest = 0;
    for (int j = 0; j < QK_K / kind->block; j++)
        if (!(largest > fits->scale[j][lane])) largest = fits->scale[j][lane];
    const float per_d = 1 / (largest / 15);
    for (int j = 0; j < QK_K / kind->block; j++)
        scale[j] =
            largest == 0 ? 0 : (uint8_t)clamp_int(nearest_int(0.5f * (per_d * fits->scale[j][lane] - 1)), 0, 7);
    return largest == 0 ? 0 : largest; /* not -0 */
}

INLINE uint32_t iq1_index(const gf_codebook *book, const iq1_fits *fits, int p, size_t lane) {
    return book->points[gf_ternary(fits->code[p][lane])] >> GF_COUNT_BITS;
}

/* ---- IQ1_S ---- */

INLINE void pack_IQ1_S(const gf_codebook *book, const iq1_fits *fits, size_t lane, block_IQ1_S *y) {
    uint8_t scale[QK_K / 16];
    const float largest = iq1_scales(&kind_IQ1_S, fits, lane, scale);
    y->d = gf_half_from_float(fits->lost >> lane & 1 ? INFINITY : largest / 15 * 1.125f);
    for (int j = 0; j < QK_K / 32; j++) {
        uint32_t high = (uint32_t)scale[j] << 12;
        if (fits->choice[j][lane] != 0 && largest != 0) high |= 0x8000;
        for (int p = 0; p < 4; p++) {
            const uint32_t index = iq1_index(book, fits, 4 * j + p, lane);
            y->qs[4 * j + p] = (uint8_t)index;
            high |= index >> 8 << 3 * p;
        }
        store_u16(y->qh + 2 * j, high);
    }
}

static void quantize_IQ1_S(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const gf_codebook *book = gf_codebook_get(GF_IQ1_BOOK);
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    block_IQ1_S *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        iq1_fits fits;
        fit_iq1_group(&kind_IQ1_S, book, &g, sum_of_squares(g.x, QK_K), &fits);
        for (size_t k = 0; k < g.count; k++) pack_IQ1_S(book, &fits, k, y++);
    }
}

static void dequantize_IQ1_S(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(GF_IQ1_BOOK);
    const block_IQ1_S *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        const float d = gf_half_to_float(x->d);
        for (int p = 0; p < QK_K / 8; p++, dst += 8) {
            const uint32_t high = load_u16(x->qh + p / 4 * 2);
            const uint32_t index = x->qs[p] | (high >> p % 4 * 3 & 7) << 8;
            const float scale = d * (float)(2 * (high >> 12 & 7) + 1);
            unpack_point(&kind_IQ1_S, book, index, 0, scale, iq1_values[high >> 15], dst);
        }
    }
}

/* ---- IQ1_M ---- */

/* What a group's super-blocks become: their scales, a lane each, and those of their sub-blocks. */
typedef struct {
    float largest[LANES], d[LANES];
    float scale[QK_K / 16][LANES];
} iq1_m_header;

/* With all scales known, the super-block's is fitted once more. */
INLINE void header_IQ1_M(const group *g, lanes square_sum, const iq1_fits *fits, iq1_m_header *h) {
    for (size_t k = 0; k < LANES; k++) {
        uint8_t scale[QK_K / 16];
        h->largest[k] = iq1_scales(&kind_IQ1_M, fits, k, scale);
        for (int j = 0; j < QK_K / 16; j++) h->scale[j][k] = scale[j];
    }
    lanes sum_qx = v_set(0), sum_q2 = v_set(0);
    for (int j = 0; j < QK_K / 16; j++) {
        lanes x[QK], w[QK];
        iq1_load(&kind_IQ1_M, g, j, square_sum, x, w);
        const lanes times = v_set(2) * v_load(h->scale[j]) + v_set(1);
        iq1_sums(&kind_IQ1_M, x, w, fits->code + 2 * j, v_load(fits->choice[j]), times, &sum_qx, &sum_q2);
    }
    const lanes first = v_load(h->largest) / v_set(15);
    v_store(h->d, v_select(v_lt(v_set(0), sum_q2), sum_qx / sum_q2, first));
}

INLINE void pack_IQ1_M(const gf_codebook *book, const iq1_fits *fits, const iq1_m_header *h, size_t lane,
                       block_IQ1_M *y) {
    const bool zero = h->largest[lane] == 0;
    float d = zero ? 0 : h->d[lane] * 1.1125f;
    if (fits->lost >> lane & 1) d = INFINITY;
    const gf_half half = gf_half_from_float(d);
    const uint32_t bits = half.bytes[0] | (uint32_t)half.bytes[1] << 8;
    for (int j = 0; j < QK_K / 16; j++) {
        const uint32_t first = iq1_index(book, fits, 2 * j, lane), second = iq1_index(book, fits, 2 * j + 1, lane);
        const uint32_t choice = zero ? 0 : (uint32_t)fits->choice[j][lane];
        y->qs[2 * j] = (uint8_t)first, y->qs[2 * j + 1] = (uint8_t)second;
        y->qh[j] = (uint8_t)(first >> 8 | second >> 8 << 4 | choice >> 1 << 3 | (choice & 1) << 7);
    }
    for (int q = 0; q < 4; q++) {
        uint32_t sixteen = (bits >> 4 * q & 15) << 12;
        for (int j = 0; j < 4; j++) sixteen |= (uint32_t)h->scale[4 * q + j][lane] << 3 * j;
        store_u16(y->scales + 2 * q, sixteen);
    }
}

static void quantize_IQ1_M(const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const gf_codebook *book = gf_codebook_get(GF_IQ1_BOOK);
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    block_IQ1_M *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        const lanes square_sum = sum_of_squares(g.x, QK_K);
        iq1_fits fits;
        iq1_m_header header;
        fit_iq1_group(&kind_IQ1_M, book, &g, square_sum, &fits);
        header_IQ1_M(&g, square_sum, &fits, &header);
        for (size_t k = 0; k < g.count; k++) pack_IQ1_M(book, &fits, &header, k, y++);
    }
}

static void dequantize_IQ1_M(const void *src, float *dst, size_t n) {
    const gf_codebook *book = gf_codebook_get(GF_IQ1_BOOK);
    const block_IQ1_M *x = src;
    for (size_t b = 0; b < n / QK_K; b++, x++) {
        uint32_t sixteen[4], bits = 0;
        for (int q = 0; q < 4; q++) {
            sixteen[q] = load_u16(x->scales + 2 * q);
            bits |= sixteen[q] >> 12 << 4 * q;
        }
        const float d = gf_half_to_float((gf_half){{(uint8_t)bits, (uint8_t)(bits >> 8)}});
        for (int p = 0; p < QK_K / 8; p++, dst += 8) {
            const uint32_t high = x->qh[p / 2] >> p % 2 * 4;
            const float scale = d * (float)(2 * (sixteen[p / 8] >> p % 8 / 2 * 3 & 7) + 1);
            unpack_point(&kind_IQ1_M, book, x->qs[p] | (high & 7) << 8, 0, scale, iq1_values[high >> 3 & 1], dst);
        }
    }
}

#endif
