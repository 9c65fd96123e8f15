"""The quantization algorithms, stated plainly: one weight after the other, in Numba.

This is the reading copy of what the C core does in lanes. It shares no line with it and none with llama.cpp,
and the tests hold all three to the same bytes. To read it:

* A *block* stores small integers ("levels") and a scale ``d``: weight = ``d * level``; an *affine* block also
  stores a minimum: weight = ``d * level - m``. K types cut a super-block of 256 weights into sub-blocks of 16
  or 32, and store their scales as small integers too, times one half-precision scale for the super-block.
* A *search* tries several scales for a block and keeps the one with the smallest weighted squared error. For
  the levels l of a candidate, the best scale has a closed form (linear regression of x on l with weights w):
  a candidate costs a few sums.
* Everything is float32, and the order of the additions is part of the format: sums run from the first weight
  to the last, products associate left to right, nothing is fused. ``F(...)`` around every integer is there
  because Numba (like NumPy) computes float32 * int in float64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gguf
import numba
import numpy as np
from numpy.typing import NDArray

F = np.float32

# No fast-math, and division by zero gives infinity as in C instead of an exception as in Python.
njit = numba.njit(cache=True, error_model="numpy")

SUPER = 256
FLT_MAX = F(np.finfo(np.float32).max)
TINY = F(1e-15)  # a block whose largest magnitude is below this counts as zero
MAGIC = F(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the significand
IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
FP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)


# --- numbers ------------------------------------------------------------------------------------------------


@njit
def nearest(v):
    """Nearest integer, ties to even, for |v| < 2**22.

    Beyond that, and for infinity and NaN, the result is what the bit mask makes of it. Such values do occur
    (1 / d of a denormal d) and they reach the file, so they are part of the definition.
    """
    return np.int64(F(v + MAGIC).view(np.int32) & 0x7FFFFF) - 0x400000


@njit
def clip(level, low, high):
    """Clip to [low, high]."""
    return max(low, min(high, level))


@njit
def low_byte(v):
    """Low byte of a float's integer part; 0 if that does not fit 32 bits (x86: cvttss2si gives INT_MIN)."""
    if not abs(v) < F(2147483648.0):
        return np.int64(0)
    return np.int64(v) & 0xFF


@njit
def signed(byte):
    """Read a byte as int8."""
    return ((byte & 0xFF) ^ 0x80) - 0x80


@njit
def half_bits(v):
    """Bits of v as IEEE half precision, rounded to nearest, ties to even; NaN becomes 0x7E00 and its sign."""
    bits = np.int64(F(v).view(np.uint32))
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return sign | 0x7E00
    if magnitude >= 0x477FF000:  # 65520 and up round to infinity
        return sign | 0x7C00
    if magnitude < 0x38800000:  # subnormal: count in units of 2**-24; the sum with 0.5 rounds there by itself
        return sign | np.int64(F(abs(v) + F(0.5)).view(np.uint32)) - 0x3F000000
    odd = (magnitude >> 13) & 1
    return sign | ((magnitude - 0x38000000 + 0xFFF + odd) >> 13)


@njit
def half_value(bits):
    """Value of half-precision bits."""
    sign = F(-1.0) if bits & 0x8000 else F(1.0)
    exponent = (bits >> 10) & 31
    fraction = bits & 0x3FF
    if exponent == 0:
        return sign * (F(fraction) * F(2.0**-24))
    if exponent == 31:
        return sign * F(np.inf) if fraction == 0 else F(np.nan)
    return sign * np.uint32(((exponent + 112) << 23) | (fraction << 13)).view(np.float32)


@njit
def bfloat_bits(v):
    """Bits of v as bfloat16, rounded to nearest, ties to even; NaNs keep their high bits and become quiet."""
    bits = np.int64(F(v).view(np.uint32))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return (bits >> 16) | 64
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@njit
def store16(out, at, bits):
    """Write 16 bits, little endian."""
    out[at] = bits & 0xFF
    out[at + 1] = bits >> 8


# --- sums ---------------------------------------------------------------------------------------------------


@njit
def total(x):
    """Sum, first to last."""
    s = F(0.0)
    for v in x:
        s += v
    return s


@njit
def total_squares(x):
    """Sum of squares, first to last."""
    s = F(0.0)
    for v in x:
        s += v * v
    return s


@njit
def extreme(x):
    """Return the value of largest magnitude, with its sign; the first one of equals."""
    best, amount = F(0.0), F(0.0)
    for v in x:
        if abs(v) > amount:
            best, amount = v, abs(v)
    return best


@njit
def spread_importance(importance, x, variance, weights):
    """w = importance * sqrt(variance + x**2): large weights count more, small ones are not forgotten."""
    for i in range(x.size):
        weights[i] = importance[i] * np.sqrt(variance + x[i] * x[i])


# --- searches -----------------------------------------------------------------------------------------------


@njit
def symmetric_search(x, weights, nmax, levels):
    """Fit x = d * l with l in [-nmax, nmax); store l + nmax, return d.

    For given levels the best d is sum(w x l) / sum(w l l), and it lowers the error by sum(w x l)**2 /
    sum(w l l). The 19 candidates put the extreme weight at -(nmax + k / 10) for k = 0, -9 .. 9: whatever its
    sign, it goes to the negative end, where one level more is available.
    """
    peak = extreme(x)
    if abs(peak) < TINY:
        levels[:] = 0
        return F(0.0)
    scale, gain = F(0.0), F(0.0)
    for attempt in range(-10, 10):
        k = 0 if attempt == -10 else attempt
        if attempt == 0:
            continue
        inverse = -(F(nmax) + F(0.1) * F(k)) / peak
        xl, ll = F(0.0), F(0.0)
        for i in range(x.size):
            level = F(clip(nearest(inverse * x[i]), -nmax, nmax - 1))
            xl += weights[i] * x[i] * level
            ll += weights[i] * level * level
        first = attempt == -10
        if first or (ll > 0 and xl * xl > gain * ll):
            for i in range(x.size):
                levels[i] = clip(nearest(inverse * x[i]), -nmax, nmax - 1) + nmax
            scale = F(0.0) if first and ll == 0 else xl / ll
            gain = scale * xl
    return scale


@njit
def symmetric_descent(x, nmax, levels):
    """Fit x = d * l with l in [-nmax, nmax) and weights x**2; store l + nmax, return d.

    Coordinate descent in place of candidate scales: take one weight out of the two sums, ask which level the
    remaining fit would give it, and keep the change if it raises the gain. At most five rounds.
    """
    peak = extreme(x)
    if abs(peak) < TINY:
        levels[:] = 0
        return F(0.0)
    inverse = F(-nmax) / peak
    xl, ll = F(0.0), F(0.0)
    for i in range(x.size):
        level = clip(nearest(inverse * x[i]), -nmax, nmax - 1)
        levels[i] = level
        w = x[i] * x[i]
        xl += w * x[i] * F(level)
        ll += w * F(level) * F(level)
    for _ in range(5):
        changed = False
        for i in range(x.size):
            w, old = x[i] * x[i], levels[i]
            other_xl = xl - w * x[i] * F(old)
            if not other_xl > 0:
                continue
            other_ll = ll - w * F(old) * F(old)
            new = clip(nearest(x[i] * other_ll / other_xl), -nmax, nmax - 1)
            if new == old:
                continue
            other_xl += w * x[i] * F(new)
            other_ll += w * F(new) * F(new)
            if other_ll > 0 and other_xl * other_xl * ll > xl * xl * other_ll:
                levels[i], xl, ll, changed = new, other_xl, other_ll, True
        if not changed:
            break
    levels += nmax
    return xl / ll if ll > 0 else F(0.0)


