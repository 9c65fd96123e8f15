/* The searches: given weights x and their importance w, lane by lane, find the scale (and minimum) of the levels.
 *
 * Each follows the arithmetic of ggml-quants.c of llama.cpp to the letter, because the promise is its bits: the
 * order of sums, `w * l * x` as (w * l) * x, no fused multiply-add.  The levels themselves are not kept: they
 * follow from the scale that found them, and are rarely wanted (see the callers). */
#ifndef GGUFFAST_CODECS_FIT_H
#define GGUFFAST_CODECS_FIT_H

#include "common.h"

/* ---- x ~ scale * level + min, level 0 … nmax  (make_qkx2_quants, make_qkx3_quants) ---- */

typedef struct {
    float nmax;
    float first, step; /* candidate i divides the span of the weights into first + step * i + nmax parts */
    int steps;
    bool absolute; /* the error counts |difference|, else its square */
} affine_search;

typedef struct {
    lanes scale, min;
    lanes level_scale, level_min; /* level = nearest(level_scale * (x - level_min)) */
    lanes sum_w;
} affine_fit;

/* Fill levels[] and the sums of one candidate. */
INLINE void affine_candidate(const lanes *x, const lanes *w, int n, float nmax, lanes scale, lanes min, bool tame,
                             lanes *levels, lanes *sum_l, lanes *sum_l2, lanes *sum_xl) {
    lanes s_l = v_set(0), s_l2 = v_set(0), s_xl = v_set(0);
    for (int i = 0; i < n; i++) {
        const lanes l = clamp(nearest(scale * (x[i] - min), tame), 0, nmax);
        const lanes wl = w[i] * l;
        levels[i] = l;
        s_l += wl;
        s_l2 += wl * l;
        s_xl += wl * x[i];
    }
    *sum_l = s_l, *sum_l2 = s_l2, *sum_xl = s_xl;
}

INLINE lanes penalty(lanes diff, bool absolute) {
    if (absolute) return v_abs(diff);
    return diff * diff;
}

/* The weighted error; infinite or not, once it is past `best` in every lane the rest of the sum cannot matter, for
 * every term is non-negative. */
INLINE lanes affine_error(const lanes *x, const lanes *w, int n, bool absolute, lanes scale, lanes min,
                          const lanes *levels, lanes best) {
    lanes error = v_set(0);
    for (int half = 0; half < 2; half++) {
        for (int i = half * n / 2; i < (half + 1) * n / 2; i++) {
            const lanes diff = (scale * levels[i] + min) - x[i];
            error += w[i] * penalty(diff, absolute);
        }
        if (!v_any(v_lt(error, best))) break;
    }
    return error;
}

