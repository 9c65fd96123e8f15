/* The search of the IQ2 and IQ3 types: the scale of a sub-block, and for every eight or four of its weights a point
 * of a codebook (codebooks.h).  The signs are stored by themselves, so that the levels are those of magnitudes. */
#ifndef GGUFFAST_CODECS_CODEBOOK_H
#define GGUFFAST_CODECS_CODEBOOK_H

#include "../codebooks.h"
#include "fit.h"

enum {
    MOST_TRIES = 32, /* scales tried: at the most 31, and the final one */
    MOST_POINTS = 8, /* points of a sub-block */
    TABLE_SIZE = LANES < 8 ? 8 : LANES,
};

typedef struct {
    gf_book_name book;
    int weights, bits, levels; /* of a point: how many, bits of each in a code, how many there are */
    int block;                 /* weights that share a scale */
    bool even;       /* of every eight weights an even number is negative, so that seven signs are stored */
    float squares;   /* with an importance matrix: how many times the mean square goes into the weights */
    bool plain_mean; /* without a matrix a quarter of the mean square is added to the weights */
    float tiny;      /* a sub-block whose largest weight is below this counts as zeros */
    int tries;       /* scales are tried from -tries to tries steps around that of the largest weight */
    float step;
    float fudge;  /* the super-block's scale is stored so many times larger, for a little less error */
    size_t bytes; /* of a super-block */
    enum { REFIT_OUTSIDE, REFIT_IF_OUTSIDE, REFIT_ALL } refit; /* what is rounded once more with the best scale */
} codebook_kind;

/* What level 0, 1, 2, … stands for, times the scale. */
static const float odd_numbers[16] = {1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15};
static const float pairs_of_odd_numbers[16] = {1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7};

/* A sub-block of every lane: [weight][lane], and what was tried: [try][point][lane]. */
typedef struct {
    float x[QK][LANES]; /* magnitudes, but for a weight whose sign was changed to make their number even */
    float w[QK][LANES], root[QK][LANES]; /* how much each counts, and the root of that */
    uint16_t code[MOST_TRIES][MOST_POINTS][LANES];
    float scale[MOST_TRIES][LANES], divide[MOST_TRIES][LANES]; /* each 1 over the other */
    uint8_t outside[MOST_TRIES][LANES]; /* bit p: point p was not in the codebook, and its neighbour stands there */
} codebook_search;

/* What was found for the super-blocks of a group. */
typedef struct {
    float scale[QK_K / 16][LANES];
    uint16_t code[QK_K / 4][LANES]; /* [point] */
    float signs[QK_K / 8][LANES];   /* of eight weights, a bit each */
    uint32_t zeros[QK_K / 16];      /* bit k: the weights of lane k count as zeros */
    uint32_t lost;                  /* bit k: lane k overflowed, where llama.cpp gives up */
} codebook_fits;

INLINE const float *level_values(const codebook_kind *kind) {
    return kind->bits == 2 ? pairs_of_odd_numbers : odd_numbers;
}

/* See gf_codebook.points. */
INLINE uint32_t point_of(const codebook_kind *kind, const gf_codebook *book, uint32_t code) {
    return book->points[kind->bits == 2 ? gf_ternary(code) : code];
}

INLINE lanes value_at(const codebook_kind *kind, const float *table, codes code, int i) {
    return kind->bits == 2 ? v_lookup4(table, code, 2 * i) : v_lookup8(table, code, 3 * i);
}

/* ---- numbers of two and four bytes ---- */

INLINE void store_u16(uint8_t *p, uint32_t a) { p[0] = (uint8_t)a, p[1] = (uint8_t)(a >> 8); }
INLINE void store_u32(uint8_t *p, uint32_t a) { store_u16(p, a), store_u16(p + 2, a >> 16); }
INLINE uint32_t load_u16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
INLINE uint32_t load_u32(const uint8_t *p) { return load_u16(p) | load_u16(p + 2) << 16; }

/* ---- weights and signs ---- */

/* How much each weight counts. */
INLINE void codebook_weights(const codebook_kind *kind, const group *g, size_t at, lanes square_sum, const lanes *x,
                             lanes *w) {
    const lanes mean_square = square_sum * v_set(kind->squares) / v_set(QK_K);
    if (g->w[0]) load_columns(g->w, at, (size_t)kind->block, w);
    for (int i = 0; i < kind->block; i++) {
        const lanes square = x[i] * x[i];
        if (g->w[0]) w[i] = w[i] * v_sqrt(mean_square + square);
        else if (kind->plain_mean) w[i] = v_set(0.25f) * mean_square + square;
        else w[i] = square;
    }
}