@njit
def affine_search(x, weights, nmax, start, step, attempts, absolute, levels, trial):
    """Fit x = d * l - m with l in [0, nmax] and m >= 0; store l, return (d, m).

    Starts from levels spread over [min(x, 0), max(x)]. Then each candidate spreads nmax + start + k * step
    levels over that range and solves the weighted regression for (d, -m); a positive intercept is clamped to
    0. A better candidate moves the minimum, and later candidates spread their levels from the moved one. The
    error is the weighted sum of squares, or of magnitudes if `absolute`.
    """
    low, high = x[0], x[0]
    sum_w = weights[0]
    sum_x = weights[0] * x[0]
    for i in range(1, x.size):
        if x[i] < low:
            low = x[i]
        if x[i] > high:
            high = x[i]
        sum_w += weights[i]
        sum_x += weights[i] * x[i]
    if low > 0:
        low = F(0.0)
    if high == low:
        levels[:] = 0
        return F(0.0), -low
    inverse = F(nmax) / (high - low)
    scale = F(1.0) / inverse
    for i in range(x.size):
        levels[i] = clip(nearest(inverse * (x[i] - low)), 0, nmax)
    error = affine_error(x, weights, scale, low, absolute, levels)
    for k in range(attempts):
        inverse = (start + step * F(k) + F(nmax)) / (high - low)
        sum_l, sum_ll, sum_xl = F(0.0), F(0.0), F(0.0)
        for i in range(x.size):
            trial[i] = clip(nearest(inverse * (x[i] - low)), 0, nmax)
            w, level = weights[i], F(trial[i])
            sum_l += w * level
            sum_ll += w * level * level
            sum_xl += w * level * x[i]
        determinant = sum_w * sum_ll - sum_l * sum_l
        if not determinant > 0:
            continue
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_low = (sum_ll * sum_x - sum_l * sum_xl) / determinant
        if new_low > 0:
            new_low = F(0.0)
            new_scale = sum_xl / sum_ll
        new_error = affine_error(x, weights, new_scale, new_low, absolute, trial)
        if new_error < error:
            levels[:] = trial[: x.size]
            error, scale, low = new_error, new_scale, new_low
    return scale, -low


@njit
def affine_error(x, weights, scale, low, absolute, levels):
    """Weighted error of scale * levels + low against x."""
    error = F(0.0)
    for i in range(x.size):
        difference = scale * F(levels[i]) + low - x[i]
        error += weights[i] * (abs(difference) if absolute else difference * difference)
    return error


@njit
def nonnegative_search(x, weights, nmax, levels):
    """Fit x = d * l for x >= 0 with l in [0, nmax]; store l as a byte, return d.

    Used for the scales and minima of a super-block, each weighted by the sum of its sub-block's weights. Nine
    candidates for d by plain error, then the coordinate descent of `symmetric_descent`.
    """
    peak = F(0.0)
    for v in x:
        peak = peak if peak > v else v
    if peak < TINY:
        levels[:] = 0
        return F(0.0)
    best, error = F(nmax) / peak, F(0.0)
    for attempt in range(-5, 5):
        if attempt == 0:
            continue
        first = attempt == -5
        inverse = F(nmax) / peak if first else (F(0.1) * F(attempt) + F(nmax)) / peak
        scale = F(1.0) / inverse
        new_error = F(0.0)
        for i in range(x.size):
            level = nearest(inverse * x[i])
            level = level & 0xFF if first else min(nmax, level)
            difference = x[i] - scale * F(level)
            new_error += weights[i] * difference * difference
        if first or new_error < error:
            best, error = inverse, new_error
    xl, ll = F(0.0), F(0.0)
    for i in range(x.size):
        level = min(nmax, nearest(best * x[i]))
        levels[i] = level & 0xFF
        xl += weights[i] * x[i] * F(level)
        ll += weights[i] * F(level) * F(level)
    for _ in range(5):
        changed = False
        for i in range(x.size):
            w, old = weights[i], levels[i]
            other_xl = xl - w * x[i] * F(old)
            other_ll = ll - w * F(old) * F(old)
            if not (other_xl > 0 and other_ll > 0):
                continue
            new = min(nmax, nearest(x[i] * other_ll / other_xl))
            if new == old:
                continue
            other_xl += w * x[i] * F(new)
            other_ll += w * F(new) * F(new)
            if other_xl * other_xl * ll > xl * xl * other_ll:
                levels[i], xl, ll, changed = new & 0xFF, other_xl, other_ll, True
        if not changed:
            break
    return xl / ll if ll > 0 else F(0.0)


@njit
def nearest_value(v):
    """Index of the IQ4 value nearest to v; halfway goes up, and so does NaN."""
    if v <= IQ4_VALUES[0]:
        return 0
    if v >= IQ4_VALUES[15]:
        return 15
    upper = 1
    while upper < 15 and not v < IQ4_VALUES[upper]:
        upper += 1
    return upper - 1 if v - IQ4_VALUES[upper - 1] < IQ4_VALUES[upper] - v else upper


@njit
def table_search(x, weights):
    """Fit x = d * IQ4_VALUES[l]; return d.

    As `symmetric_search`: the candidates put the extreme weight at -127 (first by way of 1 / d, whose
    rounding differs), then at -134 .. -120.
    """
    peak = extreme(x)
    if abs(peak) < TINY:
        return F(0.0)
    scale, gain = F(0.0), F(0.0)
    for attempt in range(-8, 8):
        first = attempt == -8
        inverse = F(1.0) / (-peak / IQ4_VALUES[0]) if first else (F(attempt) + IQ4_VALUES[0]) / peak
        xq, qq = F(0.0), F(0.0)
        for i in range(x.size):
            q = IQ4_VALUES[nearest_value(inverse * x[i])]
            xq += weights[i] * q * x[i]
            qq += weights[i] * q * q
        if first:
            scale = xq / qq if qq > 0 else F(0.0)
            gain = scale * xq
        elif qq > 0 and xq * xq > gain * qq:
            scale = xq / qq
            gain = scale * xq
    return scale


# --- packing ------------------------------------------------------------------------------------------------


@njit
def pack_nibbles(levels, out):
    """32 levels in 16 bytes: weight j in the low half of byte j, weight j + 16 in the high half."""
    for j in range(16):
        out[j] = (levels[j] & 15) | (levels[j + 16] & 15) << 4


@njit
def pack_fifth_bits(levels, out):
    """Fifth bit of 32 levels in 4 bytes, weight j at bit j."""
    for byte in range(4):
        bits = 0
        for j in range(8):
            bits |= ((levels[8 * byte + j] >> 4) & 1) << j
        out[byte] = bits


