"""Products keep torch's bits: what adds in another order is found out and left to torch."""

import copy
import ctypes
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn

from locum.backbone.linears import attach_linears, linear_layers
from locum.kernels import products as module
from locum.kernels.products import Products
from locum.native import Native, load

SHAPES = [(128, 96), (96, 128), (2048, 1024), (300, 512), (1000, 1536), (17, 33), (64, 2048), (5, 3), (1, 1)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def native() -> Native:
    found = load()
    if found.missing:
        pytest.skip(found.missing)
    return found


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_has_the_bits_of_torch(shape: tuple[int, int]) -> None:
    threads = torch.get_num_threads()
    products = Products(load(), (1, threads))
    products.try_shape(shape, torch.bfloat16)
    for seed in range(20):
        w = draw(*shape, seed=seed)
        for rows in (1, 3):
            x = draw(rows, shape[1], seed=seed + 100)
            assert torch.equal(products.linear(x, w), F.linear(x, w))
            assert torch.equal(products.linear(x[None], w), F.linear(x[None], w))


def counting(native: Native, calls: list[int], change: Callable[..., Any] | None = None) -> Native:
    """The same product, counted, its arguments perhaps changed on the way."""

    def linear(*args: Any) -> None:
        calls.append(args[3])
        native.linear_bf16(*(change(*args) if change else args))

    return Native(None, linear)


def test_it_is_really_native(native: Native) -> None:
    calls: list[int] = []
    products = Products(counting(native, calls), (torch.get_num_threads(),))
    assert products.try_shape((2048, 1024), torch.bfloat16)
    calls.clear()
    products.linear(draw(1, 1024), draw(2048, 1024))
    assert calls == [2048]


@pytest.mark.parametrize(
    "change",
    [
        lambda w, x, y, o, i, block, span, t: (w, x, y, o, i, 32, span, t),
        lambda w, x, y, o, i, block, span, t: (w, x, y, o, i, 2 * block + 32, span, t),
        lambda w, x, y, o, i, block, span, t: (w + 2, x, y, o, i, block, span, t),
    ],
    ids=["shorter chains", "longer chains", "another place"],
)
def test_another_order_of_additions_is_refused(native: Native, change: Callable[..., Any]) -> None:
    products = Products(counting(native, [], change), (torch.get_num_threads(),))
    assert not products.try_shape((64, 1536), torch.bfloat16)
    x, w = draw(1, 1536), draw(64, 1536)
    assert torch.equal(products.linear(x, w), F.linear(x, w))


def test_a_large_weight_is_tried_on_its_own_values(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIAL_ELEMENTS", 0)
    w = draw(4000, 1500)
    products = Products(native, (1, 2))
    assert products.try_weight(w)
    assert all(order.block == 512 for order in products.orders[w.shape].values())

    def flip(*args: Any) -> None:
        native.linear_bf16(*args)
        word = ctypes.c_uint16.from_address(args[2] + 2 * 77)
        word.value ^= 1

    assert not Products(Native(None, flip), (1,)).try_weight(w)


def test_a_trial_that_tells_nothing_counts_for_nothing(
    native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIAL_ELEMENTS", 0)
    w = torch.zeros(4000, 1500, dtype=torch.bfloat16)  # every order of additions is right
    assert not Products(native, (1,)).try_weight(w)


def test_what_was_not_tried_is_left_to_torch(native: Native) -> None:
    calls: list[int] = []
    threads = torch.get_num_threads()
    products = Products(counting(native, calls), (threads,))
    assert products.try_shape((128, 96), torch.bfloat16)
    assert not products.try_shape((128, 96), torch.float32)
    calls.clear()
    w, bias = draw(128, 96), draw(128)
    for x, weight, b in [
        (draw(2, 96), w, None),  # two rows
        (draw(1, 96), w, bias),
        (draw(1, 96), draw(96, 128).T, None),  # not as it lies in memory
        (draw(1, 96).float(), w.float(), None),
        (draw(1, 128), draw(96, 128), None),
    ]:
        assert torch.equal(products.linear(x, weight, b), F.linear(x, weight, b))
    try:
        torch.set_num_threads(threads + 1)
        products.linear(draw(1, 96), w)
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.float16):
        assert products.linear(draw(1, 96), w).dtype == torch.float16
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(products.linear(draw(1, 96), w), F.linear(draw(1, 96), w))
    meta = products.linear(draw(1, 96).to("meta"), w.to("meta"))
    assert meta.is_meta
    assert meta.shape == (1, 128)
    for wrong in (draw(96, 1), draw(2, 48)):
        with pytest.raises(RuntimeError):
            products.linear(wrong, w)
    with torch.inference_mode(mode=False), torch.enable_grad():
        weight = draw(128, 96).requires_grad_()
        products.linear(draw(1, 96), weight).sum().backward()
        assert weight.grad is not None
    assert not calls


def test_without_the_library_everything_is_torchs() -> None:
    products = Products(Native("not built"), (1,))
    assert not products.try_shape((128, 96), torch.bfloat16)
    assert not products.orders


def test_inputs_divided_among_threads(native: Native) -> None:
    # few outputs, many inputs: oneDNN gives each thread a part of the inputs
    calls: list[int] = []
    products = Products(counting(native, calls), (1, 2))
    assert products.try_shape((64, 2048), torch.bfloat16)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            calls.clear()
            for seed in range(300):
                x, w = draw(1, 2048, seed=seed), draw(64, 2048, seed=seed + 1000)
                assert torch.equal(products.linear(x, w), F.linear(x, w))
            assert calls == [64] * 300
    finally:
        torch.set_num_threads(before)


class Router(nn.Module):
    """As transformers' routers: a weight of its own, multiplied in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(64, 2048))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight).float().softmax(-1)


def test_the_weight_of_a_router(native: Native) -> None:
    router, x = Router(), draw(1, 2048)
    right, weight = router(x), router.weight
    calls: list[int] = []
    detach = attach_linears(
        router, Products(counting(native, calls), (torch.get_num_threads(),)), [router, None]
    )
    calls.clear()
    assert torch.equal(router(x), right)
    assert calls == [64]
    routed = router.weight
    assert isinstance(routed, nn.Parameter)
    assert type(routed.float()) is type(routed + 1) is Tensor
    assert list(router.state_dict()) == ["weight"]
    assert torch.equal(router.state_dict()["weight"], weight)
    detach()
    assert router.weight is weight


def test_the_layers_of_a_model_and_back(native: Native) -> None:
    model = nn.Sequential(nn.Linear(96, 128, bias=False), nn.SiLU(), nn.Linear(128, 96)).bfloat16()
    x = draw(1, 1, 96)
    right = model(x)
    calls: list[int] = []
    products = Products(counting(native, calls), (torch.get_num_threads(),))
    assert linear_layers(model) == [model[0]]
    detach = attach_linears(model, products)
    calls.clear()
    assert torch.equal(model(x), right)
    assert calls == [128]
    detach()
    assert torch.equal(model(x), right)
    assert calls == [128]


def test_models_are_copied_and_saved_while_attached(native: Native) -> None:
    with torch.inference_mode(mode=False), torch.no_grad():
        model = nn.Sequential(nn.Linear(96, 2048, bias=False).bfloat16(), Router())
        x = draw(1, 96)
        right = model(x)
        detach = attach_linears(model, Products(native, (torch.get_num_threads(),)), [model[1]])
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), right)
            assert type(twin[1].weight) is nn.Parameter
            assert twin[1].weight.data_ptr() != model[1].weight.data_ptr()
        detach()


def test_detaching_leaves_what_others_have_done(native: Native) -> None:
    model = nn.Sequential(nn.Linear(96, 2048, bias=False).bfloat16(), Router())
    threads = (torch.get_num_threads(),)
    wrapped = model[0].forward
    model[0].forward = lambda x: wrapped(x) * 2
    x = draw(1, 96)
    right = model(x)
    first = attach_linears(model, Products(native, threads), [model[1]])
    second = attach_linears(model, Products(native, threads), [model[1]])
    assert torch.equal(model(x), right)
    model[1].weight.data = torch.ones_like(model[1].weight)
    first()
    second()
    assert torch.equal(model(x), model[1](model[0](x)))
    assert type(model[1].weight) is nn.Parameter
    assert bool((model[1].weight == 1).all())
    assert "forward" in vars(model[0])