/* Turns eight weights into magnitudes and returns their signs. */
INLINE lanes take_signs(const codebook_kind *kind, lanes *x, const lanes *w) {
    const lanes zero = v_set(0), one = v_set(1);
    lanes negative[8], product = one;
    for (int i = 0; i < 8; i++) {
        const mask below = v_lt(x[i], zero);
        negative[i] = v_select(below, one, zero);
        product = v_select(below, -product, product);
    }
    /* Where their number must be even but is odd, the weight that matters least changes its sign. */
    const mask odd = v_lt(product, zero);
    lanes least = w[0] * x[0] * x[0], at = zero;
    for (int i = 1; i < 8; i++) {
        const lanes matter = w[i] * x[i] * x[i];
        const mask less = v_lt(matter, least);
        least = v_select(less, matter, least);
        at = v_select(less, v_set((float)i), at);
    }
    lanes signs = zero;
    for (int i = 0; i < 8; i++) {
        x[i] = v_select(v_lt(x[i], zero), -x[i], x[i]);
        if (kind->even) {
            const mask change = v_and(odd, v_eq(at, v_set((float)i)));
            x[i] = v_select(change, -x[i], x[i]);
            negative[i] = v_select(change, one - negative[i], negative[i]);
        }
        if (i < 7 || !kind->even) signs += negative[i] * v_set((float)(1 << i));
    }
    return signs;
}

/* ---- one try ---- */

/* The codes that the weights round to.  `tame`: no |divide * x| is above 2^22. */
INLINE void round_to_codes(const codebook_kind *kind, const float x[][LANES], lanes divide, bool tame,
                           uint16_t code[][LANES]) {
    const lanes one = v_set(1), shift = v_set((float)(1 << kind->bits));
    for (int p = 0; p < kind->block / kind->weights; p++) {
        lanes sum = v_set(0); /* of twice the levels */
        for (int i = kind->weights - 1; i >= 0; i--) {
            const lanes twice = divide * v_load(x[p * kind->weights + i]) - one;
            /* nearest(twice / 2) * 2: above 2^24 floats are even. */
            const lanes rounded = tame ? (twice + v_set(25165824.f)) - v_set(25165824.f)
                                       : v_nearest_any(v_set(0.5f) * twice) * v_set(2);
            sum = sum * shift + clamp(rounded, 0, (float)(2 * (kind->levels - 1)));
        }
        v_store_codes(code[p], sum * v_set(0.5f));
    }
}

/* Of the points that codes name, the sums of what their levels stand for. */
INLINE lanes value_sum(const codebook_kind *kind, float table[8][TABLE_SIZE], codes code) {
    lanes sum = value_at(kind, table[0], code, 0);
    for (int i = 1; i < kind->weights; i++) sum += value_at(kind, table[i], code, i);
    return sum;
}

/* The neighbour that is closest to the weights of one lane, where levels mean `values`: its code, or -1 if all are
 * infinitely far.  Neighbours stand in lanes here.  The error of a weight takes one of few values, so they are
 * looked up, and added in llama.cpp's order. */
INLINE int32_t closest(const codebook_kind *kind, const uint16_t *neighbours, int count, const float *values,
                       const float *x, const float *w, float scale) {
    float error[8][TABLE_SIZE];
    for (int i = 0; i < kind->weights; i++)
        for (int k = 0; k < TABLE_SIZE; k += LANES) {
            const lanes diff = v_set(scale) * v_load(values + k) - v_set(x[i * LANES]);
            v_store(error[i] + k, v_set(w[i * LANES]) * diff * diff);
        }
    /* A sum that is not a number counts as FLT_MAX: v_min takes the second one. */
    lanes least = v_min(value_sum(kind, error, v_load_codes(neighbours)), v_set(FLT_MAX)), from = v_set(0);
    for (int n = LANES; n < count; n += LANES) {
        const lanes sum = value_sum(kind, error, v_load_codes(neighbours + n));
        const mask less = v_lt(sum, least);
        least = v_select(less, sum, least);
        from = v_select(less, v_set((float)n), from);
    }
    const float smallest = v_smallest(least);
    if (!(smallest < FLT_MAX)) return -1;
    /* Of equally close ones the first. */
    uint32_t lanes_left = v_bits(v_eq(least, v_set(smallest)));
    if (count <= LANES) return neighbours[lowest_bit(lanes_left)];
    float starts[LANES];
    v_store(starts, from);
    int first = count;
    for (; lanes_left; lanes_left &= lanes_left - 1) {
        const int k = lowest_bit(lanes_left), number = (int)starts[k] + k;
        if (number < first) first = number;
    }
    return neighbours[first];
}