@njit
def pack_pairs(levels, out):
    """Two low bits of 256 levels in 64 bytes: per 128 weights, byte j holds j, j + 32, j + 64, j + 96."""
    for half in range(2):
        for j in range(32):
            bits = 0
            for quarter in range(4):
                bits |= (levels[128 * half + 32 * quarter + j] & 3) << (2 * quarter)
            out[32 * half + j] = bits


@njit
def pack_nibble_pairs(levels, out):
    """Four low bits of 256 levels in 128 bytes: per 64 weights, byte j holds weights j and j + 32."""
    for group in range(4):
        for j in range(32):
            low, high = levels[64 * group + j] & 15, levels[64 * group + 32 + j] & 15
            out[32 * group + j] = low | high << 4


@njit
def pack_bit_planes(levels, shift, out):
    """One bit of 256 levels in 32 bytes: byte j holds, at bit k, that of weight 32 k + j."""
    for j in range(32):
        bits = 0
        for k in range(8):
            bits |= ((levels[32 * k + j] >> shift) & 1) << k
        out[j] = bits


@njit
def pack_scales_and_minima(ls, lm, out):
    """Eight 6-bit scales and minima in 12 bytes: four of each in bytes 0-7, the rest in what those leave."""
    for j in range(4):
        out[j] = (ls[j] | ls[j + 4] >> 4 << 6) & 0xFF
        out[j + 4] = (lm[j] | lm[j + 4] >> 4 << 6) & 0xFF
        out[j + 8] = (ls[j + 4] & 15) | (lm[j + 4] & 15) << 4


