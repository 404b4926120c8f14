"""ONNX files: every rule by itself, whole networks, and what a faulty converter would leave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from ccnet_jax.common.errors import UserError
from ccnet_jax.tools.exporting.formats import Disagrees
from ccnet_jax.tools.exporting.program import ImageShape
from tests.tools.exporting.programs import SMALL, small_program

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx: pip install -r requirements-export.txt")
onnxruntime = pytest.importorskip("onnxruntime", reason="and onnxruntime")

from ccnet_jax.tools.exporting import onnx as onnx_format  # noqa: E402
from ccnet_jax.tools.exporting import onnx_graph, onnx_rules  # noqa: E402

# shape checks know no open sides
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_shape_checks")]
X = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).standard_normal((3, 3, 3, 4)).astype(np.float32)
CHANNELS = np.arange(1.0, 5.0, dtype=np.float32)
conv = functools.partial(
    lax.conv_general_dilated,
    rhs=KERNEL,
    window_strides=(2, 1),
    padding=((1, 2), (0, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)
pooled = functools.partial(
    lax.reduce_window,
    init_value=-np.inf,
    computation=lax.max,
    window_dimensions=(1, 3, 3, 1),
    window_strides=(1, 2, 2, 1),
    padding=((0, 0), (1, 2), (1, 1), (0, 0)),
)


def looped(x):
    return lax.scan(lambda c, _: (jnp.tanh(c) * 2, None), x, None, length=3)[0]


FUNCTIONS = {
    "pointwise": lambda x: (
        jnp.exp(-jnp.abs(x)) + jnp.sqrt(x * x) / (1 + lax.integer_pow(x, 2)) - lax.rsqrt(x * x + 1)
    ),
    "more pointwise": lambda x: (
        jnp.log(jnp.clip(x, 0.1, 1.0)) + jnp.floor(x) + jax.nn.sigmoid(x) + jnp.minimum(x, 0.2)
    ),
    "comparisons": lambda x: jnp.where((x > 0.5) | ~(x != x) & (x < -0.5) & jnp.isfinite(x), x, 1 - x),
    "not finite": lambda x: jnp.where(jnp.isfinite(jnp.where(x > 1, jnp.inf, x)), x, -1.0),
    "relu": lambda x: jnp.where(x <= 0, 0, x) + jnp.maximum(x, 0) + jnp.where(x >= 0, x, 0.2 * x),
    "no relu": lambda x: jnp.where(x <= 0, 0, 1 - x) + jnp.where(x >= 1, x, 0.2 * x),
    "repeated": lambda x: x * jnp.arange(3.0) + jnp.ones((5, 1, 1)) * x[:1, :1],
    "repeated and summed": lambda x: (x + jnp.broadcast_to(jnp.arange(6.0)[:, None], (6, 3))).sum((1, 3)),
    "only repeated": lambda x: jnp.broadcast_to(x[:, :1], x.shape),
    "shapes": lambda x: jnp.pad(
        x.reshape(2, 30, 3)[:, 1::2, ::-1].transpose(2, 0, 1), ((0, 0), (1, 2), (0, 1))
    ),
    "parts": lambda x: jnp.concatenate(jnp.split(x, [1, 3], 2)[::-1], 1 + 1),
    "reductions": lambda x: x.max((1, 2)) + x.min((1, 2)) + jnp.squeeze(x.argmax(-1)[:, :1, :3], 1),
    "eye": lambda x: jnp.where(jnp.eye(6, dtype=bool)[:, :3], -jnp.inf, x).max(2),
    "convolution": conv,
    "folded convolution": lambda x: (conv(x) - CHANNELS) * jnp.sqrt(CHANNELS) + CHANNELS,
    "convolution used twice": lambda x: (y := conv(x)) * CHANNELS + y,
    "max pooling": pooled,
    "batched product": lambda x: jnp.einsum("byxc,bzxc->bxyz", x, x),
    "product with weights": lambda x: x @ np.ones((3, 2), np.float32),
    "product over two axes": lambda x: jnp.einsum("byxc,bijc->byxij", x, x[:, :2]),
    "whole numbers": lambda x: (jnp.clip(x * 50, 0, 255).astype(jnp.uint8).astype(jnp.int32) * 2 - 3).astype(
        jnp.float32
    ),
    "loop": looped,
}


def run_in_onnxruntime(call, x, shape=None):
    """What a function gives in onnxruntime; `shape` where sides are open."""
    like = jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype)
    model = onnx_graph.onnx_model(lambda x: {"y": call(x)}, {"x": like})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": x})
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_jax_computes_onnxruntime_computes(name):
    found, wanted = run_in_onnxruntime(FUNCTIONS[name], X), np.asarray(FUNCTIONS[name](X))
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.reshape(-1, x.shape[2] * 3),
        lambda x: jnp.zeros((x.shape[1] // 2, jax.core.max_dim(x.shape[2] - 1, 2))) + x.shape[1] % 2,
        lambda x: x * jnp.expand_dims(jnp.eye(x.shape[1], x.shape[2]), (0, 3)),
    ],
    ids=["reshape", "sides that follow", "eye"],
)
def test_sides_may_be_open(call):
    shape = export.symbolic_shape("b, h, w, 3", constraints=["h >= 2", "w >= 2"])
    np.testing.assert_allclose(run_in_onnxruntime(call, X, shape), call(X), atol=1e-6)


def test_norms_go_into_the_convolutions_and_equal_constants_are_one(tmp_path):
    program = small_program()
    onnx_format.write(program, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("Conv") == 18
    assert ops.count("LeakyRelu") == 3
    assert ops.count("Relu") + ops.count("Max") >= 9
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)
    assert [x.name for x in model.graph.output] == ["classes", "probabilities"]
    assert (tmp_path / "a.onnx").stat().st_size < 1.2e6


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (ImageShape(), {"flavour": "official"}),
        (ImageShape(height=33, width=49), {"context": "psp"}),
        (SMALL, {"context": "aspp"}),
        (SMALL, {"context": "nonlocal"}),
        (SMALL, {"context": "nonlocal_block", "depth": 50}),
    ],
    ids=["rcca", "psp", "aspp", "nonlocal", "nonlocal_block"],
)
def test_networks_give_the_same_logits(shape, settings, tmp_path):
    program = small_program(shape, **settings)
    onnx_format.write(program, tmp_path / "a.onnx")
    assert len(list(onnx_format.compare(program, tmp_path / "a.onnx"))) == len(shape.examples())


def without_padding(graph, inputs, params, aval):
    """Max pooling whose padding is forgotten, and made up for by what lies behind the last window."""
    padding = ((0, 0), (0, 2), (0, 2), (0, 0))
    return onnx_rules.max_pool(graph, inputs, params | {"padding": padding}, aval)


@pytest.mark.parametrize(
    ("primitive", "faulty"),
    [("reduce_window_max", without_padding), ("select_n", lambda graph, inputs, params, aval: inputs[1])],
    ids=["padding of max pooling", "the mask of a pixel itself"],
)
def test_faults_of_a_converter_are_found(primitive, faulty, tmp_path, monkeypatch):
    program = small_program()
    monkeypatch.setitem(onnx_rules.RULES, primitive, faulty)
    onnx_format.write(program, tmp_path / "a.onnx")
    with pytest.raises(Disagrees, match=r"logits differ by .* of the largest from the network's on images"):
        list(onnx_format.compare(program, tmp_path / "a.onnx"))


def changed(path, change):
    """A file whose model was changed."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def last_node(graph, op):
    return [node for node in graph.node if node.op_type == op][-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: last_node(graph, "Where").input.reverse(), "onnx.checker refuses the file"),
        (lambda graph: setattr(last_node(graph, "ArgMax").attribute[0], "i", 2), "onnx.*(refuses|cannot)"),
        (lambda graph: setattr(last_node(graph, "ArgMax"), "op_type", "ArgMin"), "classes are not those"),
        (lambda graph: setattr(last_node(graph, "Exp"), "op_type", "Abs"), "probabilities are not those"),
    ],
)
def test_files_that_were_changed_are_found(change, message, tmp_path):
    program = small_program()
    onnx_format.write(program, tmp_path / "a.onnx")
    changed(tmp_path / "a.onnx", change)
    with pytest.raises(Disagrees, match=message):
        list(onnx_format.compare(program, tmp_path / "a.onnx"))


def test_an_operation_without_a_rule_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(onnx_rules.RULES, "reduce_window_max")
    with pytest.raises(
        UserError, match=r"not written in ONNX \(reduce_window_max\); export it with --to stable"
    ):
        onnx_format.write(small_program(), tmp_path / "a.onnx")


def test_a_loop_through_an_array_is_refused():
    with pytest.raises(onnx_graph.Unknown, match="a loop through"):
        run_in_onnxruntime(lambda x: lax.scan(lambda c, row: (c + row, None), x[0], x)[0], X)