/* What the codebook has for a code of one lane: its own or that of the closest neighbour, or -1 as above. */
INLINE int32_t nearest_code(const codebook_kind *kind, const gf_codebook *book, uint32_t code, const float *values,
                            const float *x, const float *w, float scale) {
    const uint32_t point = point_of(kind, book, code);
    const int count = (int)(point & GF_COUNT_MASK);
    if (!count) return (int32_t)code;
    return closest(kind, book->neighbours + (point >> GF_COUNT_BITS), count, values, x, w, scale);
}

/* Replaces the code of a point that the codebook lacks; returns false where that fails. */
INLINE bool find_point(const codebook_kind *kind, const gf_codebook *book, codebook_search *s, int try, int p,
                       size_t lane) {
    const size_t first = (size_t)(p * kind->weights);
    uint16_t *code = &s->code[try][p][lane];
    const int32_t found = nearest_code(kind, book, *code, level_values(kind), &s->x[first][lane],
                                       &s->root[first][lane], s->scale[try][lane]);
    if (found < 0) return false;
    *code = (uint16_t)found;
    return true;
}

/* ---- runs of tries ----
 *
 * From one try to the next the scale s changes by a hundredth, and most points stay as they are.  The error of a
 * neighbour, Σ w (s q - x)², is s (s Σ w q² - 2 Σ w q x) and the same for all: so two sums for each neighbour tell
 * for every scale which one is the closest, but for rounding.  Where the closest one leads by more than rounding
 * can do, llama.cpp finds it too; else its own arithmetic decides. */

enum { MOST_NEIGHBOURS = 304 };

typedef struct {
    float squares[MOST_NEIGHBOURS], products[MOST_NEIGHBOURS]; /* Σ w q², 2 Σ w q x */
} neighbour_sums;

INLINE void sum_neighbours(const codebook_kind *kind, const uint16_t *neighbours, int count, const float *x,
                           const float *w, neighbour_sums *sums) {
    float squares[8][TABLE_SIZE], products[8][TABLE_SIZE];
    for (int i = 0; i < kind->weights; i++)
        for (int k = 0; k < TABLE_SIZE; k += LANES) {
            const lanes q = v_load(level_values(kind) + k), wq = v_set(w[i * LANES]) * q;
            v_store(squares[i] + k, wq * q);
            v_store(products[i] + k, wq * v_set(2 * x[i * LANES]));
        }
    for (int n = 0; n < count; n += LANES) {
        const codes code = v_load_codes(neighbours + n);
        v_store(sums->squares + n, value_sum(kind, squares, code));
        v_store(sums->products + n, value_sum(kind, products, code));
    }
    /* What only fills the list up is infinitely far. */
    for (int n = count; n % LANES; n++) sums->products[n] = -FLT_MAX;
}

/* The number of the neighbour that leads by `margin`, or -1. */
INLINE int leader(const neighbour_sums *sums, int count, float scale, float margin) {
    const lanes s = v_set(scale), most = v_set(FLT_MAX);
    lanes least = s * v_load(sums->squares) - v_load(sums->products), second = most, from = v_set(0);
    for (int n = LANES; n < count; n += LANES) {
        const lanes a = s * v_load(sums->squares + n) - v_load(sums->products + n);
        const mask less = v_lt(a, least);
        second = v_min(second, v_max(a, least));
        least = v_select(less, a, least);
        from = v_select(less, v_set((float)n), from);
    }
    const lanes limit = v_set(v_smallest(least) + margin);
    const uint32_t near = v_bits(v_ge(limit, least));
    if (!near || near & (near - 1)) return -1;
    const int k = lowest_bit(near);
    if (count <= LANES) return k;
    if (v_any(v_ge(limit, second))) return -1;
    float starts[LANES];
    v_store(starts, from);
    return (int)starts[k] + k;
}

