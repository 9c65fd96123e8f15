/* Mutates sound GGUF files and hands them to the parser, in buffers of exactly their size, for the sanitizers to
 * watch.
 *
 *     fuzz_gguf ROUNDS FILE...
 *
 * With -DLIBFUZZER libFuzzer does the mutating: scripts/attack.sh.
 *
 * Whatever is accepted is used as a caller would use it: every name, value and weight is read, the header is
 * written again, and what was written is parsed again and must say the same. */
#include "gguffast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library's own lookup is linked with the kernels, which take half a minute to compile here. */
const gf_type_info *gf_type_find(int64_t id) {
    static const gf_type_info types[] = {
#define CODEC(number, type, weights, size, scale_offset, scale_count)                                              \
    {.id = number, .name = #type, .block_size = weights, .block_bytes = size},
#define KNOWN CODEC
#include "types.def"
#undef CODEC
#undef KNOWN
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

static uint64_t state = 88172645463325252u;

static uint64_t random_below(uint64_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % n;
}

typedef struct {
    uint8_t *bytes;
    size_t size;
} buffer;

static buffer allocate(size_t size) {
    buffer b = {malloc(size), size};
    if (b.bytes == NULL && size > 0) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return b;
}

#ifndef LIBFUZZER

static buffer read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    buffer b = allocate((size_t)ftell(file));
    rewind(file);
    if (fread(b.bytes, 1, b.size, file) != b.size) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return b;
}

static void put_number(buffer b, size_t at) {
    static const uint64_t numbers[] = {0,          1,         2,          7,        31,         32,
                                       64,         255,       INT32_MAX,  1u << 31, UINT32_MAX, 1ull << 61,
                                       1ull << 62, INT64_MAX, 1ull << 63, -1ull,    -8ull,      -32ull};
    const uint64_t number = numbers[random_below(sizeof numbers / sizeof *numbers)];
    const size_t width = random_below(2) ? 8 : 4;
    for (size_t i = 0; i < width && at + i < b.size; i++) b.bytes[at + i] = (uint8_t)(number >> (8 * i));
}

static void mutate(buffer b, size_t header_size) {
    for (uint64_t n = 1 + random_below(3); n > 0; n--) {
        const size_t at = random_below(header_size < b.size ? header_size : b.size);
        switch (random_below(4)) {
        case 0:
            b.bytes[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1:
            b.bytes[at] = (uint8_t)random_below(256);
            break;
        case 2:
            put_number(b, at);
            break;
        default: {
            const size_t from = random_below(b.size), room = b.size - (at > from ? at : from);
            memmove(b.bytes + at, b.bytes + from, random_below(1 + (room < 64 ? room : 64)));
        }
        }
    }
}

static buffer mutant(buffer original, size_t header_size) {
    size_t size = original.size;
    if (random_below(8) == 0) size = 1 + random_below(original.size);
    if (random_below(4) == 0 && size > header_size) size = header_size;
    buffer b = allocate(size);
    memcpy(b.bytes, original.bytes, size);
    mutate(b, header_size);
    return b;
}

#endif

static uint64_t sum(buffer b, gf_span span) {
    uint64_t total = 0;
    for (uint64_t i = 0; i < span.size; i++) total += b.bytes[span.offset + i];
    return total;
}

static uint64_t use(buffer b, const gf_gguf *gguf) {
    uint64_t total = 0;
    for (size_t i = 0; i < gguf->n_kvs; i++) total += sum(b, gguf->kvs[i].key) + sum(b, gguf->kvs[i].value);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const gf_gguf_tensor *t = &gguf->tensors[i];
        total += sum(b, t->name) + sum(b, (gf_span){t->offset, t->nbytes});
    }
    return total;
}

static buffer write_again(buffer b, const gf_gguf *gguf) {
    gf_gguf_kv_out *kvs = calloc(gguf->n_kvs + 1, sizeof *kvs);
    gf_gguf_tensor_out *tensors = calloc(gguf->n_tensors + 1, sizeof *tensors);
    for (size_t i = 0; i < gguf->n_kvs; i++) {
        const gf_gguf_kv *kv = &gguf->kvs[i];
        kvs[i] = (gf_gguf_kv_out){b.bytes + kv->key.offset, kv->key.size, b.bytes + kv->value.offset,
                                  kv->value.size, kv->type};
    }
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const gf_gguf_tensor *t = &gguf->tensors[i];
        tensors[i].name = b.bytes + t->name.offset;
        tensors[i].name_size = t->name.size;
        tensors[i].type = t->type;
        tensors[i].offset = t->offset - gguf->data_offset;
        tensors[i].n_dims = t->n_dims;
        memcpy(tensors[i].ne, t->ne, sizeof t->ne);
    }
    const size_t size =
        gf_gguf_write(NULL, 0, gguf->version, kvs, gguf->n_kvs, tensors, gguf->n_tensors, gguf->alignment);
    buffer written = allocate(size + b.size);
    memset(written.bytes, 0, written.size);
    gf_gguf_write(written.bytes, size, gguf->version, kvs, gguf->n_kvs, tensors, gguf->n_tensors, gguf->alignment);
    free(kvs);
    free(tensors);
    return written;
}

static bool same(const gf_gguf *a, const gf_gguf *b) {
    if (a->n_kvs != b->n_kvs || a->n_tensors != b->n_tensors || a->alignment != b->alignment) return false;
    for (size_t i = 0; i < a->n_tensors; i++) {
        const gf_gguf_tensor *s = &a->tensors[i], *t = &b->tensors[i];
        if (s->nbytes != t->nbytes || s->offset - a->data_offset != t->offset - b->data_offset) return false;
        if (s->type != t->type || memcmp(s->ne, t->ne, sizeof s->ne) != 0) return false;
    }
    return true;
}

static void check(bool right, const char *what, int status) {
    if (right) return;
    fprintf(stderr, "%s: %s\n", what, gf_gguf_status_name(status));
    abort();
}

/* Read as Python does, a piece first and then as much as the parser asks for: the outcome must be the same. */
static void read_piecewise(buffer b, size_t size, int expected) {
    for (;;) {
        buffer piece = allocate(size);
        memcpy(piece.bytes, b.bytes, size);
        gf_gguf gguf;
        const gf_gguf_error error = gf_gguf_parse(piece.bytes, size, b.size, &gguf);
        free(piece.bytes);
        if (error.status == GF_GGUF_OK) gf_gguf_free(&gguf);
        if (error.status != GF_GGUF_INCOMPLETE) {
            check(error.status == expected, "read in pieces a file gave another result", error.status);
            return;
        }
        check(error.limit > size && error.limit <= b.size, "the parser asks for what is not there", error.status);
        size = 2 * size < b.size ? 2 * size : b.size;
        if (size < error.limit) size = (size_t)error.limit;
    }
}

/* 1 if the file was accepted. */
static int try_one(buffer b) {
    gf_gguf gguf;
    const gf_gguf_error error = gf_gguf_parse(b.bytes, b.size, b.size, &gguf);
    read_piecewise(b, random_below(b.size + 1), error.status);
    if (error.status != GF_GGUF_OK) {
        if (error.name.size > 0) sum(b, error.name);
        return 0;
    }
    use(b, &gguf);
    buffer written = write_again(b, &gguf);
    gf_gguf again;
    const gf_gguf_error second = gf_gguf_parse(written.bytes, written.size, written.size, &again);
    check(second.status == GF_GGUF_OK && same(&gguf, &again), "a header changed when it was written again",
          second.status);
    gf_gguf_free(&again);
    free(written.bytes);
    gf_gguf_free(&gguf);
    return 1;
}

#ifdef LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    buffer b = allocate(size);
    if (size > 0) memcpy(b.bytes, data, size);
    try_one(b);
    free(b.bytes);
    return 0;
}

#else

int main(int argc, char **argv) {
    if (argc < 3) {
        fputs("usage: fuzz_gguf ROUNDS FILE...\n", stderr);
        return 2;
    }
    unsigned long accepted = 0, refused = 0;
    for (int i = 2; i < argc; i++) {
        buffer original = read_file(argv[i]);
        gf_gguf gguf;
        if (gf_gguf_parse(original.bytes, original.size, original.size, &gguf).status != GF_GGUF_OK) {
            fprintf(stderr, "%s: not a sound file\n", argv[i]);
            return 2;
        }
        const size_t header_size = (size_t)gguf.data_offset;
        gf_gguf_free(&gguf);
        for (long round = atol(argv[1]); round > 0; round--) {
            buffer b = mutant(original, header_size);
            *(try_one(b) ? &accepted : &refused) += 1;
            free(b.bytes);
        }
        free(original.bytes);
    }
    printf("%lu accepted, %lu refused\n", accepted, refused);
    return 0;
}

#endif
