/* Quantizes and dequantizes rows with one compiled target, whether this CPU has it or an emulator plays it.
 *
 * Reads records from standard input: four int32 (type, rows, columns, 1 if importance follows), the weights, the
 * importance.  Writes for each the blocks and the weights they stand for. */
#include "target.h"

#include <stdio.h>
#include <stdlib.h>



static void *read_floats(size_t n) {
    float *p = malloc((n + 1) * sizeof *p);
    if (!p || fread(p, sizeof *p, n, stdin) != n) exit(1);
    return p;
}

int main(void) {
    int32_t head[4];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        const gf_type_info *type = gf_type_find(head[0]);
        const gf_codec *codec = &ROWS_TABLE.codecs[head[0]];
        const size_t rows = (size_t)head[1], columns = (size_t)head[2], n = rows * columns;
        const size_t size = n / type->block_size * type->block_bytes;
        float *x = read_floats(n), *importance = head[3] ? read_floats(columns) : NULL;
        uint8_t *blocks = malloc(size);
        if (!blocks) return 1;
        codec->quantize(x, blocks, rows, columns, importance);
        codec->dequantize(blocks, x, n);
        if (fwrite(blocks, 1, size, stdout) != size || fwrite(x, sizeof *x, n, stdout) != n) return 1;
        free(x), free(importance), free(blocks);
    }
    return 0;
}