/* How far rounding can bring two errors of a point together, for any scale up to `largest`.  With u = 2^-24, and at
 * most eight weights, llama.cpp's errors are off by less than 14 u Σ w (s q + |x|)² each, and ours, times s, by
 * less than 11 u of the same; twice as much is taken.  Where digits are lost to underflow it is infinite. */
INLINE lanes rounding_margin(const codebook_kind *kind, const float x[][LANES], const float w[][LANES],
                             lanes largest) {
    const lanes top = largest * v_set((float)(2 * kind->levels - 1));
    lanes sum = v_set(0);
    for (int i = 0; i < kind->weights; i++) {
        const lanes size = top + v_abs(v_load(x[i]));
        sum += v_load(w[i]) * size * size;
    }
    return v_select(v_lt(v_set(1e-20f), sum), sum * v_set(100 * 0x1p-24f), v_set(INFINITY));
}

/* Point p of lane k in all tries; returns false where one fails. */
INLINE bool find_in_tries(const codebook_kind *kind, const gf_codebook *book, codebook_search *s, int p, size_t k,
                          float margin) {
    const float *x = &s->x[p * kind->weights][k], *w = &s->root[p * kind->weights][k];
    const uint16_t *neighbours = NULL;
    neighbour_sums sums;
    int count = 0;
    int32_t code = -1;
    for (int t = 0; t <= 2 * kind->tries; t++) {
        const float scale = s->scale[t][k];
        if (s->code[t][p][k] != code) {
            code = s->code[t][p][k];
            const uint32_t point = point_of(kind, book, (uint32_t)code);
            count = (int)(point & GF_COUNT_MASK);
            neighbours = book->neighbours + (point >> GF_COUNT_BITS);
            if (count) sum_neighbours(kind, neighbours, count, x, w, &sums);
        }
        if (!count) continue;
        const int first = leader(&sums, count, scale, margin * s->divide[t][k]);
        int32_t found;
        if (first >= 0) found = neighbours[first];
        else found = closest(kind, neighbours, count, level_values(kind), x, w, scale);
        if (found < 0) return false;
        s->code[t][p][k] = (uint16_t)found;
        s->outside[t][k] |= (uint8_t)(1 << p);
    }
    return true;
}

/* Σ w x q and Σ w q². */
INLINE void codebook_sums(const codebook_kind *kind, const codebook_search *s, const uint16_t code[][LANES],
                          lanes *sum_qx, lanes *sum_q2) {
    const float *odd = level_values(kind);
    lanes qx = v_set(0), q2 = v_set(0);
    for (int p = 0; p < kind->block / kind->weights; p++) {
        const codes c = v_load_codes(code[p]);
        for (int i = 0; i < kind->weights; i++) {
            const int at = p * kind->weights + i;
            const lanes q = value_at(kind, odd, c, i), w = v_load(s->w[at]);
            qx += w * v_load(s->x[at]) * q;
            q2 += w * q * q;
        }
    }
    *sum_qx = qx, *sum_q2 = q2;
}

/* ---- all tries ---- */

/* Of sub-block `at` of lane k: what was tried last is what remains, rounded once more where the best try asks for
 * it; returns whether it does.  `best` is the number of that try, or -1 if none was any good. */
INLINE bool refit(const codebook_kind *kind, const gf_codebook *book, codebook_search *s, int last, int best,
                  size_t k, bool *lost) {
    const int points = kind->block / kind->weights;
    const unsigned all = (1u << points) - 1;
    unsigned again = best < 0 ? 0 : s->outside[best][k];
    if (kind->refit == REFIT_ALL || (kind->refit == REFIT_IF_OUTSIDE && (again || best < 0))) again = all;
    if (!(s->scale[last][k] > 0)) again = 0;
    for (int p = 0; p < points; p++)
        if (!(again >> p & 1)) s->code[last][p][k] = best < 0 ? 0 : s->code[best][p][k];
        else if (!find_point(kind, book, s, last, p, k)) *lost = true;
    return again != 0;
}

