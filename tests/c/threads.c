/* Threads that all are the first to need the target and a codebook, quantize, and change the target for each other:
 * for ThreadSanitizer.
 *
 * Prints the targets that there are; fails if a thread's bytes are not those of all others. */
#include "gguffast.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 20, ROWS = 4, COLUMNS = 512 };

static const int types[] = {GF_Q4_0, GF_Q8_0, GF_Q4_K, GF_Q6_K, GF_IQ2_S, GF_IQ3_S, GF_IQ4_NL, GF_F16};
enum { TYPES = sizeof types / sizeof *types };

static float weights[ROWS * COLUMNS], importance[COLUMNS];
static uint8_t expected[TYPES][2][sizeof weights];

static void recode(size_t type, int weighted, uint8_t *out, float *scratch) {
    gf_recode(GF_F32, weights, types[type], out, ROWS, COLUMNS, weighted ? importance : NULL, scratch);
}

static void *work(void *argument) {
    const size_t number = (size_t)(uintptr_t)argument;
    float *scratch = malloc(sizeof *scratch * gf_recode_scratch(COLUMNS, false));
    uint8_t *out = calloc(1, sizeof weights);
    if (!scratch || !out) exit(2);
    for (size_t round = 0; round < ROUNDS; round++) {
        const size_t type = (number + round) % TYPES, weighted = round % 2;
        const char *name = gf_available_target(round % 3);
        memset(out, 0, sizeof weights); /* what is not written is compared, too */
        recode(type, (int)weighted, out, scratch);
        if (number == 0 && name) gf_set_target(name);
        if (memcmp(out, expected[type][weighted], sizeof weights) != 0) {
            fprintf(stderr, "thread %zu: other bytes (%s)\n", number, gf_target());
            exit(1);
        }
    }
    free(scratch), free(out);
    return NULL;
}

static void run(void *(*function)(void *)) {
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, function, (void *)(uintptr_t)i) != 0) exit(2);
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void *ask(void *argument) {
    (void)argument;
    const uint8_t zeros[256] = {0};
    float none[256];
    gf_dequantize(GF_IQ3_S, zeros, none, 256);
    return (void *)(uintptr_t)gf_target();
}

int main(void) {
    for (size_t i = 0; i < ROWS * COLUMNS; i++) weights[i] = (float)((i * 2654435761u) % 1000) / 1000 - 0.5f;
    for (size_t i = 0; i < COLUMNS; i++) importance[i] = (float)(i % 7);
    run(ask); /* nobody has asked before */
    float *scratch = malloc(sizeof *scratch * gf_recode_scratch(COLUMNS, false));
    if (!scratch) return 2;
    for (size_t type = 0; type < TYPES; type++)
        for (int weighted = 0; weighted < 2; weighted++) recode(type, weighted, expected[type][weighted], scratch);
    free(scratch);
    run(work);
    const char *name;
    for (size_t i = 0; (name = gf_available_target(i)); i++) puts(name);
    return 0;
}
