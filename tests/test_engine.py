"""The engine: the same bytes for every number of threads, and what happens when something fails."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from gguffast import _core, engine
from gguffast.errors import DataError, FileError, OptionError
from gguffast.plan import PlannedTensor, Target
from gguffast.types import GGMLQuantizationType as T


class Weights:
    """A source tensor in memory."""

    type = T.F32

    def __init__(self, name, values):
        self.name = name
        self.values = values
        self.ne = values.shape[::-1]
        self.n_rows = values.size // values.shape[-1]
        self.row_bytes = 4 * values.shape[-1]
        self.asked = []

    def read_into(self, offset, into):
        assert 0 < len(into) <= self.n_rows * self.row_bytes - offset
        self.asked.append((offset // self.row_bytes, len(into) / self.row_bytes))
        into[:] = memoryview(np.ascontiguousarray(self.values)).cast("B")[offset : offset + len(into)]


def planned(*targets):
    tensors, end = [], 0
    for target in targets:
        tensors.append(PlannedTensor(target, end))
        end += target.nbytes + 7  # padding that nobody writes
    return tensors, end


def output(tensors, size, threads, **options):
    buffer = bytearray(size)

    def write(data, offset):
        assert not any(buffer[offset : offset + len(data)]), "written twice"
        buffer[offset : offset + len(data)] = data

    engine.run(tensors, write, threads, **options)
    return bytes(buffer)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gguffast")]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(engine, "CHUNK_WEIGHTS", 2048)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_same_bytes_for_every_number_of_threads(small_chunks, threads):
    weights = [normal(1, 37, 512), normal(2, 5), normal(3, 3, 7, 256), normal(4, 1, 32)]
    types = [T.Q4_K, T.F32, T.Q6_K, T.Q8_0]
    targets = [Target(Weights(f"t{i}", w), t) for i, (w, t) in enumerate(zip(weights, types, strict=True))]
    tensors, size = planned(*targets)
    got = output(tensors, size, threads)
    for tensor, values in zip(tensors, weights, strict=True):
        expected = bytearray(tensor.target.nbytes)
        _core.recode(T.F32, values, tensor.target.type, expected, values.shape[-1], None)
        assert got[tensor.offset :][: len(expected)] == expected
        gap = got[tensor.offset + len(expected) :][:7]
        assert gap == bytes(len(gap))


@pytest.mark.parametrize("threads", [1, 4])
def test_each_expert_has_its_own_importance(small_chunks, threads):
    weights = normal(5, 3, 10, 512)  # 10 rows an expert, 4 rows a chunk
    importance = np.random.default_rng(6).random((3, 512), np.float32)
    source = Weights("experts", weights)
    tensors, size = planned(Target(source, T.Q4_K, importance))
    got = output(tensors, size, threads)
    for expert in range(3):
        expected = bytearray(10 * T.Q4_K.nbytes(512))
        _core.recode(T.F32, weights[expert], T.Q4_K, expected, 512, importance[expert])
        assert got[expert * len(expected) :][: len(expected)] == expected
    assert all(first // 10 == (first + count - 1) // 10 for first, count in source.asked)


def test_every_row_is_read_once_in_file_order(small_chunks):
    source = Weights("t", normal(7, 100, 256))
    tensors, size = planned(Target(source, T.Q8_0))
    output(tensors, size, 1)
    rows = [row for first, count in source.asked for row in range(first, first + int(count))]
    assert rows == list(range(100))


CODECS = [type_ for type_ in T if type_.info.has_codec and not type_.info.needs_imatrix]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("type_", CODECS, ids=lambda type_: type_.name)
def test_a_row_longer_than_a_chunk_is_cut_between_blocks(small_chunks, type_, threads):
    weights = normal(8, 3, 5 * 1024 + 256)
    source = Weights("t", weights)
    tensors, size = planned(Target(source, type_))
    got = output(tensors, size, threads)
    expected = bytearray(tensors[0].target.nbytes)
    _core.recode(T.F32, weights, type_, expected, weights.shape[1], None)
    assert got[: len(expected)] == expected
    assert max(count * weights.shape[1] for _, count in source.asked) == 2048


def test_a_row_longer_than_a_chunk_is_whole_with_importances(small_chunks):
    # Some types weigh a block by the mean of its whole row.
    weights = normal(8, 2, 4096)
    importance = np.random.default_rng(6).random((1, 4096), np.float32)
    tensors, size = planned(Target(Weights("t", weights), T.Q4_0, importance))
    got = output(tensors, size, 2)
    expected = bytearray(tensors[0].target.nbytes)
    _core.recode(T.F32, weights, T.Q4_0, expected, 4096, importance[0])
    assert got[: len(expected)] == expected


def test_a_bad_row_is_named_although_it_was_cut(small_chunks):
    values = normal(9, 3, 8192)
    values[1, 8000] = np.nan
    tensors, size = planned(Target(Weights("t", values), T.Q8_0))
    with pytest.raises(DataError, match=r"^tensor 't', row 1: NaN"):
        output(tensors, size, 2)


def test_nothing_to_do():
    assert output([], 0, 4) == b""
    tensors, size = planned(Target(Weights("empty", np.empty((0, 256), np.float32)), T.Q8_0))
    assert output(tensors, size, 2) == bytes(7)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_bad_row_is_named(small_chunks, threads, value):
    bad = normal(9, 600, 256)
    bad[[300, 301, 599], 17] = value
    tensors, size = planned(
        Target(Weights("good", normal(10, 50, 256)), T.Q4_K),
        Target(Weights("blk.0.ffn_down.weight", bad), T.Q4_K),
        Target(Weights("later", bad), T.Q4_K),
    )
    with pytest.raises(DataError, match=r"^tensor 'blk\.0\.ffn_down\.weight', row 300: NaN or infinity"):
        output(tensors, size, threads)


def test_copies_are_checked_too():
    values = normal(11, 4, 32)
    values[2, 3] = np.nan
    tensors, size = planned(Target(Weights("norm", values), T.F32))
    with pytest.raises(DataError, match="'norm', row 2"):
        output(tensors, size, 1)


def test_weights_too_large_for_the_type():
    values = normal(12, 4, 256)
    values[1, 3] = 1e30
    tensors, size = planned(Target(Weights("big", values), T.Q8_0))
    with pytest.raises(DataError, match=r"'big', row 1 .* too large .* Q8_0; .*`tensor_type` 'big=bf16'"):
        output(tensors, size, 1)


@pytest.mark.parametrize("threads", [1, 4])
def test_error_while_reading_stops_everything(small_chunks, threads):
    class Broken(Weights):
        def read_into(self, offset, into):
            if offset >= 64 * self.row_bytes:
                raise FileError(f"row {offset // self.row_bytes}")
            super().read_into(offset, into)

    source = Broken("t", normal(13, 4000, 256))
    tensors, size = planned(Target(source, T.Q8_0))
    with pytest.raises(FileError, match=r"^row 64$"):
        output(tensors, size, threads)
    assert len(source.asked) == 8
    assert not workers()


@pytest.mark.parametrize("threads", [1, 4])
def test_error_while_writing_stops_everything(small_chunks, threads):
    def full(data, offset):
        raise FileError("disk full")

    source = Weights("t", normal(14, 4000, 256))
    tensors, _ = planned(Target(source, T.Q8_0))
    with pytest.raises(FileError, match=r"^disk full$"):
        engine.run(tensors, full, threads)
    assert len(source.asked) <= threads
    assert not workers()


def test_progress_is_reported_from_the_calling_thread(small_chunks, monkeypatch):
    monkeypatch.setattr(engine, "_REPORT_SECONDS", 0.001)
    seen = []

    def progress(p):
        assert threading.current_thread() is threading.main_thread()
        seen.append(p)

    class Slow(Weights):
        def read_into(self, offset, into):
            time.sleep(0.002)
            super().read_into(offset, into)

    tensors, size = planned(
        Target(Slow("a", normal(15, 200, 256)), T.Q8_0), Target(Slow("b", normal(16, 200, 256)), T.F16)
    )
    output(tensors, size, 2, progress=progress)
    total = 2 * 200 * 256 * 4
    assert (seen[0].done, seen[0].total, seen[0].tensor) == (0, total, "")
    assert (seen[-1].done, seen[-1].total, seen[-1].tensor) == (total, total, "b")
    assert len(seen) > 2
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_progress_can_stop_the_work(small_chunks, monkeypatch, error):
    monkeypatch.setattr(engine, "_REPORT_SECONDS", 0.001)

    class Slow(Weights):
        def read_into(self, offset, into):
            time.sleep(0.01)
            super().read_into(offset, into)

    def progress(p):
        if p.done:
            raise error

    source = Slow("t", normal(17, 4000, 256))
    tensors, size = planned(Target(source, T.Q8_0))
    with pytest.raises(error):
        output(tensors, size, 2, progress=progress)
    assert 0 < len(source.asked) < 500
    assert not workers()


def test_more_threads_than_the_system_gives(monkeypatch):
    start = threading.Thread.start
    started = []

    def limited(self):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    tensors, size = planned(Target(Weights("t", normal(18, 8, 256)), T.Q8_0))
    with pytest.raises(OptionError, match="cannot start 5 threads"):
        output(tensors, size, 5)
    assert not workers()


def test_available_cpus():
    assert 1 <= engine.available_cpus() <= 4096
