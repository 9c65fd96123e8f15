# cython: language_level=3
"""The bridge to the C core, and the only one.

It checks types, lengths and shapes, releases the GIL and does nothing clever. Arrays come in as buffers, so NumPy is
not needed here.
"""

import os
from collections import namedtuple
from enum import IntEnum

from gguffast.errors import OptionError

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "gguffast.h" nogil:
    enum:
        GF_RECODE_OK
        GF_RECODE_BAD_INPUT
        GF_RECODE_BAD_OUTPUT

    ctypedef struct gf_type_info:
        int id
        const char *name
        uint32_t block_size
        uint32_t block_bytes
        bint quantized
        bint has_codec
        bint needs_importance

    ctypedef struct gf_recode_result:
        int status
        size_t row

    const gf_type_info *gf_types(size_t *count)
    const gf_type_info *gf_type_find(int64_t id)
    const char *gf_available_target(size_t index)
    const char *gf_target()
    bint gf_set_target(const char *name)
    void gf_quantize(int type, const float *src, void *dst, size_t nrows, size_t ncols, const float *importance)
    void gf_dequantize(int type, const void *src, float *dst, size_t n)
    size_t gf_recode_scratch(size_t ncols, bint importance)
    gf_recode_result gf_recode(int src_type, const void *src, int dst_type, void *dst, size_t nrows, size_t ncols,
                               const float *importance, float *scratch)


# ---- types and targets -------------------------------------------------------------------------------------------

TypeRow = namedtuple("TypeRow", "number name block_size block_bytes quantized has_codec needs_importance")


def type_table():
    """All tensor types, a :class:`TypeRow` each."""
    cdef size_t i, count
    cdef const gf_type_info *types = gf_types(&count)
    return [TypeRow(types[i].id, types[i].name.decode(), types[i].block_size, types[i].block_bytes,
                    bool(types[i].quantized), bool(types[i].has_codec), bool(types[i].needs_importance))
            for i in range(count)]


def targets():
    """The instruction sets that this build has and this machine runs, best first."""
    cdef const char *name = gf_available_target(0)
    found = []
    while name != NULL:
        found.append(name.decode())
        name = gf_available_target(len(found))
    return tuple(found)


def target():
    """The instruction set in use."""
    return gf_target().decode()


def set_target(name):
    """Use one of :func:`targets` from now on, in all threads; also set by GGUFFAST_TARGET in the environment.

    Parameters
    ----------
    name : str
        "avx512", "avx2", "neon" or "portable".

    Raises
    ------
    OptionError
        This build or this machine does not have it.
    """
    cdef bytes encoded = name.encode()
    if not gf_set_target(encoded):
        raise OptionError(f"no target '{name}' here; this machine and this build have {', '.join(targets())}")


if os.environ.get("GGUFFAST_TARGET"):
    set_target(os.environ["GGUFFAST_TARGET"])


# ---- rows --------------------------------------------------------------------------------------------------------