/* The tries of all lanes in turn, into s; lanes that are not `live` are left out. */
INLINE uint32_t try_scales(const codebook_kind *kind, const gf_codebook *book, codebook_search *s, lanes divisor,
                           bool tame, uint32_t live) {
    uint32_t lost = 0;
    const float top = (float)(2 * kind->levels - 1);
    for (int t = 0; t <= 2 * kind->tries; t++) {
        const lanes divide = v_set(top + (float)(t - kind->tries) * kind->step) / divisor;
        v_store(s->divide[t], divide);
        v_store(s->scale[t], v_set(1) / divide);
        if (tame) round_to_codes(kind, s->x, divide, true, s->code[t]);
        else round_to_codes(kind, s->x, divide, false, s->code[t]);
    }
    const int points = kind->block / kind->weights;
    float margin[MOST_POINTS][LANES];
    for (int p = 0; p < points; p++) {
        const int first = p * kind->weights;
        v_store(margin[p], rounding_margin(kind, s->x + first, s->root + first, v_load(s->scale[0])));
    }
    memset(s->outside, 0, sizeof s->outside);
    for (size_t k = 0; k < LANES; k++)
        for (int p = 0; live >> k & 1 && p < points; p++)
            if (!find_in_tries(kind, book, s, p, k, margin[p][k])) lost |= 1u << k;
    return lost;
}

/* Fits sub-block j of a group. */
INLINE void fit_codebook(const codebook_kind *kind, const gf_codebook *book, const group *g, int j,
                         lanes square_sum, codebook_fits *fits) {
    const lanes zero = v_set(0), one = v_set(1), limit = v_set(0x1p22f);
    const int last = 2 * kind->tries + 1, points = kind->block / kind->weights;
    const size_t at = (size_t)(j * kind->block);
    codebook_search s;
    lanes x[QK], w[QK], signs[QK / 8];
    load_columns(g->x, at, (size_t)kind->block, x);
    codebook_weights(kind, g, at, square_sum, x, w);
    for (int i = 0; i < kind->block; i += 8) signs[i / 8] = take_signs(kind, x + i, w + i);

    lanes largest = x[0], smallest = x[0];
    for (int i = 0; i < kind->block; i++) {
        largest = v_max(largest, x[i]);
        smallest = v_min(smallest, x[i]);
        v_store(s.x[i], x[i]);
        v_store(s.w[i], w[i]);
        v_store(s.root[i], v_sqrt(w[i]));
    }
    mask live = v_andnot(v_eq(zero, zero), v_lt(largest, v_set(kind->tiny)));
    lanes divisor = largest, scale = largest / v_set((float)(2 * kind->levels - 1));
    if (kind->refit == REFIT_ALL) {
        lanes levels[QK];
        scale = fit_nonnegative(x, w, QK, 4, levels);
        divisor = scale * v_set(3);
        live = v_andnot(live, v_ge(zero, divisor));
    }
    divisor = v_select(live, divisor, one);
    const lanes most = v_set(2.f * (float)kind->levels + (float)kind->tries * kind->step) / divisor;
    const bool tame = v_all(v_and(v_lt(v_abs(most * largest), limit), v_lt(v_abs(most * smallest), limit)));
    uint32_t real = v_bits(live) & (uint32_t)((1ull << g->count) - 1);
    uint32_t lost = try_scales(kind, book, &s, divisor, tame, real);

    lanes best = zero, best_try = v_set(-1);
    for (int t = 0; t < last; t++) {
        lanes sum_qx, sum_q2;
        codebook_sums(kind, &s, s.code[t], &sum_qx, &sum_q2);
        const mask better = v_and(v_lt(zero, sum_q2), v_lt(best * sum_q2, sum_qx * sum_qx));
        const lanes fit = sum_qx / sum_q2;
        scale = v_select(better, fit, scale);
        best = v_select(better, fit * sum_qx, best);
        best_try = v_select(better, v_set((float)t), best_try);
    }

    float tries[LANES], refitted[LANES] = {0};
    v_store(tries, best_try);
    v_store(s.scale[last], scale);
    round_to_codes(kind, s.x, one / scale, false, s.code[last]);
    for (size_t k = 0; k < LANES; k++) {
        bool failed = false;
        if (real >> k & 1 && refit(kind, book, &s, last, (int)tries[k], k, &failed)) refitted[k] = 1;
        if (failed) lost |= 1u << k;
    }
    lanes sum_qx, sum_q2;
    codebook_sums(kind, &s, s.code[last], &sum_qx, &sum_q2);
    scale = v_select(v_and(v_lt(zero, v_load(refitted)), v_lt(zero, sum_q2)), sum_qx / sum_q2, scale);

    /* A negative scale turns all signs; llama.cpp gives up where it is not a number. */
    const mask negative = v_lt(scale, zero);
    scale = v_select(live, v_select(negative, -scale, scale), zero);
    fits->lost |= lost | (~v_bits(v_ge(scale, zero)) & real);
    v_store(fits->scale[j], scale);
    fits->zeros[j] = ~v_bits(live);
    for (int i = 0; i < kind->block / 8; i++) {
        const lanes turned = v_select(negative, v_set(kind->even ? 127 : 255) - signs[i], signs[i]);
        v_store(fits->signs[j * kind->block / 8 + i], v_select(live, turned, zero));
    }
    for (int p = 0; p < points; p++)
        for (size_t k = 0; k < LANES; k++) fits->code[j * points + p][k] = real >> k & 1 ? s.code[last][p][k] : 0;
}

