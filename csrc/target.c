/* Every codec, compiled once for each instruction set: setup.py defines GF_TARGET_… and gives the compiler the flags
 * that go with it. */
#include "target.h"
#include "half.h"

#if defined(GF_TARGET_AVX512)
#include "lanes/avx512.h"
#define TABLE gf_target_avx512
#define NAME "avx512"
#elif defined(GF_TARGET_AVX2)
#include "lanes/avx2.h"
#define TABLE gf_target_avx2
#define NAME "avx2"
#elif defined(GF_TARGET_NEON)
#include "lanes/neon.h"
#define TABLE gf_target_neon
#define NAME "neon"
#else
#include "lanes/portable.h"
#define TABLE gf_target_portable
#define NAME "portable"
#endif

#include "codecs/common.h"
#include "codecs/fit.h"
#include "codecs/plain.h"
#include "codecs/k_affine.h"
#include "codecs/k_symmetric.h"
#include "codecs/legacy.h"
#include "codecs/iq4.h"

const gf_target_table TABLE = {
    .name = NAME,
    .codecs =
        {
#define CODEC(id, type, weights, size, scale_offset, scale_count) [id] = {quantize_##type, dequantize_##type},
#define KNOWN(id, type, weights, size, scale_offset, scale_count)
#include "types.def"
#undef CODEC
#undef KNOWN
        },
    .first_nonfinite_F32 = first_nonfinite_F32,
    .first_nonfinite_F16 = first_nonfinite_F16,
    .first_nonfinite_BF16 = first_nonfinite_BF16,
};