INLINE affine_fit fit_affine(const lanes *x, const lanes *w, int n, affine_search search) {
    const lanes zero = v_set(0), limit = v_set(0x1p22f);
    lanes low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        low = v_min(x[i], low);
        high = v_max(x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    lanes min = v_min(zero, low);
    /* Where all weights are alike there is nothing to search; a span of 1 keeps those lanes harmless. */
    const mask flat = v_eq(high, min);
    const lanes first_min = min;

    lanes levels[QK], sum_l, sum_l2, sum_xl;
    lanes level_scale = v_set(search.nmax) / v_select(flat, v_set(1), high - min), level_min = min;
    lanes scale = v_set(1) / level_scale;
    lanes best = v_set(0);
    for (int i = 0; i < n; i++) {
        const lanes l = clamp(v_nearest_any(level_scale * (x[i] - min)), 0, search.nmax);
        const lanes diff = (scale * l + min) - x[i];
        best += w[i] * penalty(diff, search.absolute);
    }
    for (int step = 0; step <= search.steps; step++) {
        const float parts = search.first + search.step * (float)step + search.nmax;
        const lanes try_scale = v_set(parts) / v_select(flat, v_set(1), high - min);
        /* Rounding is monotonic, so the extremes tell for all weights whether the cheap rounding is exact. */
        const mask tame =
            v_and(v_lt(v_abs(try_scale * (low - min)), limit), v_lt(v_abs(try_scale * (high - min)), limit));
        if (v_all(tame))
            affine_candidate(x, w, n, search.nmax, try_scale, min, true, levels, &sum_l, &sum_l2, &sum_xl);
        else affine_candidate(x, w, n, search.nmax, try_scale, min, false, levels, &sum_l, &sum_l2, &sum_xl);

        const lanes det = sum_w * sum_l2 - sum_l * sum_l;
        lanes new_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        lanes new_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        const mask positive = v_lt(zero, new_min);
        new_min = v_select(positive, zero, new_min);
        new_scale = v_select(positive, sum_xl / sum_l2, new_scale);
        const lanes error = affine_error(x, w, n, search.absolute, new_scale, new_min, levels, best);
        const mask better = v_and(v_lt(zero, det), v_lt(error, best));
        if (!v_any(better)) continue;
        best = v_select(better, error, best);
        level_scale = v_select(better, try_scale, level_scale);
        level_min = v_select(better, min, level_min);
        scale = v_select(better, new_scale, scale);
        min = v_select(better, new_min, min); /* and the candidates to come measure from here */
    }
    return (affine_fit){v_select(flat, zero, scale), v_select(flat, first_min, min),
                        v_select(flat, zero, level_scale), v_select(flat, zero, level_min), sum_w};
}

/* ---- x ~ scale * level, level -nmax … nmax - 1  (make_qx_quants) ---- */

/* The weight of the largest magnitude, the first of equals; lanes where that is next to nothing give `zeros`. */
INLINE lanes extreme(const lanes *x, int n, mask *zeros) {
    lanes largest = v_set(0), at = v_set(0);
    for (int i = 0; i < n; i++) {
        const lanes a = v_abs(x[i]);
        const mask more = v_lt(largest, a);
        largest = v_select(more, a, largest);
        at = v_select(more, x[i], at);
    }
    *zeros = v_lt(largest, v_set(GROUP_EPS));
    return v_select(*zeros, v_set(1), at);
}

typedef struct {
    lanes scale;
    lanes level_scale; /* level = nearest(level_scale * x) */
    mask zeros;        /* all x next to nothing: both are 0 */
} symmetric_fit;

/* `tame`: the x are finite, so that no candidate's level leaves -nmax - 1 … nmax + 1 before it is clamped. */
INLINE symmetric_fit fit_symmetric(const lanes *x, const lanes *w, int n, float nmax, bool tame) {
    lanes wx[QK];
    mask zeros;
    const lanes zero = v_set(0), top = extreme(x, n, &zeros);
    for (int i = 0; i < n; i++) wx[i] = w[i] * x[i];

    lanes level_scale = zero, scale = zero, best = zero;
    for (int step = 0; step < 19; step++) {
        /* -nmax / top comes first and is taken as it is; then nmax - 0.9 … nmax + 0.9, which must be better. */
        const int tenths = step == 0 ? 0 : step <= 9 ? step - 10 : step - 9;
        const float parts = nmax + 0.1f * (float)tenths;
        const lanes try_scale = v_set(-parts) / top;
        lanes sum_lx = zero, sum_l2 = zero;
        for (int i = 0; i < n; i++) {
            const lanes l = clamp(nearest(try_scale * x[i], tame), -nmax, nmax - 1);
            sum_lx += wx[i] * l;
            sum_l2 += w[i] * l * l;
        }
        const lanes try_fit = sum_lx / sum_l2;
        if (step == 0) {
            level_scale = try_scale;
            scale = v_select(v_eq(sum_l2, zero), zero, try_fit);
            best = scale * sum_lx;
            continue;
        }
        const mask better = v_and(v_lt(zero, sum_l2), v_lt(best * sum_l2, sum_lx * sum_lx));
        level_scale = v_select(better, try_scale, level_scale);
        scale = v_select(better, try_fit, scale);
        best = v_select(better, try_fit * sum_lx, best);
    }
    return (symmetric_fit){v_select(zeros, zero, scale), v_select(zeros, zero, level_scale), zeros};
}

/* ---- the same by coordinate descent, for four levels each way  (make_q3_quants) ---- */

/* Returns the scale; levels[] end up in 0 … 2 * nmax - 1, or 0 where all weights are zeros. */
INLINE lanes fit_descent(const lanes *x, int n, float nmax, lanes *levels) {
    mask zeros;
    const lanes zero = v_set(0), top = extreme(x, n, &zeros);
    const lanes first = v_set(-nmax) / top;
    lanes w[QK / 2], wx[QK / 2], sum_lx = zero, sum_l2 = zero;
    for (int i = 0; i < n; i++) {
        const lanes l = clamp(nearest(first * x[i], true), -nmax, nmax - 1);
        w[i] = x[i] * x[i];
        wx[i] = w[i] * x[i];
        levels[i] = l;
        sum_lx += wx[i] * l;
        sum_l2 += w[i] * l * l;
    }
    for (int round = 0; round < 5; round++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            const lanes l = levels[i];
            lanes lx = sum_lx - wx[i] * l, l2 = sum_l2 - w[i] * l * l;
            const mask some = v_lt(zero, lx);
            const lanes to = clamp(v_nearest_any(x[i] * l2 / lx), -nmax, nmax - 1);
            const mask moved = v_andnot(some, v_eq(to, l));
            if (!v_any(moved)) continue;
            lx += wx[i] * to;
            l2 += w[i] * to * to;
            const mask better = v_and(v_lt(zero, l2), v_lt(sum_lx * sum_lx * l2, lx * lx * sum_l2));
            const mask take = v_and(moved, better);
            levels[i] = v_select(take, to, l);
            sum_lx = v_select(take, lx, sum_lx);
            sum_l2 = v_select(take, l2, sum_l2);
            changed |= v_any(take);
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; i++) levels[i] = v_select(zeros, zero, levels[i] + v_set(nmax));
    return v_select(v_andnot(v_lt(zero, sum_l2), zeros), sum_lx / sum_l2, zero);
}

/* ---- x ~ scale * level for x >= 0, level 0 … nmax: the scales of a super-block  (make_qp_quants) ---- */

/* Returns the scale.  levels[] are what an unsigned byte keeps of them, as in llama.cpp. */
INLINE lanes fit_nonnegative(const lanes *x, const lanes *w, int n, float nmax, lanes *levels) {
    const lanes zero = v_set(0), ceiling = v_set(nmax);
    lanes largest = zero;
    for (int i = 0; i < n; i++) largest = v_max(largest, x[i]);
    const mask zeros = v_lt(largest, v_set(GROUP_EPS));
    largest = v_select(zeros, v_set(1), largest);

    lanes level_scale = zero, best = zero;
    for (int step = 0; step < 9; step++) {
        const int tenths = step == 0 ? 0 : step <= 4 ? step - 5 : step - 4;
        const lanes try_scale = v_set(0.1f * (float)tenths + nmax) / largest;
        const lanes scale = v_set(1) / try_scale;
        lanes error = zero;
        for (int i = 0; i < n; i++) {
            const lanes raw = v_nearest_any(try_scale * x[i]);
            lanes l = v_min(ceiling, raw);
            if (step == 0) l = v_wrap_u8(raw);
            const lanes diff = x[i] - scale * l;
            error += w[i] * diff * diff;
        }
        if (step == 0) {
            level_scale = try_scale;
            best = error;
            continue;
        }
        const mask better = v_lt(error, best);
        level_scale = v_select(better, try_scale, level_scale);
        best = v_select(better, error, best);
    }
    lanes sum_lx = zero, sum_l2 = zero;
    for (int i = 0; i < n; i++) {
        const lanes l = v_min(ceiling, v_nearest_any(level_scale * x[i]));
        levels[i] = v_wrap_u8(l);
        sum_lx += w[i] * x[i] * l;
        sum_l2 += w[i] * l * l;
    }
    for (int round = 0; round < 5; round++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            const lanes l = levels[i];
            lanes lx = sum_lx - w[i] * x[i] * l, l2 = sum_l2 - w[i] * l * l;
            const mask some = v_and(v_lt(zero, lx), v_lt(zero, l2));
            const lanes to = v_min(ceiling, v_nearest_any(x[i] * l2 / lx));
            const mask moved = v_andnot(some, v_eq(to, l));
            lx += w[i] * x[i] * to;
            l2 += w[i] * to * to;
            const mask take = v_and(moved, v_lt(sum_lx * sum_lx * l2, lx * lx * sum_l2));
            levels[i] = v_select(take, v_wrap_u8(to), l);
            sum_lx = v_select(take, lx, sum_lx);
            sum_l2 = v_select(take, l2, sum_l2);
            changed |= v_any(take);
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; i++) levels[i] = v_select(zeros, zero, levels[i]);
    return v_select(v_andnot(v_lt(zero, sum_l2), zeros), sum_lx / sum_l2, zero);
}

#endif