cdef class _Buffer:
    """A buffer held for as long as C works on it."""

    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, obj, bint writable=False):
        PyObject_GetBuffer(obj, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef size_t size(self) noexcept nogil:
        return <size_t>self.view.len


cdef const gf_type_info *_codec(int type) except NULL:
    cdef const gf_type_info *info = gf_type_find(type)
    if info == NULL or not info.has_codec:
        raise ValueError(f"no codec for tensor type {type}")
    return info


cdef size_t _row_bytes(const gf_type_info *info, size_t ncols) except 0:
    if ncols == 0 or ncols % info.block_size:
        raise ValueError(f"rows of {ncols} weights do not fit blocks of {info.block_size}")
    if ncols > <size_t>1 << 48:
        raise ValueError(f"rows of {ncols} weights are too long")
    return ncols // info.block_size * info.block_bytes


cdef const float *_floats(_Buffer buffer) except? NULL:
    if <uintptr_t>buffer.view.buf % sizeof(float):
        raise ValueError("the floats are not aligned")
    return <const float *>buffer.view.buf


cdef const float *_importance(_Buffer buffer, size_t ncols, bint needed) except? NULL:
    if buffer is None:
        if needed:
            raise ValueError("no importance for a type that needs it")
        return NULL
    if buffer.size() != ncols * sizeof(float):
        raise ValueError(f"{buffer.size()} bytes of importance for rows of {ncols} weights")
    return _floats(buffer)


def quantize(int type, src, size_t ncols, dst, importance=None):
    """Rows of ``ncols`` float32 weights in ``src`` to blocks in ``dst``; ``importance``: ``ncols`` float32 or None."""
    cdef const gf_type_info *info = _codec(type)
    cdef size_t row_bytes = _row_bytes(info, ncols)
    cdef _Buffer x = _Buffer(src), y = _Buffer(dst, True), w = None if importance is None else _Buffer(importance)
    cdef size_t nrows = x.size() // sizeof(float) // ncols
    cdef const float *floats = _floats(x)
    cdef const float *weights = _importance(w, ncols, info.needs_importance)
    if nrows * ncols * sizeof(float) != x.size() or nrows * row_bytes != y.size():
        raise ValueError(f"{x.size()} bytes of weights and {y.size()} bytes of blocks do not make rows of {ncols}")
    with nogil:
        gf_quantize(type, floats, y.view.buf, nrows, ncols, weights)


def dequantize(int type, src, dst):
    """Blocks in ``src`` to float32 weights in ``dst``."""
    cdef const gf_type_info *info = _codec(type)
    cdef _Buffer x = _Buffer(src), y = _Buffer(dst, True)
    cdef size_t blocks = x.size() // info.block_bytes, n = blocks * info.block_size
    cdef float *floats = <float *>_floats(y)
    if blocks * info.block_bytes != x.size() or n * sizeof(float) != y.size():
        raise ValueError(f"{x.size()} bytes of blocks and {y.size()} bytes of weights do not fit together")
    with nogil:
        gf_dequantize(type, x.view.buf, floats, n)


class RecodeStatus(IntEnum):
    """How :func:`recode` went; false for OK."""

    OK = GF_RECODE_OK
    BAD_INPUT = GF_RECODE_BAD_INPUT
    BAD_OUTPUT = GF_RECODE_BAD_OUTPUT


RecodeResult = namedtuple("RecodeResult", "status row")


def recode(int src_type, src, int dst_type, dst, size_t ncols, importance=None):
    """Rows of one type to rows of another; of the same type: copy and check.

    Returns
    -------
    RecodeResult
        BAD_INPUT: ``row`` is the first with a NaN or an infinity in the source. BAD_OUTPUT: the first whose weights are
        too large for the type's half-precision scale.
    """
    cdef const gf_type_info *from_ = gf_type_find(src_type)
    cdef const gf_type_info *to
    if src_type == dst_type and from_ != NULL:
        to = from_
    else:
        from_ = _codec(src_type)
        to = _codec(dst_type)
    cdef size_t src_row = _row_bytes(from_, ncols), dst_row = _row_bytes(to, ncols)
    cdef _Buffer x = _Buffer(src), y = _Buffer(dst, True), w = None if importance is None else _Buffer(importance)
    cdef size_t nrows = x.size() // src_row
    if nrows * src_row != x.size() or nrows * dst_row != y.size():
        raise ValueError(f"{x.size()} and {y.size()} bytes do not make rows of {ncols} weights")
    cdef const float *weights = _importance(w, ncols, to.needs_importance and to != from_)
    cdef float *scratch = <float *>malloc(gf_recode_scratch(ncols, weights != NULL) * sizeof(float))
    if scratch == NULL:
        raise MemoryError
    cdef gf_recode_result result
    with nogil:
        result = gf_recode(src_type, x.view.buf, dst_type, y.view.buf, nrows, ncols, weights, scratch)
    free(scratch)
    return RecodeResult(RecodeStatus(result.status), result.row)


# ---- GGUF headers ------------------------------------------------------------------------------------------------

cdef extern from "gguffast.h" nogil:
    enum:
        GF_GGUF_OK
        GF_GGUF_DEFAULT_ALIGNMENT
        GF_GGUF_MAX_ALIGNMENT
        GF_GGUF_MAX_DIMS
        GF_GGUF_MAX_NAME

    ctypedef struct gf_span:
        uint64_t offset
        uint64_t size

    ctypedef struct gf_gguf_error:
        int status
        int part
        uint64_t index
        gf_span name
        uint64_t offset
        uint64_t found
        uint64_t limit

    ctypedef struct gf_gguf_kv:
        gf_span key
        gf_span value
        uint32_t type

    ctypedef struct gf_gguf_tensor:
        gf_span name
        uint32_t n_dims
        uint32_t type
        int64_t *ne
        uint64_t offset
        uint64_t nbytes

    ctypedef struct gf_gguf:
        uint32_t version
        uint32_t alignment
        uint64_t data_offset
        size_t n_kvs
        size_t n_tensors
        gf_gguf_kv *kvs
        gf_gguf_tensor *tensors

    ctypedef struct gf_gguf_kv_out:
        const void *key
        size_t key_size
        const void *value
        size_t value_size
        uint32_t type

    ctypedef struct gf_gguf_tensor_out:
        const void *name
        size_t name_size
        uint32_t n_dims
        int64_t *ne
        uint32_t type
        uint64_t offset

    const char *gf_gguf_status_name(int status)
    gf_gguf_error gf_gguf_parse(const uint8_t *data, size_t size, uint64_t file_size, gf_gguf *out)
    void gf_gguf_free(gf_gguf *gguf)
    size_t gf_gguf_write(uint8_t *dst, size_t capacity, uint32_t version, const gf_gguf_kv_out *kvs, size_t n_kvs,
                         const gf_gguf_tensor_out *tensors, size_t n_tensors, uint32_t alignment)


DEFAULT_ALIGNMENT, MAX_ALIGNMENT = GF_GGUF_DEFAULT_ALIGNMENT, GF_GGUF_MAX_ALIGNMENT
MAX_DIMS, MAX_NAME_BYTES = GF_GGUF_MAX_DIMS, GF_GGUF_MAX_NAME

HeaderPair = namedtuple("HeaderPair", "key type offset size")
HeaderTensor = namedtuple("HeaderTensor", "name ne type offset nbytes")
Header = namedtuple("Header", "version alignment data_offset pairs tensors")


class HeaderError(Exception):
    """What is wrong with a GGUF header: gf_gguf_error of gguffast.h, status and part by their names.

    The status INCOMPLETE is no fault: ``limit`` bytes of the file are needed.
    """

    def __init__(self, status, part, index, name, offset, found, limit):
        super().__init__(status)
        self.status, self.part, self.index, self.name = status, part, index, name
        self.offset, self.found, self.limit = offset, found, limit


def header_statuses():
    """The names that the status of a :class:`HeaderError` can have."""
    cdef int status = GF_GGUF_OK + 1
    names = []
    while gf_gguf_status_name(status) != b"UNKNOWN":
        names.append(gf_gguf_status_name(status).decode())
        status += 1
    return tuple(names)


cdef tuple _PARTS = ("header", "key", "tensor")


cdef bytes _span_bytes(const uint8_t *data, gf_span span):
    return data[span.offset:span.offset + span.size]


cdef _header_error(const uint8_t *data, const gf_gguf_error *error):
    return HeaderError(gf_gguf_status_name(error.status).decode(), _PARTS[error.part], error.index,
                       _span_bytes(data, error.name), error.offset, error.found, error.limit)


cdef list _pairs(const uint8_t *data, const gf_gguf *gguf):
    cdef size_t i
    cdef gf_gguf_kv kv
    pairs = []
    for i in range(gguf.n_kvs):
        kv = gguf.kvs[i]
        pairs.append(HeaderPair(_span_bytes(data, kv.key), kv.type, kv.value.offset, kv.value.size))
    return pairs


cdef list _tensors(const uint8_t *data, const gf_gguf *gguf):
    cdef size_t i
    cdef uint32_t d
    cdef const gf_gguf_tensor *t
    tensors = []
    for i in range(gguf.n_tensors):
        t = &gguf.tensors[i]
        ne = tuple([t.ne[d] for d in range(t.n_dims)])
        tensors.append(HeaderTensor(_span_bytes(data, t.name), ne, t.type, t.offset, t.nbytes))
    return tensors


def parse_gguf(data, uint64_t file_size):
    """Check a GGUF file of which ``data`` is the beginning, and locate what its header tells.

    Returns
    -------
    Header
        A pair's offset and size are those of the value after its type; a tensor's offset counts from the start of the
        file.

    Raises
    ------
    HeaderError
    """
    cdef _Buffer buffer = _Buffer(data)
    cdef const uint8_t *start = <const uint8_t *>buffer.view.buf
    cdef gf_gguf gguf
    cdef gf_gguf_error error
    if buffer.size() > file_size:
        raise ValueError(f"{buffer.size()} bytes of a file of {file_size}")
    with nogil:
        error = gf_gguf_parse(start, buffer.size(), file_size, &gguf)
    if error.status != GF_GGUF_OK:
        raise _header_error(start, &error)
    try:
        return Header(gguf.version, gguf.alignment, gguf.data_offset, _pairs(start, &gguf), _tensors(start, &gguf))
    finally:
        gf_gguf_free(&gguf)


def decode_strings(bytes items, Py_ssize_t count):
    """``count`` strings, each after its length (u64), as a list; bytes that are not UTF-8 become lone surrogates."""
    cdef const char *data = items
    cdef size_t pos = 0, end = len(items)
    cdef uint64_t size
    cdef Py_ssize_t i
    strings = []
    for i in range(count):
        if end - pos < 8:
            raise ValueError("the strings end before their count")
        memcpy(&size, data + pos, 8)
        pos += 8
        if size > end - pos:
            raise ValueError("a string runs past the end")
        strings.append(PyUnicode_DecodeUTF8(data + pos, <Py_ssize_t>size, "surrogateescape"))
        pos += <size_t>size
    return strings


cdef _fill_kvs(gf_gguf_kv_out *out, list kvs):
    cdef Py_ssize_t i
    cdef bytes key, value
    for i in range(len(kvs)):
        key, type, value = kvs[i]
        out[i].key = <const char *>key
        out[i].key_size = len(key)
        out[i].value = <const char *>value
        out[i].value_size = len(value)
        out[i].type = type


cdef _fill_tensors(gf_gguf_tensor_out *out, list tensors):
    cdef Py_ssize_t i, d
    cdef bytes name
    for i in range(len(tensors)):
        name, ne, type, offset = tensors[i]
        if len(ne) > GF_GGUF_MAX_DIMS:
            raise ValueError(f"{len(ne)} dimensions, more than {GF_GGUF_MAX_DIMS}")
        out[i].name = <const char *>name
        out[i].name_size = len(name)
        out[i].n_dims = len(ne)
        for d in range(out[i].n_dims):
            out[i].ne[d] = ne[d]
        out[i].type = type
        out[i].offset = offset


def write_gguf(uint32_t version, list kvs, list tensors, uint32_t alignment):
    """The bytes of a header. A pair is (key, type, value bytes), a tensor (name, ne, type, offset of its data)."""
    if alignment == 0 or alignment & (alignment - 1) or alignment > GF_GGUF_MAX_ALIGNMENT:
        raise ValueError(f"alignment {alignment} is not a power of two up to {GF_GGUF_MAX_ALIGNMENT}")
    cdef gf_gguf_kv_out *c_kvs = <gf_gguf_kv_out *>malloc((len(kvs) + 1) * sizeof(gf_gguf_kv_out))
    cdef gf_gguf_tensor_out *c_tensors = <gf_gguf_tensor_out *>malloc((len(tensors) + 1) * sizeof(gf_gguf_tensor_out))
    cdef size_t size
    cdef bytes header
    try:
        if c_kvs == NULL or c_tensors == NULL:
            raise MemoryError
        _fill_kvs(c_kvs, kvs)
        _fill_tensors(c_tensors, tensors)
        size = gf_gguf_write(NULL, 0, version, c_kvs, len(kvs), c_tensors, len(tensors), alignment)
        header = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        gf_gguf_write(<uint8_t *>PyBytes_AsString(header), size, version, c_kvs, len(kvs), c_tensors, len(tensors),
                      alignment)
        return header
    finally:
        free(c_kvs)
        free(c_tensors)
