/* GGUF headers: a parser that trusts nothing, and a writer.
 *
 * The format is described in docs/gguf.md of ggml.  What is refused follows gguf_init_from_file() of llama.cpp,
 * with one exception: that function wants every tensor to start where the one before it ends, in file order; here
 * gaps and any order are fine, as other writers leave them and gguf-py reads them. */
#include "gguffast.h"

#include <stdlib.h>
#include <string.h>

enum { NEWEST_VERSION = 3 };

/* The fewest bytes that a key-value pair (length, one character, type, one byte) and a tensor (length, number of
 * dimensions, type, offset) can take. */
enum { MIN_KV_BYTES = 8 + 1 + 4 + 1, MIN_TENSOR_BYTES = 8 + 4 + 4 + 8 };

const char *gf_gguf_status_name(int status) {
    static const char *const names[] = {
#define NAME(name) #name,
        GF_GGUF_STATUSES(NAME)
#undef NAME
    };
    return status >= 0 && (size_t)status < sizeof names / sizeof *names ? names[status] : "UNKNOWN";
}

/* ---- reading ---- */

typedef struct {
    const uint8_t *data;
    size_t size;        /* bytes at hand */
    size_t pos;         /* never beyond size */
    uint64_t file_size; /* never below size */
    gf_gguf_error error;
} reader;

/* In the file, at hand or not. */
static uint64_t left(const reader *r) { return r->file_size - r->pos; }

static bool fail_at(reader *r, uint64_t offset, int status, uint64_t found, uint64_t limit) {
    r->error.status = status;
    r->error.offset = offset;
    r->error.found = found;
    r->error.limit = limit;
    return false;
}

static bool fail(reader *r, int status, uint64_t found, uint64_t limit) {
    return fail_at(r, r->pos, status, found, limit);
}

static void enter(reader *r, int part, uint64_t index) {
    r->error.part = part;
    r->error.index = index;
    r->error.name = (gf_span){r->pos, 0};
}

/* Whether the next n bytes are at hand. */
static bool has(reader *r, uint64_t n) {
    if (n > left(r)) return fail(r, GF_GGUF_TRUNCATED, left(r), n);
    if (n <= r->size - r->pos) return true;
    if (n > GF_GGUF_MAX_HEADER || r->pos + n > GF_GGUF_MAX_HEADER)
        return fail(r, GF_GGUF_HUGE_HEADER, r->pos + n, GF_GGUF_MAX_HEADER);
    return fail(r, GF_GGUF_INCOMPLETE, r->size, r->pos + n);
}

static bool skip(reader *r, uint64_t n) {
    if (!has(r, n)) return false;
    r->pos += (size_t)n;
    return true;
}