INLINE void fit_codebook_group(const codebook_kind *kind, const gf_codebook *book, const group *g,
                               codebook_fits *fits) {
    const lanes square_sum = sum_of_squares(g->x, QK_K);
    fits->lost = 0;
    for (int j = 0; j < QK_K / kind->block; j++) fit_codebook(kind, book, g, j, square_sum, fits);
}

/* ---- super-blocks ---- */

/* One super-block: what its lane of the fits becomes. */
typedef struct {
    gf_half d;
    bool zero;                /* all scales are */
    bool zeros[QK_K / 16];    /* the weights of a sub-block count as zeros */
    uint8_t scale[QK_K / 16]; /* 0 … 15, meaning 1, 3, 5, … */
    uint8_t signs[QK_K / 8];
    uint16_t index[QK_K / 4];
} codebook_block;

INLINE void finish_codebook(const codebook_kind *kind, const gf_codebook *book, const codebook_fits *fits,
                            size_t lane, codebook_block *b) {
    const int scales = QK_K / kind->block;
    float largest = 0;
    for (int j = 0; j < scales; j++)
        if (!(largest > fits->scale[j][lane])) largest = fits->scale[j][lane];
    b->zero = largest == 0;
    const float d = largest / 31, per_d = 1 / d;
    for (int j = 0; j < scales; j++) b->zeros[j] = fits->zeros[j] >> lane & 1;
    for (int j = 0; j < scales; j++)
        b->scale[j] =
            b->zero ? 0 : (uint8_t)clamp_int(nearest_int(0.5f * (per_d * fits->scale[j][lane] - 1)), 0, 15);
    b->d = b->zero ? gf_half_from_float(0) : gf_half_from_float(d * kind->fudge);
    if (fits->lost >> lane & 1) b->d = gf_half_from_float(INFINITY);
    for (int i = 0; i < QK_K / 8; i++) b->signs[i] = (uint8_t)fits->signs[i][lane];
    for (int p = 0; p < QK_K / kind->weights; p++) {
        const uint32_t code = fits->code[p][lane];
        b->index[p] = (uint16_t)(book->points[kind->bits == 2 ? gf_ternary(code) : code] >> GF_COUNT_BITS);
    }
}

INLINE void quantize_codebook(const codebook_kind *kind, void (*pack)(const codebook_block *, void *),
                              const float *src, void *dst, size_t nrows, size_t ncols, const float *importance) {
    const gf_codebook *book = gf_codebook_get(kind->book);
    const size_t per_row = ncols / QK_K, total = nrows * per_row;
    uint8_t *y = dst;
    for (size_t first = 0; first < total; first += LANES) {
        const group g = group_at(src, importance, QK_K, first, total, per_row);
        codebook_fits fits;
        fit_codebook_group(kind, book, &g, &fits);
        for (size_t k = 0; k < g.count; k++, y += kind->bytes) {
            codebook_block b;
            finish_codebook(kind, book, &fits, k, &b);
            pack(&b, y);
        }
    }
}

/* ---- back ---- */

/* All eight signs from seven: their number is even. */
INLINE unsigned eight_signs(unsigned seven) {
    unsigned odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    return seven | ((odd ^ odd >> 1) & 1) << 7;
}

/* The weights of a point: `values` are what its levels mean, bit i of `signs` turns weight i. */
INLINE void unpack_point(const codebook_kind *kind, const gf_codebook *book, unsigned index, unsigned signs,
                         float d, const float *values, float *dst) {
    const unsigned code = book->codes[index];
    for (int i = 0; i < kind->weights; i++) {
        const float value = d * values[code >> kind->bits * i & ((1u << kind->bits) - 1)];
        dst[i] = signs >> i & 1 ? -value : value;
    }
}

#endif
