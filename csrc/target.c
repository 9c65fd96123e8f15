/* Every codec, compiled once for each instruction set: setup.py defines GF_TARGET and gives the compiler the flags
 * that go with it. */
#include "target.h"

#include "codecs/fp4.h"
#include "codecs/iq1.h"
#include "codecs/iq2.h"
#include "codecs/iq3.h"
#include "codecs/iq4.h"
#include "codecs/k_affine.h"
#include "codecs/k_symmetric.h"
#include "codecs/legacy.h"
#include "codecs/plain.h"
#include "codecs/ternary.h"

const gf_target_table GF_TARGET_TABLE(GF_TARGET) = {
    .name = GF_TEXT_OF(GF_TARGET),
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