/* Byte by byte: the fields have no alignment, and this is right on any host. */
static uint64_t load(const uint8_t *p, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static bool read_u32(reader *r, uint32_t *value) {
    if (!skip(r, 4)) return false;
    *value = (uint32_t)load(r->data + r->pos - 4, 4);
    return true;
}

static bool read_u64(reader *r, uint64_t *value) {
    if (!skip(r, 8)) return false;
    *value = load(r->data + r->pos - 8, 8);
    return true;
}

static bool read_string(reader *r, gf_span *span) {
    uint64_t size;
    if (!read_u64(r, &size)) return false;
    *span = (gf_span){r->pos, size};
    return skip(r, size);
}

/* Room for one more item, by doubling: what a count in the file promises is never allocated in advance. */
static bool grow(reader *r, void **items, size_t count, size_t item_size) {
    const bool full = count == 0 || (count >= 16 && (count & (count - 1)) == 0);
    if (!full) return true;
    const size_t capacity = count == 0 ? 16 : 2 * count;
    void *grown = capacity > SIZE_MAX / item_size ? NULL : realloc(*items, capacity * item_size);
    if (grown == NULL) return fail(r, GF_GGUF_NO_MEMORY, 0, 0);
    *items = grown;
    return true;
}

/* ---- names that must differ ---- */

typedef struct {
    const uint8_t *text;
    size_t size;
    size_t index;
} name_entry;

static int compare_names(const void *left_entry, const void *right_entry) {
    const name_entry *a = left_entry, *b = right_entry;
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    const int order = memcmp(a->text, b->text, a->size);
    if (order != 0) return order;
    return a->index < b->index ? -1 : a->index > b->index;
}

static bool same_name(const name_entry *a, const name_entry *b) {
    return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
}

/* Spans lie `stride` bytes apart, as the first member of their structs. */
static bool check_unique(reader *r, const void *first_span, size_t count, size_t stride, int part, int status) {
    if (count < 2) return true;
    name_entry *entries = malloc(count * sizeof *entries);
    if (entries == NULL) return fail(r, GF_GGUF_NO_MEMORY, 0, 0);
    for (size_t i = 0; i < count; i++) {
        gf_span span;
        memcpy(&span, (const char *)first_span + i * stride, sizeof span);
        entries[i] = (name_entry){r->data + span.offset, (size_t)span.size, i};
    }
    qsort(entries, count, sizeof *entries, compare_names);
    bool ok = true;
    for (size_t i = 1; ok && i < count; i++) {
        if (!same_name(&entries[i - 1], &entries[i])) continue;
        r->error.part = part;
        r->error.index = entries[i].index;
        r->error.name = (gf_span){(uint64_t)(entries[i].text - r->data), entries[i].size};
        ok = fail_at(r, r->error.name.offset, status, entries[i - 1].index, 0);
    }
    free(entries);
    return ok;
}

/* ---- key-value pairs ---- */

/* Bytes of a value of fixed size; 0 for strings, arrays and unknown types. */
static unsigned scalar_size(uint32_t type) {
    switch (type) {
    case GF_GGUF_UINT8:
    case GF_GGUF_INT8:
    case GF_GGUF_BOOL:
        return 1;
    case GF_GGUF_UINT16:
    case GF_GGUF_INT16:
        return 2;
    case GF_GGUF_UINT32:
    case GF_GGUF_INT32:
    case GF_GGUF_FLOAT32:
        return 4;
    case GF_GGUF_UINT64:
    case GF_GGUF_INT64:
    case GF_GGUF_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static bool skip_array(reader *r) {
    const size_t start = r->pos;
    uint32_t type;
    uint64_t count;
    if (!read_u32(r, &type)) return false;
    if (type == GF_GGUF_ARRAY) return fail_at(r, start, GF_GGUF_NESTED_ARRAY, 0, 0);
    const unsigned item_size = scalar_size(type);
    if (item_size == 0 && type != GF_GGUF_STRING) return fail_at(r, start, GF_GGUF_BAD_VALUE_TYPE, type, 0);
    if (!read_u64(r, &count)) return false;
    const uint64_t most = left(r) / (item_size != 0 ? item_size : 8);
    if (count > most) return fail_at(r, start + 4, GF_GGUF_BAD_ARRAY_COUNT, count, most);
    if (item_size != 0) return skip(r, count * item_size);
    for (uint64_t i = 0; i < count; i++) {
        gf_span ignored;
        if (!read_string(r, &ignored)) return false;
    }
    return true;
}

static bool skip_value(reader *r, uint32_t type) {
    gf_span ignored;
    if (type == GF_GGUF_STRING) return read_string(r, &ignored);
    if (type == GF_GGUF_ARRAY) return skip_array(r);
    const unsigned size = scalar_size(type);
    if (size == 0) return fail_at(r, r->pos - 4, GF_GGUF_BAD_VALUE_TYPE, type, 0);
    return skip(r, size);
}

static bool read_kv(reader *r, gf_gguf_kv *kv) {
    const size_t start = r->pos;
    if (!read_string(r, &kv->key)) return false;
    if (kv->key.size == 0) return fail_at(r, start, GF_GGUF_EMPTY_KEY, 0, 0);
    r->error.name = kv->key;
    if (!read_u32(r, &kv->type)) return false;
    kv->value.offset = r->pos;
    if (!skip_value(r, kv->type)) return false;
    kv->value.size = r->pos - kv->value.offset;
    return true;
}

static bool read_alignment(reader *r, const gf_gguf_kv *kv, size_t index, uint32_t *alignment) {
    static const char key[] = "general.alignment";
    if (kv->key.size != sizeof key - 1 || memcmp(r->data + kv->key.offset, key, sizeof key - 1) != 0) return true;
    enter(r, GF_GGUF_KVS, index);
    r->error.name = kv->key;
    const uint64_t at = kv->value.offset;
    if (kv->type != GF_GGUF_UINT32) return fail_at(r, at - 4, GF_GGUF_ALIGNMENT_NOT_U32, kv->type, 0);
    const uint32_t value = (uint32_t)load(r->data + at, 4);
    if (value == 0 || (value & (value - 1)) != 0 || value > GF_GGUF_MAX_ALIGNMENT)
        return fail_at(r, at, GF_GGUF_BAD_ALIGNMENT, value, GF_GGUF_MAX_ALIGNMENT);
    *alignment = value;
    return true;
}

static bool read_kvs(reader *r, uint64_t count, gf_gguf *out) {
    for (uint64_t i = 0; i < count; i++) {
        enter(r, GF_GGUF_KVS, i);
        void *items = out->kvs;
        if (!grow(r, &items, out->n_kvs, sizeof *out->kvs)) return false;
        out->kvs = items;
        if (!read_kv(r, &out->kvs[out->n_kvs])) return false;
        out->n_kvs++;
    }
    if (!check_unique(r, out->kvs, out->n_kvs, sizeof *out->kvs, GF_GGUF_KVS, GF_GGUF_DUPLICATE_KEY)) return false;
    for (size_t i = 0; i < out->n_kvs; i++)
        if (!read_alignment(r, &out->kvs[i], i, &out->alignment)) return false;
    return true;
}

/* ---- tensors ---- */

/* `n_weights` counts as if there were no dimension of 0: tensors may be empty, but code that multiplies only some
 * of the dimensions shall not overflow either. */
static bool read_shape(reader *r, gf_gguf_tensor *t, uint64_t *n_weights) {
    const size_t start = r->pos;
    if (!read_u32(r, &t->n_dims)) return false;
    if (t->n_dims > GF_GGUF_MAX_DIMS) return fail_at(r, start, GF_GGUF_TOO_MANY_DIMS, t->n_dims, GF_GGUF_MAX_DIMS);
    uint64_t product = 1;
    for (uint32_t d = 0; d < GF_GGUF_MAX_DIMS; d++) {
        uint64_t ne = 1;
        if (d < t->n_dims && !read_u64(r, &ne)) return false;
        if (ne > INT64_MAX) return fail_at(r, r->pos - 8, GF_GGUF_NEGATIVE_DIM, ne, d);
        if (ne > 1 && product > INT64_MAX / ne) return fail_at(r, start, GF_GGUF_SHAPE_OVERFLOW, 0, 0);
        if (ne > 1) product *= ne;
        t->ne[d] = (int64_t)ne;
    }
    *n_weights = product;
    return true;
}

static bool is_empty(const gf_gguf_tensor *t) {
    return t->ne[0] == 0 || t->ne[1] == 0 || t->ne[2] == 0 || t->ne[3] == 0;
}

static bool read_type(reader *r, gf_gguf_tensor *t, uint64_t n_weights) {
    const size_t start = r->pos;
    if (!read_u32(r, &t->type)) return false;
    const gf_type_info *info = gf_type_find(t->type);
    if (info == NULL) return fail_at(r, start, GF_GGUF_UNKNOWN_TENSOR_TYPE, t->type, 0);
    if (t->ne[0] % info->block_size != 0)
        return fail_at(r, start, GF_GGUF_PARTIAL_BLOCK, (uint64_t)t->ne[0], info->block_size);
    const uint64_t n_blocks = n_weights / info->block_size;
    if (n_blocks > INT64_MAX / info->block_bytes) return fail_at(r, start, GF_GGUF_SHAPE_OVERFLOW, 0, 0);
    t->nbytes = is_empty(t) ? 0 : n_blocks * info->block_bytes;
    return true;
}

static bool read_tensor(reader *r, gf_gguf_tensor *t) {
    const size_t start = r->pos;
    uint64_t n_weights;
    if (!read_string(r, &t->name)) return false;
    if (t->name.size > GF_GGUF_MAX_NAME)
        return fail_at(r, start, GF_GGUF_LONG_TENSOR_NAME, t->name.size, GF_GGUF_MAX_NAME);
    r->error.name = t->name;
    return read_shape(r, t, &n_weights) && read_type(r, t, n_weights) && read_u64(r, &t->offset);
}

static bool read_tensors(reader *r, uint64_t count, gf_gguf *out) {
    for (uint64_t i = 0; i < count; i++) {
        enter(r, GF_GGUF_TENSORS, i);
        void *items = out->tensors;
        if (!grow(r, &items, out->n_tensors, sizeof *out->tensors)) return false;
        out->tensors = items;
        if (!read_tensor(r, &out->tensors[out->n_tensors])) return false;
        out->n_tensors++;
    }
    return check_unique(r, out->tensors, out->n_tensors, sizeof *out->tensors, GF_GGUF_TENSORS,
                        GF_GGUF_DUPLICATE_TENSOR);
}

/* ---- where the tensors' data lies ---- */

static bool find_data(reader *r, gf_gguf *out) {
    enter(r, GF_GGUF_HEADER, 0);
    /* Without tensors there is no data section, and such files (vocabularies) need not be padded. */
    if (out->n_tensors > 0 && !skip(r, (out->alignment - r->pos % out->alignment) % out->alignment)) return false;
    out->data_offset = r->pos;
    return true;
}

/* From an offset in the data section to one in the file. */
static bool place_tensor(reader *r, gf_gguf_tensor *t, const gf_gguf *out) {
    const uint64_t room = r->file_size - out->data_offset;
    if (t->offset % out->alignment != 0)
        return fail_at(r, t->name.offset, GF_GGUF_MISALIGNED_TENSOR, t->offset, out->alignment);
    if (t->offset > room || t->nbytes > room - t->offset) {
        const uint64_t start =
            t->offset > UINT64_MAX - out->data_offset ? UINT64_MAX : t->offset + out->data_offset;
        const uint64_t end = t->nbytes > UINT64_MAX - start ? UINT64_MAX : start + t->nbytes;
        return fail_at(r, t->name.offset, GF_GGUF_TENSOR_PAST_END, end, r->file_size);
    }
    t->offset += out->data_offset;
    return true;
}

typedef struct {
    uint64_t offset;
    uint64_t nbytes;
    size_t index;
} extent;

static int compare_extents(const void *left_extent, const void *right_extent) {
    const extent *a = left_extent, *b = right_extent;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static bool check_overlap(reader *r, const gf_gguf *out) {
    if (out->n_tensors < 2) return true;
    extent *extents = malloc(out->n_tensors * sizeof *extents);
    if (extents == NULL) return fail(r, GF_GGUF_NO_MEMORY, 0, 0);
    size_t count = 0;
    for (size_t i = 0; i < out->n_tensors; i++) {
        const gf_gguf_tensor *t = &out->tensors[i];
        if (t->nbytes > 0) extents[count++] = (extent){t->offset, t->nbytes, i};
    }
    qsort(extents, count, sizeof *extents, compare_extents);
    bool ok = true;
    for (size_t i = 1; ok && i < count; i++) {
        const extent *before = &extents[i - 1], *after = &extents[i];
        if (after->offset - before->offset >= before->nbytes) continue;
        enter(r, GF_GGUF_TENSORS, after->index);
        r->error.name = out->tensors[after->index].name;
        ok = fail_at(r, r->error.name.offset, GF_GGUF_TENSOR_OVERLAP, before->index, 0);
    }
    free(extents);
    return ok;
}

static bool place_tensors(reader *r, gf_gguf *out) {
    if (!find_data(r, out)) return false;
    for (size_t i = 0; i < out->n_tensors; i++) {
        enter(r, GF_GGUF_TENSORS, i);
        r->error.name = out->tensors[i].name;
        if (!place_tensor(r, &out->tensors[i], out)) return false;
    }
    return check_overlap(r, out);
}

/* ---- the whole header ---- */

static bool read_magic(reader *r) {
    const unsigned n = left(r) < 4 ? (unsigned)left(r) : 4;
    if (!has(r, n)) return false;
    if (n == 0 || memcmp(r->data, "GGUF", n) != 0)
        return fail(r, GF_GGUF_NOT_GGUF, n == 0 ? 0 : load(r->data, n), n);
    return skip(r, 4);
}

static bool read_version(reader *r, uint32_t *version) {
    const size_t start = r->pos;
    if (!read_u32(r, version)) return false;
    /* The magic reads the same in files of either byte order; a version read the wrong way round ends in zeros. */
    if (*version != 0 && (*version & 0xffff) == 0) return fail_at(r, start, GF_GGUF_BIG_ENDIAN, *version, 0);
    if (*version < 2 || *version > NEWEST_VERSION)
        return fail_at(r, start, GF_GGUF_BAD_VERSION, *version, NEWEST_VERSION);
    return true;
}

static bool read_header(reader *r, gf_gguf *out) {
    uint64_t n_tensors, n_kvs;
    if (!read_magic(r) || !read_version(r, &out->version)) return false;
    const size_t counts = r->pos;
    if (!read_u64(r, &n_tensors) || !read_u64(r, &n_kvs)) return false;
    if (n_tensors > left(r) / MIN_TENSOR_BYTES)
        return fail_at(r, counts, GF_GGUF_BAD_TENSOR_COUNT, n_tensors, left(r) / MIN_TENSOR_BYTES);
    if (n_kvs > left(r) / MIN_KV_BYTES)
        return fail_at(r, counts + 8, GF_GGUF_BAD_KV_COUNT, n_kvs, left(r) / MIN_KV_BYTES);
    if (n_tensors > GF_GGUF_MAX_COUNT)
        return fail_at(r, counts, GF_GGUF_TOO_MANY_TENSORS, n_tensors, GF_GGUF_MAX_COUNT);
    if (n_kvs > GF_GGUF_MAX_COUNT) return fail_at(r, counts + 8, GF_GGUF_TOO_MANY_KVS, n_kvs, GF_GGUF_MAX_COUNT);
    return read_kvs(r, n_kvs, out) && read_tensors(r, n_tensors, out) && place_tensors(r, out);
}

gf_gguf_error gf_gguf_parse(const uint8_t *data, size_t size, uint64_t file_size, gf_gguf *out) {
    reader r = {.data = data, .size = size, .file_size = file_size};
    *out = (gf_gguf){.alignment = GF_GGUF_DEFAULT_ALIGNMENT};
    if (!read_header(&r, out)) gf_gguf_free(out);
    return r.error;
}

void gf_gguf_free(gf_gguf *gguf) {
    free(gguf->kvs);
    free(gguf->tensors);
    *gguf = (gf_gguf){0};
}

/* ---- writing ---- */

typedef struct {
    uint8_t *dst;
    size_t capacity;
    size_t pos; /* goes on counting when the capacity is exceeded */
} writer;

static void put(writer *w, const void *bytes, size_t n) {
    if (n > 0 && w->pos <= w->capacity && n <= w->capacity - w->pos) memcpy(w->dst + w->pos, bytes, n);
    w->pos += n;
}

static void put_int(writer *w, uint64_t value, unsigned n) {
    uint8_t bytes[8];
    for (unsigned i = 0; i < n; i++) bytes[i] = (uint8_t)(value >> (8 * i));
    put(w, bytes, n);
}

static void put_string(writer *w, const void *text, size_t n) {
    put_int(w, n, 8);
    put(w, text, n);
}

static void put_tensor(writer *w, const gf_gguf_tensor_out *t) {
    put_string(w, t->name, t->name_size);
    put_int(w, t->n_dims, 4);
    for (uint32_t d = 0; d < t->n_dims; d++) put_int(w, (uint64_t)t->ne[d], 8);
    put_int(w, t->type, 4);
    put_int(w, t->offset, 8);
}

size_t gf_gguf_write(uint8_t *dst, size_t capacity, uint32_t version, const gf_gguf_kv_out *kvs, size_t n_kvs,
                     const gf_gguf_tensor_out *tensors, size_t n_tensors, uint32_t alignment) {
    writer w = {.dst = dst, .capacity = capacity};
    put(&w, "GGUF", 4);
    put_int(&w, version, 4);
    put_int(&w, n_tensors, 8);
    put_int(&w, n_kvs, 8);
    for (size_t i = 0; i < n_kvs; i++) {
        put_string(&w, kvs[i].key, kvs[i].key_size);
        put_int(&w, kvs[i].type, 4);
        put(&w, kvs[i].value, kvs[i].value_size);
    }
    for (size_t i = 0; i < n_tensors; i++) put_tensor(&w, &tensors[i]);
    while (alignment > 1 && w.pos % alignment != 0) put_int(&w, 0, 1);
    return w.pos;
}
