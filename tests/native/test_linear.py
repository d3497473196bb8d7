"""The native product against its numpy twin, bit for bit, wherever weights lie and whoever computes."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locum.native import Native, load, twin

Words = NDArray[np.uint16]


@pytest.fixture(scope="module")
def native() -> Native:
    found = load()
    if found.missing:
        pytest.skip(found.missing)
    return found


def product(
    native: Native, w: Words, x: Words, block: int, threads: int, *, span: int = 1 << 20, skew: int = 0
) -> Words:
    """y, computed from weights that begin `skew` words into a buffer, between two guards."""
    outputs, inputs = w.shape
    room = np.zeros(w.size + 32, np.uint16)
    placed = room[skew : skew + w.size]
    placed[:] = w.reshape(-1)
    y = np.full(outputs + 32, 0xBEEF, np.uint16)
    native.linear_bf16(
        placed.ctypes.data, x.ctypes.data, y[16:].ctypes.data, outputs, inputs, block, span, threads
    )
    assert (y[:16] == 0xBEEF).all()
    assert (y[16 + outputs :] == 0xBEEF).all()
    return y[16 : 16 + outputs]


def same(one: Words, other: Words) -> bool:
    nan = np.isnan(twin.from_bf16(one))
    return bool((nan == np.isnan(twin.from_bf16(other))).all() and (one[~nan] == other[~nan]).all())


def words(random: np.random.Generator, *shape: int, scale: float = 1.0) -> Words:
    return twin.to_bf16((random.standard_normal(shape) * scale).astype(np.float32))


@settings(max_examples=150, deadline=None)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 300),
    block=st.sampled_from([32, 64, 128, 512, 1 << 20]),
    span=st.sampled_from([1, 2, 3, 1 << 20]),
    threads=st.integers(1, 4),
    skew=st.integers(0, 31),
    scale=st.sampled_from([1.0, 1e-19, 3e-20, 1e18]),
    seed=st.integers(0, 2**32),
)
def test_equal_to_the_twin(
    native: Native,
    outputs: int,
    inputs: int,
    block: int,
    span: int,
    threads: int,
    skew: int,
    scale: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    w, x = words(random, outputs, inputs, scale=scale), words(random, inputs, scale=scale)
    assert same(
        product(native, w, x, block, threads, span=span, skew=skew), twin.linear_bf16(w, x, block, span)
    )


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), inputs=st.integers(1, 9))
def test_any_bits_at_all(native: Native, seed: int, inputs: int) -> None:
    # NaN, infinities, subnormals, overflow: words drawn without regard to what they mean
    random = np.random.default_rng(seed)
    w = random.integers(0, 1 << 16, (200, inputs)).astype(np.uint16)
    x = random.integers(0, 1 << 16, inputs).astype(np.uint16)
    assert same(product(native, w, x, 512, 1), twin.linear_bf16(w, x, 512, 1 << 20))


def test_the_twin_is_near_the_exact_product() -> None:
    # the twin itself, against float64: else both could be wrong alike
    random = np.random.default_rng(1)
    w, x = words(random, 50, 700), words(random, 700)
    exact = twin.from_bf16(w).astype(np.float64) @ twin.from_bf16(x).astype(np.float64)
    got = twin.from_bf16(twin.linear_bf16(w, x, 512, 1 << 20))
    assert np.abs(got - exact).max() < 2**-8 * np.abs(exact).max()


def test_bits_do_not_depend_on_threads(native: Native) -> None:
    random = np.random.default_rng(2)
    w, x = words(random, 3000, 1500), words(random, 1500)
    one = product(native, w, x, 512, 1)
    for threads in (2, 3, 8):
        for _ in range(20):
            assert (product(native, w, x, 512, threads) == one).all()


def test_several_callers_at_once(native: Native) -> None:
    random = np.random.default_rng(3)
    cases = [(words(random, 40 * n, 900), words(random, 900)) for n in range(1, 9)]
    right = [product(native, w, x, 512, 1) for w, x in cases]
    wrong: list[int] = []

    def call(start: int) -> None:
        for turn in range(300):
            number = (start + turn) % len(cases)
            w, x = cases[number]
            if not (product(native, w, x, 512, 1 + turn % 4) == right[number]).all():
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_forked_child_computes(native: Native) -> None:
    random = np.random.default_rng(4)
    w, x = words(random, 2000, 1000), words(random, 1000)
    right = product(native, w, x, 512, 4)  # the helpers run now, and will be missing in the child
    child = os.fork()
    if not child:
        os._exit(0 if (product(native, w, x, 512, 4) == right).all() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