@njit
def unpack_scales_and_minima(packed, ls, lm):
    """Read the 12 bytes back: scales that did not fit 6 bits come back changed."""
    for j in range(4):
        ls[j] = packed[j] & 63
        lm[j] = packed[j + 4] & 63
        ls[j + 4] = (packed[j + 8] & 15) | packed[j] >> 6 << 4
        lm[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4


@njit
def pack_signed_scales(ls, out):
    """Sixteen 6-bit scales in 12 bytes: low halves in bytes 0-7, two high bits each in bytes 8-11."""
    for j in range(8):
        out[j] = (ls[j] & 15) | (ls[j + 8] & 15) << 4
    for j in range(4):
        bits = 0
        for k in range(4):
            bits |= (ls[4 * k + j] >> 4) << (2 * k)
        out[8 + j] = bits


# --- 32-weight types ----------------------------------------------------------------------------------------


@njit
def store_levels(levels, five_bits, out):
    """Nibbles, preceded by the fifth bits where there are five."""
    if five_bits:
        pack_fifth_bits(levels, out)
        pack_nibbles(levels, out[4:])
    else:
        pack_nibbles(levels, out)


@njit
def inverse_or_zero(d):
    """1 / d, and 0 for d = 0."""
    return F(1.0) / d if d != 0 else F(0.0)


@njit
def symmetric_row(x, importance, out, nmax):
    """Q4_0 (nmax 8) and Q5_0 (nmax 16): half d, [fifth bits,] nibbles."""
    block_bytes = 18 if nmax == 8 else 22
    weights = np.empty(32, np.float32)
    levels = np.empty(32, np.int64)
    variance = total_squares(x) / F(x.size)
    for b in range(x.size // 32):
        xb, block = x[32 * b : 32 * b + 32], out[block_bytes * b : block_bytes * (b + 1)]
        if importance.size:
            spread_importance(importance[32 * b : 32 * b + 32], xb, variance, weights)
            d = symmetric_search(xb, weights, nmax, levels)
        else:
            d = extreme(xb) / F(-nmax)
            inverse = inverse_or_zero(d)
            for i in range(32):
                level = signed(low_byte(xb[i] * inverse + (F(nmax) + F(0.5))))
                levels[i] = min(2 * nmax - 1, level)
        store16(block, 0, half_bits(d))
        store_levels(levels, nmax == 16, block[2:])


@njit
def affine_row(x, importance, out, nmax):
    """Q4_1 (nmax 15) and Q5_1 (nmax 31): half d, half minimum, [fifth bits,] nibbles."""
    block_bytes = 20 if nmax == 15 else 24
    weights = np.empty(32, np.float32)
    levels, trial = np.empty(32, np.int64), np.empty(32, np.int64)
    variance = total_squares(x) / F(x.size)
    for b in range(x.size // 32):
        xb, block = x[32 * b : 32 * b + 32], out[block_bytes * b : block_bytes * (b + 1)]
        if importance.size:
            spread_importance(importance[32 * b : 32 * b + 32], xb, variance, weights)
            d, minimum = affine_search(xb, weights, nmax, F(-0.9), F(0.05), 37, False, levels, trial)
            low = -minimum
        else:
            low, high = FLT_MAX, -FLT_MAX
            for v in xb:
                low = v if v < low else low
                high = v if v > high else high
            d = (high - low) / F(nmax)
            inverse = inverse_or_zero(d)
            for i in range(32):
                level = low_byte((xb[i] - low) * inverse + F(0.5))
                levels[i] = min(15, signed(level)) if nmax == 15 else level
        store16(block, 0, half_bits(d))
        store16(block, 2, half_bits(low))
        store_levels(levels, nmax == 31, block[4:])


@njit
def q8_0_row(x, importance, out):
    """Q8_0: half d, 32 signed bytes. Importance changes nothing; halves are rounded away from zero."""
    for b in range(x.size // 32):
        xb, block = x[32 * b : 32 * b + 32], out[34 * b : 34 * b + 34]
        d = abs(extreme(xb)) / F(127.0)
        inverse = inverse_or_zero(d)
        store16(block, 0, half_bits(d))
        for i in range(32):
            v = xb[i] * inverse
            whole = np.trunc(v)
            if abs(v - whole) >= F(0.5):
                whole += np.copysign(F(1.0), v)
            block[2 + i] = low_byte(whole)


@njit
def table_weights(x, importance, variance, weights):
    """IQ4: importance spread over the variance, or x**2."""
    if importance.size:
        spread_importance(importance, x, variance, weights)
    else:
        weights[:] = x * x


@njit
def iq4_nl_row(x, importance, out):
    """IQ4_NL: half d, nibbles that index a table of 16 values, denser near zero."""
    weights = np.empty(32, np.float32)
    levels = np.empty(32, np.int64)
    for b in range(x.size // 32):
        xb, block = x[32 * b : 32 * b + 32], out[18 * b : 18 * b + 18]
        variance = total_squares(xb) * F(2.0 / 32)
        table_weights(xb, importance[32 * b : 32 * b + 32], variance, weights)
        d = table_search(xb, weights)
        inverse = inverse_or_zero(d)
        for i in range(32):
            levels[i] = nearest_value(inverse * xb[i])
        store16(block, 0, half_bits(d))
        pack_nibbles(levels, block[2:])


# --- 256-weight types ---------------------------------------------------------------------------------------


@njit
def super_scale(values, sums, top, weighted, codes):
    """Store the sub-blocks' scales (or minima) as bytes times one scale, and return that.

    Relative to the largest of them, or, with an importance matrix, fitted with the sub-blocks' weights.
    """
    if weighted:
        return nonnegative_search(values, sums, top, codes)
    peak = F(0.0)
    for v in values:
        peak = v if v > peak else peak
    inverse = F(top) / peak if peak > 0 else F(0.0)
    for j in range(values.size):
        codes[j] = nearest(inverse * values[j]) & 0xFF
    return peak / F(top)


@njit
def affine_super_block(x, importance, sub, nmax, top, plan, levels, ls, lm, scratch):
    """Search every sub-block, then fit scales and minima: what Q2_K, Q4_K and Q5_K share; return (d, dmin).

    `sub` weights a sub-block, levels up to `nmax`, sub-scales up to `top`; `plan` is (start, step, attempts)
    of the plain search.
    """
    weights, scales, minima, sums, trial = scratch
    n = SUPER // sub
    two_bits = sub == 16
    variance = (F(1.0) if two_bits else F(2.0)) * total_squares(x) / F(SUPER)
    start, step, attempts = (F(-0.9), F(0.05), 37) if importance.size else plan
    absolute = two_bits and not importance.size
    for j in range(n):
        xj, lj, wj = x[sub * j : sub * (j + 1)], levels[sub * j : sub * (j + 1)], weights[:sub]
        if importance.size:
            spread_importance(importance[sub * j : sub * (j + 1)], xj, variance, wj)
        else:
            floor = F(0.0) if two_bits else np.sqrt(total_squares(xj) / F(sub))
            for i in range(sub):
                wj[i] = floor + abs(xj[i])
        sums[j] = total(wj)
        scales[j], minima[j] = affine_search(xj, wj, nmax, start, step, attempts, absolute, lj, trial)
    d = super_scale(scales[:n], sums[:n], top, importance.size, ls)
    return d, super_scale(minima[:n], sums[:n], top, importance.size, lm)


@njit
def affine_levels(x, d, dmin, ls, lm, sub, nmax, levels):
    """Levels for the scales as stored; where a sub-scale was rounded to 0, those of the search stay."""
    for j in range(SUPER // sub):
        dj, mj = d * F(ls[j]), dmin * F(lm[j])
        if dj != 0:
            for i in range(sub * j, sub * (j + 1)):
                levels[i] = clip(nearest((x[i] + mj) / dj), 0, nmax)


@njit
def affine_scratch():
    """Room for one super-block's search."""
    return (
        np.empty(32, np.float32),
        np.empty(16, np.float32),
        np.empty(16, np.float32),
        np.empty(16, np.float32),
        np.empty(32, np.int64),
    )


@njit
def q2_k_row(x, importance, out):
    """Q2_K: 16 bytes (scale | minimum << 4), 64 bytes of levels, half d, half dmin."""
    levels, ls, lm = np.empty(256, np.int64), np.empty(16, np.int64), np.empty(16, np.int64)
    scratch = affine_scratch()
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[84 * b : 84 * (b + 1)]
        wb = importance[SUPER * b : SUPER * (b + 1)]
        d, dmin = affine_super_block(xb, wb, 16, 3, 15, (F(-0.5), F(0.1), 16), levels, ls, lm, scratch)
        d_bits, dmin_bits = half_bits(d), half_bits(dmin)
        for j in range(16):
            block[j] = (ls[j] | lm[j] << 4) & 0xFF
            ls[j], lm[j] = block[j] & 15, block[j] >> 4
        affine_levels(xb, half_value(d_bits), half_value(dmin_bits), ls, lm, 16, 3, levels)
        pack_pairs(levels, block[16:80])
        store16(block, 80, d_bits)
        store16(block, 82, dmin_bits)


@njit
def q45_k_row(x, importance, out, nmax):
    """Q4_K (nmax 15), Q5_K (nmax 31): half d, half dmin, 12 bytes of sub-scales, [fifth bits,] nibbles."""
    five_bits = nmax == 31
    block_bytes = 176 if five_bits else 144
    plan = (F(-0.5), F(0.1), 16) if five_bits else (F(-1.0), F(0.1), 21)
    levels, ls, lm = np.empty(256, np.int64), np.empty(8, np.int64), np.empty(8, np.int64)
    scratch = affine_scratch()
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[block_bytes * b : block_bytes * (b + 1)]
        wb = importance[SUPER * b : SUPER * (b + 1)]
        d, dmin = affine_super_block(xb, wb, 32, nmax, 63, plan, levels, ls, lm, scratch)
        if five_bits or not importance.size:
            for j in range(8):
                ls[j], lm[j] = min(63, ls[j]), min(63, lm[j])
        d_bits, dmin_bits = half_bits(d), half_bits(dmin)
        store16(block, 0, d_bits)
        store16(block, 2, dmin_bits)
        pack_scales_and_minima(ls, lm, block[4:16])
        unpack_scales_and_minima(block[4:16], ls, lm)
        affine_levels(xb, half_value(d_bits), half_value(dmin_bits), ls, lm, 32, nmax, levels)
        if five_bits:
            pack_bit_planes(levels, 4, block[16:48])
        pack_nibble_pairs(levels, block[block_bytes - 128 :])


@njit
def symmetric_levels(x, d, ls, nmax, levels):
    """As `affine_levels`, for signed levels stored with nmax added."""
    for j in range(16):
        dj = d * F(ls[j])
        if dj != 0:
            for i in range(16 * j, 16 * (j + 1)):
                levels[i] = clip(nearest(x[i] / dj), -nmax, nmax - 1) + nmax


@njit
def q3_k_row(x, importance, out):
    """Q3_K: 32 bytes of third bits, 64 of the two lower ones, 12 of signed 6-bit sub-scales, half d."""
    levels, ls = np.empty(256, np.int64), np.empty(16, np.int64)
    weights, scales, sums = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(16, np.float32)
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[110 * b : 110 * (b + 1)]
        variance = F(2.0) * total_squares(xb) / F(SUPER)
        for j in range(16):
            xj, lj = xb[16 * j : 16 * (j + 1)], levels[16 * j : 16 * (j + 1)]
            if importance.size:
                first = SUPER * b + 16 * j
                spread_importance(importance[first : first + 16], xj, variance, weights)
                sums[j] = total(weights)
                scales[j] = symmetric_search(xj, weights, 4, lj)
            else:
                scales[j] = symmetric_descent(xj, 4, lj)
        if importance.size:
            d = symmetric_search(scales, sums, 32, ls)
        else:
            d = F(0.0)
            ls[:] = 0
            peak = extreme(scales)
            if peak != 0:
                inverse = F(-32.0) / peak
                d = F(1.0) / inverse
                for j in range(16):
                    ls[j] = clip(signed(nearest(inverse * scales[j])), -32, 31) + 32
        d_bits = half_bits(d)
        pack_signed_scales(ls, block[96:108])
        ls -= 32
        symmetric_levels(xb, half_value(d_bits), ls, 4, levels)
        pack_bit_planes(levels, 2, block[0:32])
        pack_pairs(levels, block[32:96])
        store16(block, 108, d_bits)


@njit
def q6_k_row(x, importance, out):
    """Q6_K: 128 bytes of low nibbles, 64 bytes of two high bits, 16 signed bytes of sub-scales, half d."""
    levels, ls = np.empty(256, np.int64), np.empty(16, np.int64)
    weights, scales = np.empty(16, np.float32), np.empty(16, np.float32)
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[210 * b : 210 * (b + 1)]
        for j in range(16):
            xj, lj = xb[16 * j : 16 * (j + 1)], levels[16 * j : 16 * (j + 1)]
            if importance.size:
                first = SUPER * b + 16 * j
                weights[:] = importance[first : first + 16]
            else:
                weights[:] = xj * xj
            scales[j] = symmetric_search(xj, weights, 32, lj)
        peak = extreme(scales)
        if abs(peak) < TINY:
            block[:] = 0
            continue
        inverse = F(-128.0) / peak
        d_bits = half_bits(F(1.0) / inverse)
        for j in range(16):
            ls[j] = signed(min(127, nearest(inverse * scales[j])))
            block[192 + j] = ls[j] & 0xFF
        symmetric_levels(xb, half_value(d_bits), ls, 32, levels)
        for half in range(2):
            low = block[64 * half : 64 * (half + 1)]
            for j in range(64):
                i = 128 * half + j
                low[j] = (levels[i] & 15) | (levels[i + 64] & 15) << 4
        pack_pairs(levels >> 4, block[128:192])
        store16(block, 208, d_bits)


@njit
def iq4_xs_row(x, importance, out):
    """IQ4_XS: half d, 2 bytes of high and 4 of low bits of eight 6-bit sub-scales, nibbles as in IQ4_NL."""
    levels, weights, scales = np.empty(32, np.int64), np.empty(32, np.float32), np.empty(8, np.float32)
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[136 * b : 136 * (b + 1)]
        variance = total_squares(xb) * F(2.0 / SUPER)
        for j in range(8):
            xj, first = xb[32 * j : 32 * (j + 1)], SUPER * b + 32 * j
            table_weights(xj, importance[first : first + 32], variance, weights)
            scales[j] = table_search(xj, weights)
        d = -extreme(scales) / F(32.0)
        inverse = inverse_or_zero(d)
        store16(block, 0, half_bits(d))
        high = 0
        for j in range(8):
            code = clip(nearest(inverse * scales[j]), -32, 31)
            # Unlike the other types', the levels are chosen for d before it is rounded to half precision.
            sub_inverse = inverse_or_zero(d * F(code))
            for i in range(32):
                levels[i] = nearest_value(sub_inverse * xb[32 * j + i])
            pack_nibbles(levels, block[8 + 16 * j : 24 + 16 * j])
            code += 32
            block[4 + j // 2] = code & 15 if j % 2 == 0 else block[4 + j // 2] | (code & 15) << 4
            high |= (code >> 4) << (2 * j)
        store16(block, 2, high)


# --- signs and ternary types --------------------------------------------------------------------------------


@njit
def magnitude(x):
    """Return the largest magnitude."""
    return abs(extreme(x))


@njit
def ternary_levels(x, d, broken, levels):
    """x / d to the nearest of -1, 0, 1, halves away from zero, plus 1; `broken` where 1 / d is not finite."""
    inverse = inverse_or_zero(d)
    for i in range(x.size):
        v = x[i] * inverse
        levels[i] = 1
        if not inverse <= FLT_MAX:
            levels[i] = broken
        elif v >= F(0.5):
            levels[i] = 2
        elif v <= F(-0.5):
            levels[i] = 0


@njit
def q1_0_row(x, importance, out):
    """Q1_0: half d, the mean magnitude; 16 bytes of signs, a set bit is not negative."""
    for b in range(x.size // 128):
        xb, block = x[128 * b : 128 * (b + 1)], out[18 * b : 18 * (b + 1)]
        s = F(0.0)
        for v in xb:
            s += abs(v)
        store16(block, 0, half_bits(s / F(128.0)))
        for j in range(16):
            bits = 0
            for k in range(8):
                bits |= (1 if xb[8 * j + k] >= 0 else 0) << k
            block[2 + j] = bits


@njit
def q2_0_row(x, importance, out):
    """Q2_0: half d, the largest magnitude; levels in pairs of bits, in order."""
    levels = np.empty(64, np.int64)
    for b in range(x.size // 64):
        xb, block = x[64 * b : 64 * (b + 1)], out[18 * b : 18 * (b + 1)]
        d = magnitude(xb)
        ternary_levels(xb, d, 0, levels)
        store16(block, 0, half_bits(d))
        for j in range(16):
            k = 4 * j
            block[2 + j] = levels[k] | levels[k + 1] << 2 | levels[k + 2] << 4 | levels[k + 3] << 6


@njit
def tq2_0_row(x, importance, out):
    """TQ2_0: levels in pairs of bits as in Q2_K, half d, the largest magnitude."""
    levels = np.empty(256, np.int64)
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[66 * b : 66 * (b + 1)]
        d = magnitude(xb)
        ternary_levels(xb, d, 1, levels)
        pack_pairs(levels, block[:64])
        store16(block, 64, half_bits(d))


@njit
def pack_trits(levels, width, count, out):
    """`count` levels a byte, as digits of a fraction of 256 in base 3 rounded up; they are `width` apart."""
    for j in range(width):
        digits = 0
        for k in range(5):
            digits = 3 * digits + (levels[width * k + j] if k < count else 0)
        out[j] = (256 * digits + 242) // 243


@njit
def tq1_0_row(x, importance, out):
    """TQ1_0: 48 bytes of five levels each (32 bytes, then 16), 4 bytes of four, half d."""
    levels = np.empty(256, np.int64)
    for b in range(x.size // SUPER):
        xb, block = x[SUPER * b : SUPER * (b + 1)], out[54 * b : 54 * (b + 1)]
        d = magnitude(xb)
        ternary_levels(xb, d, 1, levels)
        pack_trits(levels[:160], 32, 5, block[:32])
        pack_trits(levels[160:240], 16, 5, block[32:48])
        pack_trits(levels[240:], 4, 4, block[48:52])
        store16(block, 52, half_bits(d))


# --- four-bit floats ----------------------------------------------------------------------------------------


@njit
def nearest_fp4(v, d):
    """Index of the value of FP4_VALUES that lies nearest to v once times d; the first of equals."""
    best = 0
    for i in range(1, 16):
        if abs(FP4_VALUES[i] * d - v) < abs(FP4_VALUES[best] * d - v):
            best = i
    return best


@njit
def mxfp4_row(x, importance, out):
    """MXFP4: a byte e, nibbles that index a table, times 2**(e - 128).

    e follows from the logarithm as float32 has it, which rounds: just below a power of two it is that
    power's. Tiny blocks have a negative e, of which the low byte remains.
    """
    levels = np.empty(32, np.int64)
    for b in range(x.size // 32):
        xb, block = x[32 * b : 32 * (b + 1)], out[17 * b : 17 * (b + 1)]
        peak = magnitude(xb)
        e = 0
        if peak > 0:
            e = (int(np.floor(F(np.log2(np.float64(peak))))) + 125) & 0xFF
        d = F(2.0 ** (e - 128))
        for i in range(32):
            levels[i] = nearest_fp4(xb[i], d)
        block[0] = e
        pack_nibbles(levels, block[1:])


@njit
def ue4m3_bits(v):
    """v >= 0 in 4 bits of exponent (bias 7) and 3 of fraction: halves go up, 256 and more become 448."""
    if v < F(2.0**-6):
        return min(7, int(v * F(512.0) + F(0.5)))
    if v >= 256:
        return 0x7E
    bits = np.int64(F(v).view(np.uint32))
    code = ((bits >> 19) + 1 >> 1) - (120 << 3)
    return code if code < 0x78 else 0x7E


@njit
def ue4m3_value(code):
    """Value of such a number, which is not NaN."""
    exponent, fraction = code >> 3, code & 7
    if exponent == 0:
        return F(fraction * 2.0**-9)
    return F((1 + fraction / 8) * 2.0 ** (exponent - 7))


@njit
def nvfp4_row(x, importance, out):
    """NVFP4: four scales, each for 16 weights; then of each 16 eight bytes, weight j low, j + 8 high."""
    for b in range(x.size // 64):
        block = out[36 * b : 36 * (b + 1)]
        for s in range(4):
            xs = x[64 * b + 16 * s : 64 * b + 16 * (s + 1)]
            block[s] = ue4m3_bits(magnitude(xs) / F(6.0))
            d = ue4m3_value(block[s]) * F(0.5)
            for j in range(8):
                block[4 + 8 * s + j] = nearest_fp4(xs[j], d) | nearest_fp4(xs[j + 8], d) << 4


# --- points of codebooks ------------------------------------------------------------------------------------
#
# The levels of eight (IQ1, IQ2) or four (IQ3) weights are stored as the index of a point in a codebook. A
# point that it lacks has neighbours there: those at its smallest few distances, nearest first, of equally
# near ones the first in the codebook.

ODD = np.arange(1, 16, 2, dtype=np.float32)  # what levels 0, 1, 2 … mean
IQ1_PLUS, IQ1_MINUS = np.array([[-0.875, 0.125, 1.125], [-1.125, -0.125, 0.875]], np.float32)


@cache
def codebook(name: str, distances: int) -> tuple[NDArray[Any], ...]:
    """Levels of the points in the codebook, and of all points by number: index or -1, and their neighbours.

    The points are gguf-py's, which lists them to dequantize.
    """
    kind = getattr(gguf.quants, name)
    kind.init_grid()
    levels = np.unique(kind.grid, return_inverse=True)[1].reshape(-1, kind.grid.shape[-1])
    base, weights = int(levels.max()) + 1, levels.shape[1]
    places = base ** np.arange(weights)
    points = np.arange(base**weights)[:, None] // places % base
    index = np.full(len(points), -1)
    index[levels @ places] = np.arange(len(levels))
    start, neighbours = np.zeros(len(points) + 1, np.int64), []
    for number, point in enumerate(points):
        if index[number] < 0:
            distance = np.square(levels - point).sum(1)
            order = np.argsort(distance, kind="stable")
            limit = np.unique(distance)[distances - 1]
            neighbours.append(order[distance[order] <= limit])
        start[number + 1] = start[number] + (len(neighbours[-1]) if index[number] < 0 else 0)
    return levels, index, start, np.concatenate(neighbours)


@njit
def nearest_point(book, levels, x, weights, scale, values):
    """Index of the point of these levels, or of the neighbour with the least error; True for the former."""
    grid, indices, start, neighbours = book
    number = 0
    for i in range(levels.size - 1, -1, -1):
        number = number * (3 if levels.size == 8 else 8) + levels[i]
    if indices[number] >= 0:
        return indices[number], True
    best, found = FLT_MAX, -1
    for index in neighbours[start[number] : start[number + 1]]:
        error = F(0.0)
        for i in range(levels.size):
            difference = scale * values[grid[index, i]] - x[i]
            error += weights[i] * difference * difference
        if error < best:
            best, found = error, index
    if found < 0:
        raise OverflowError("all neighbours are infinitely far")
    return found, False


@njit
def point_sums(grid, index, x, weights):
    """Sums of w * x * q and w * q * q."""
    xq, qq, size = F(0.0), F(0.0), grid.shape[1]
    for i in range(x.size):
        q = ODD[grid[index[i // size], i % size]]
        xq += weights[i] * x[i] * q
        qq += weights[i] * q * q
    return xq, qq


@njit
def take_signs(x, weights, even, magnitudes, signs):
    """Magnitudes, and the signs of eight weights as a byte.

    If the number of minus signs must be even but is odd, the weight that matters least changes its sign.
    """
    for at in range(0, x.size, 8):
        byte, minus = 0, 0
        for i in range(8):
            magnitudes[at + i] = x[at + i]
            if x[at + i] < 0:
                magnitudes[at + i] = -x[at + i]
                byte, minus = byte | 1 << i, minus + 1
        if even and minus % 2:
            least = 0
            for i in range(1, 8):
                w, v, u, y = weights[at + i], x[at + i], weights[at + least], x[at + least]
                if w * v * v < u * y * y:
                    least = i
            magnitudes[at + least] = -magnitudes[at + least]
            byte ^= 1 << least
        signs[at // 8] = byte & (127 if even else 255)


@njit
def codebook_search(x, weights, book, tries, step, refit, index):
    """Fit magnitudes: the best of 2 * tries + 1 scales, then its points once more.

    Returns the scale, and False if the weights count as zeros.

    refit: 0 for points that were not in the codebook, 1 for all if one was not, 2 for all.
    """
    grid = book[0]
    size, top = grid.shape[1], 2 if grid.shape[1] == 8 else 7
    count = x.size // size
    root, levels, trial = np.sqrt(weights), np.empty(size, np.int64), np.zeros(count, np.int64)
    inside, trial_inside = np.full(count, refit != 1), np.zeros(count, np.bool_)
    index[:] = 0
    peak = x.max()
    scale = peak / F(2 * top + 1)
    if refit == 2:
        scale = nonnegative_search(x, weights, 4, np.empty(x.size, np.int64))
        peak = scale * F(3.0)
        if peak <= 0:
            return F(0.0), False
    best = F(0.0)
    for attempt in range(-tries, tries + 2):
        last = attempt == tries + 1
        if last:
            again = refit == 2 or not inside.all()
            if not (again and scale > 0):
                break
            inverse, trial_scale = F(1.0) / scale, scale
        else:
            inverse = (F(2 * top + 1) + F(attempt) * step) / peak
            trial_scale = F(1.0) / inverse
        for p in range(count):
            if last and refit == 0 and inside[p]:
                trial[p] = index[p]
                continue
            part = slice(p * size, (p + 1) * size)
            for i in range(size):
                levels[i] = clip(nearest(F(0.5) * (inverse * x[p * size + i] - F(1.0))), 0, top)
            trial[p], trial_inside[p] = nearest_point(book, levels, x[part], root[part], trial_scale, ODD)
        xq, qq = point_sums(grid, trial, x, weights)
        if last:
            index[:] = trial
            scale = xq / qq if qq > 0 else scale
        elif qq > 0 and xq * xq > best * qq:
            scale = xq / qq
            best = scale * xq
            index[:] = trial
            inside[:] = trial_inside
    return scale, True


@njit
def super_scales(scales, divisor, top):
    """Scales of sub-blocks as l in [0, top], meaning 2 * l + 1, and the scale of the super-block."""
    peak = F(0.0)
    for v in scales:
        peak = peak if peak > v else v
    codes = np.zeros(scales.size, np.int64)
    if peak == 0:
        return codes, F(0.0), True
    d = peak / divisor
    for j in range(scales.size):
        codes[j] = clip(nearest(F(0.5) * ((F(1.0) / d) * scales[j] - F(1.0))), 0, top)
    return codes, d, False


@njit
def codebook_weights(x, importance, variance, plain_mean, weights):
    """Importance of each weight; without a matrix its square."""
    if importance.size:
        spread_importance(importance, x, variance, weights)
    else:
        for i in range(x.size):
            weights[i] = F(0.25) * variance + x[i] * x[i] if plain_mean else x[i] * x[i]


@njit
def codebook_row(x, importance, out, book, block, even, squares, tiny, tries, step, refit, fudge):
    """IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S: magnitudes from a codebook, signs by themselves."""
    size = book[0].shape[1]
    nbytes = out.size // (x.size // SUPER)
    weights, magnitudes = np.empty(block, np.float32), np.empty(block, np.float32)
    index, signs = np.empty(SUPER // size, np.int64), np.empty(SUPER // 8, np.int64)
    scales, zeros = np.empty(SUPER // block, np.float32), np.empty(SUPER // block, np.bool_)
    for at in range(0, x.size, SUPER):
        variance = squares * total_squares(x[at : at + SUPER]) / F(SUPER)
        index[:] = 0
        signs[:] = 0
        for j in range(SUPER // block):
            part = slice(at + j * block, at + (j + 1) * block)
            own = importance[part] if importance.size else importance
            codebook_weights(x[part], own, variance, nbytes == 82, weights)
            eight = signs[j * block // 8 : (j + 1) * block // 8]
            take_signs(x[part], weights, even, magnitudes, eight)
            zeros[j] = magnitudes.max() < tiny
            scales[j] = 0
            if not zeros[j]:
                found = index[j * block // size : (j + 1) * block // size]
                scales[j], some = codebook_search(magnitudes, weights, book, tries, step, refit, found)
                zeros[j] = not some
            if zeros[j]:
                eight[:] = 0
            if scales[j] < 0:
                scales[j] = -scales[j]
                eight[:] = (127 if even else 255) - eight
            if not scales[j] >= 0:
                raise OverflowError("no scale")
        codes, d, empty = super_scales(scales, F(31.0), 15)
        if empty and even:
            index[:] = 0
            signs[:] = 0
        row = out[at // SUPER * nbytes : (at // SUPER + 1) * nbytes]
        row[:] = 0
        store16(row, 0, half_bits(d * fudge))
        pack_codebook(row, index, signs, codes, zeros)


@njit
def pack_codebook(row, index, signs, codes, zeros):
    """Store indices, signs and scales as the type of a block of that many bytes does."""
    nbytes = row.size
    if (
        nbytes == 66 or nbytes == 98
    ):  # IQ2_XXS, IQ3_XXS: of 32 weights the points; four times seven signs, a scale
        for j in range(8):
            points, word = index.size // 8, codes[j] << 28
            for i in range(4):
                word |= signs[4 * j + i] << 7 * i
            for p in range(points):
                row[2 + (8 * j if nbytes == 66 else points * j) + p] = index[points * j + p]
            for i in range(4):
                row[(6 + 8 * j if nbytes == 66 else 66 + 4 * j) + i] = word >> 8 * i & 255
        return
    if nbytes == 74:  # IQ2_XS
        for p in range(32):
            store16(row, 2 + 2 * p, index[p] | signs[p] << 9)
    elif nbytes == 82:  # IQ2_S
        for p in range(32):
            row[2 + p], row[34 + p] = index[p] & 255, signs[p]
            row[66 + p // 4] |= index[p] >> 8 << p % 4 * 2
    else:  # IQ3_S: the reference does not step over sub-blocks of zeros, so that what follows moves up
        to = 0
        for j in range(8):
            for p in range(8 * j, 8 * j + 8):
                row[66 + j] |= index[p] >> 8 << p % 8
            if not zeros[j]:
                row[2 + 8 * to : 10 + 8 * to] = (index[8 * j : 8 * j + 8] & 255).astype(np.uint8)
                row[74 + 4 * to : 78 + 4 * to] = signs[4 * j : 4 * j + 4].astype(np.uint8)
                to += 1
    for j in range(codes.size):
        row[nbytes - codes.size // 2 + j // 2] |= codes[j] << j % 2 * 4


# --- IQ1 ----------------------------------------------------------------------------------------------------


@njit
def iq1_split(x, weights, halves):
    """Fit x = d * (l - 1 +- 1/8), l in [0, 2], by trying all ways to cut the sorted weights in three.

    Returns d, where the ones begin and end, which halves take the minus (bit 1: the first), the order; with
    ``halves`` each half of the block has its own sign and its own sums.
    """
    n = x.size
    order = np.argsort(x, kind="mergesort")
    sx, sw = np.zeros((2, n + 1), np.float32), np.zeros((2, n + 1), np.float32)
    for j in range(n):
        i = order[j]
        for half in range(2):
            mine = (i >= n // 2) == (half == 1) if halves else half == 0
            sx[half, j + 1] = sx[half, j] + (weights[i] * x[i] if mine else F(0.0))
            sw[half, j + 1] = sw[half, j] + (weights[i] if mine else F(0.0))
    best, scale, one, two, choice = -FLT_MAX, F(0.0), -1, -1, 0
    xq, qq = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    for i in range(n + 1):
        for j in range(i, n + 1):
            for half in range(2):
                for minus in range(2):
                    v = IQ1_MINUS if minus else IQ1_PLUS
                    a, b = sx[half], sw[half]
                    if halves:
                        xq[half, minus] = a[n] * v[2] - (a[i] + a[j])
                        qq[half, minus] = (
                            b[n] * v[2] * v[2]
                            + b[i] * (v[0] * v[0] - v[1] * v[1])
                            + b[j] * (v[1] * v[1] - v[2] * v[2])
                        )
                    else:
                        xq[half, minus] = a[i] * v[0] + (a[j] - a[i]) * v[1] + (a[n] - a[j]) * v[2]
                        qq[half, minus] = (
                            b[i] * v[0] * v[0] + (b[j] - b[i]) * v[1] * v[1] + (b[n] - b[j]) * v[2] * v[2]
                        )
            for c in range(4):
                if not halves and c % 3:
                    continue
                p, q = xq[0, c >> 1], qq[0, c >> 1]
                if halves:
                    p, q = p + xq[1, c & 1], q + qq[1, c & 1]
                if q > 0 and p * p > best * q:
                    scale = p / q
                    best, one, two, choice = scale * p, i, j, c
    return scale, one, two, choice, order


@njit
def iq1_sums(grid, index, choice, x, weights, times, xq, qq):
    """Add to the sums of w * q * x and w * q * q."""
    for i in range(x.size):
        minus = choice & 1 if 2 * i >= x.size else choice >> 1
        q = (IQ1_MINUS if minus else IQ1_PLUS)[grid[index[i // 8], i % 8]] * times
        xq += weights[i] * q * x[i]
        qq += weights[i] * q * q
    return xq, qq


@njit
def iq1_search(x, weights, book, halves, index):
    """Fit a sub-block; returns the scale and the choice of signs."""
    scale, one, two, choice, order = iq1_split(x, weights, halves)
    if one < 0:
        return F(0.0), 0
    levels = np.empty(x.size, np.int64)
    for j in range(x.size):
        levels[order[j]] = 0 if j < one else 1 if j < two else 2
    if scale < 0:
        scale, choice = -scale, 3 - choice
        levels[:] = 2 - levels
    all_inside = True
    for p in range(x.size // 8):
        minus = choice & 1 if 16 * p >= x.size else choice >> 1
        part = slice(8 * p, 8 * p + 8)
        values = IQ1_MINUS if minus else IQ1_PLUS
        index[p], inside = nearest_point(book, levels[part], x[part], weights[part], scale, values)
        all_inside &= inside
    if not all_inside:
        xq, qq = iq1_sums(book[0], index, choice, x, weights, F(1.0), F(0.0), F(0.0))
        if xq > 0 and qq > 0:
            scale = xq / qq
    return scale, choice


@njit
def iq1_row(x, importance, out, book, block, tiny, fudge):
    """IQ1_S (blocks of 32 weights), IQ1_M (of 16, and each half of them has its own sign)."""
    halves, nbytes = block == 16, 50 if block == 32 else 56
    count = SUPER // block
    scales, choices = np.empty(count, np.float32), np.empty(count, np.int64)
    index, weights = np.empty(SUPER // 8, np.int64), np.empty(SUPER, np.float32)
    for at in range(0, x.size, SUPER):
        whole = x[at : at + SUPER]
        own = importance[at : at + SUPER] if importance.size else importance
        codebook_weights(whole, own, F(2.0) * total_squares(whole) / F(SUPER), False, weights)
        index[:] = 0
        for j in range(count):
            part = slice(j * block, (j + 1) * block)
            scales[j], choices[j] = F(0.0), 0
            if np.abs(whole[part]).max() >= tiny:
                found = index[j * block // 8 : (j + 1) * block // 8]
                scales[j], choices[j] = iq1_search(whole[part], weights[part], book, halves, found)
            if not scales[j] >= 0:
                raise OverflowError("no scale")
        codes, d, empty = super_scales(scales, F(15.0), 7)
        if empty:
            choices[:] = 0
        row = out[at // SUPER * nbytes : (at // SUPER + 1) * nbytes]
        row[:] = 0
        if not halves:
            store16(row, 0, half_bits(d * fudge))
            for j in range(8):
                high = codes[j] << 12 | (choices[j] & 1) << 15
                for p in range(4):
                    row[2 + 4 * j + p] = index[4 * j + p] & 255
                    high |= index[4 * j + p] >> 8 << 3 * p
                store16(row, 34 + 2 * j, high)
            continue
        xq, qq = F(0.0), F(0.0)
        for j in range(count):
            part, points = slice(j * block, (j + 1) * block), index[2 * j : 2 * j + 2]
            times = F(2 * codes[j] + 1)
            xq, qq = iq1_sums(book[0], points, choices[j], whole[part], weights[part], times, xq, qq)
        if qq > 0 and not empty:
            d = xq / qq
        bits = half_bits(d * fudge)
        for p in range(32):
            row[p] = index[p] & 255
            minus = choices[p // 2] & 1 if p % 2 else choices[p // 2] >> 1
            row[32 + p // 2] |= (index[p] >> 8 | minus << 3) << p % 2 * 4
        for quarter in range(4):
            word = (bits >> 4 * quarter & 15) << 12
            for j in range(4):
                word |= codes[4 * quarter + j] << 3 * j
            store16(row, 48 + 2 * quarter, word)


# --- plain formats ------------------------------------------------------------------------------------------


@njit
def f16_row(x, importance, out):
    """F16."""
    for i in range(x.size):
        store16(out, 2 * i, half_bits(x[i]))


@njit
def bf16_row(x, importance, out):
    """BF16."""
    for i in range(x.size):
        store16(out, 2 * i, bfloat_bits(x[i]))


# name: (function, weights a block, bytes a block, further arguments)
ROWS = {
    "F16": (f16_row, 1, 2),
    "BF16": (bf16_row, 1, 2),
    "Q4_0": (symmetric_row, 32, 18, 8),
    "Q4_1": (affine_row, 32, 20, 15),
    "Q5_0": (symmetric_row, 32, 22, 16),
    "Q5_1": (affine_row, 32, 24, 31),
    "Q8_0": (q8_0_row, 32, 34),
    "IQ4_NL": (iq4_nl_row, 32, 18),
    "Q2_K": (q2_k_row, 256, 84),
    "Q3_K": (q3_k_row, 256, 110),
    "Q4_K": (q45_k_row, 256, 144, 15),
    "Q5_K": (q45_k_row, 256, 176, 31),
    "Q6_K": (q6_k_row, 256, 210),
    "IQ4_XS": (iq4_xs_row, 256, 136),
    # A codebook is made when it is first needed: its name in gguf-py, how many distances make a neighbour.
    "IQ2_XXS": (codebook_row, 256, 66, ("IQ2_XXS", 2), 32, True, F(1.0), TINY, 6, F(0.1), 2, F(1.0)),
    "IQ2_XS": (codebook_row, 256, 74, ("IQ2_XS", 2), 16, True, F(1.0), TINY, 9, F(0.1), 0, F(1.0)),
    "IQ2_S": (codebook_row, 256, 82, ("IQ2_S", 1), 16, False, F(2.0), F(1e-8), 9, F(0.1), 0, F(0.9875)),
    "IQ3_XXS": (codebook_row, 256, 98, ("IQ3_XXS", 2), 32, True, F(2.0), F(1e-8), 15, F(0.2), 0, F(1.0125)),
    "IQ3_S": (codebook_row, 256, 110, ("IQ3_S", 3), 32, False, F(2.0), F(1e-45), 9, F(0.2), 1, F(1.033)),
    "IQ1_S": (iq1_row, 256, 50, ("IQ1_S", 3), 32, F(1e-12), F(1.125)),
    "IQ1_M": (iq1_row, 256, 56, ("IQ1_S", 3), 16, F(1e-7), F(1.1125)),
    "TQ1_0": (tq1_0_row, 256, 54),
    "TQ2_0": (tq2_0_row, 256, 66),
    "MXFP4": (mxfp4_row, 32, 17),
    "NVFP4": (nvfp4_row, 64, 36),
    "Q1_0": (q1_0_row, 128, 18),
    "Q2_0": (q2_0_row, 64, 18),
}


def quantize(
    x: NDArray[np.float32],
    name: str,
    importance: NDArray[np.float32] | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Quantize rows.

    Parameters
    ----------
    x : float32 array [rows, columns], contiguous
    name : a key of `ROWS`
    importance : float32 array [columns], optional
    out : uint8 array [rows, bytes of a row], optional

    Returns
    -------
    uint8 array [rows, bytes of a row]

    Raises
    ------
    OverflowError
        A search in a codebook overflowed, where llama.cpp aborts.
    """
    row, block, nbytes, *arguments = ROWS[name]
    arguments = [codebook(*a) if isinstance(a, tuple) else a for a in arguments]
    if out is None:
        out = np.empty((x.shape[0], x.shape[1] // block * nbytes), np.uint8)
    weights = np.empty(0, np.float32) if importance is None else importance
    for source, target in zip(x, out, strict=True):
        row(source, weights, target, *arguments)
    return out
