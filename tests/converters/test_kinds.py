"""What each tensor of a checkpoint is: by hand-made names and shapes, and against the modules of real architectures."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from build_models import Array, find, gaussian, layers
from hypothesis import given, settings
from hypothesis import strategies as st

from wwonnx.converters import kinds
from wwonnx.converters.weights_graph import Convolution, Dense, Module, build


def tensors(**arrays: Array) -> dict[str, ir.TensorProtocol]:
    return {name: ir.Tensor(array, name=name) for name, array in arrays.items()}


def told(shapes: dict[str, tuple[int, ...]], **given: Any) -> list[Module]:
    every = {name: gaussian(*shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}
    found = kinds.modules(tensors(**every), **given)
    model = build(found)
    assert set(model.graph.initializers) == set(shapes), "each tensor is in the model"
    return found


CASES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "linear": ({"fc.weight": (7, 5), "fc.bias": (7,)}, "Dense"),
    "linear_without_bias": ({"fc.weight": (7, 5)}, "Dense"),
    "linear_at_the_top": ({"weight": (7, 5), "bias": (7,)}, "Dense"),
    "conv1d_of_gpt2": ({"h.0.mlp.c_fc.weight": (5, 20), "h.0.mlp.c_fc.bias": (20,)}, "Dense inputs first"),
    "table": ({"model.embed_tokens.weight": (30, 8)}, "Embedding"),
    "table_in_a_list": ({"embeddings.0.weight": (30, 8)}, "Embedding"),
    "table_of_t5": ({"shared.weight": (30, 8)}, "Embedding"),
    "no_table": ({"moe.shared_expert_gate.weight": (1, 8)}, "Dense"),
    "projected_embedding": ({"embedding_projection.weight": (8, 6)}, "Dense"),
    "time_embedding": ({"time_embed.0.weight": (8, 6), "time_embed.0.bias": (8,)}, "Dense"),
    "output_head": ({"embed_out.weight": (30, 8)}, "Dense"),
    "layer_norm": ({"norm.weight": (7,), "norm.bias": (7,)}, "Scaling"),
    "layer_norm_of_images": ({"norm.weight": (3, 4, 4), "norm.bias": (3, 4, 4)}, "Scaling"),
    "conv1d": ({"conv.weight": (7, 5, 3)}, "Convolution"),
    "long_kernel": ({"pos_conv_embed.conv.weight": (12, 4, 160)}, "Convolution"),
    "conv2d": ({"features.0.weight": (7, 5, 3, 3), "features.0.bias": (7,)}, "Convolution"),
    "conv3d": ({"patch_embed.proj.weight": (7, 5, 2, 3, 3)}, "Convolution"),
    "first_of_one_channel": ({"conv1.weight": (7, 1, 3, 3)}, "Convolution"),
    "named_depthwise": ({"blocks.0.dwconv.weight": (7, 1, 3, 3)}, "Convolution x7"),
    "transposed": ({"up.weight": (7, 5, 2, 2), "up.bias": (5,)}, "Convolution transposed"),
    "named_transposed": ({"deconv1.weight": (7, 5, 2, 2)}, "Convolution transposed"),
    "named_but_not_transposed": ({"deconv1.weight": (7, 5, 2, 2), "deconv1.bias": (7,)}, "Convolution"),
    "experts": ({"mlp.experts.gate_up_proj": (4, 6, 10)}, "Dense inputs first"),
    "experts_of_modules": ({"experts.input_linear.weight": (4, 6, 10)}, "Dense"),
    "packed": ({"attn.in_proj_weight": (12, 4), "attn.in_proj_bias": (12,)}, "Dense (4, 4, 4)"),
    "unpacked": ({"attn.q_proj_weight": (4, 6)}, "Dense"),
    "matrix": ({"matrix": (6, 4)}, "Dense inputs first"),
    "positions": ({"pos_embed": (1, 50, 8)}, "Embedding"),
    "relative_positions": ({"attn.relative_position_bias_table": (49, 8)}, "Embedding"),
    "token": ({"cls_token": (1, 1, 8)}, "Scaling"),
    "mask": ({"attn.bias": (1, 1, 16, 16)}, "Scaling"),
    "state_matrix": ({"mixer.A_log": (64, 16)}, "Scaling"),
    "scalar": ({"logit_scale": ()}, "Scaling"),
    "lstm": (
        {"rnn.weight_ih_l0": (12, 5), "rnn.weight_hh_l0": (12, 3), "rnn.bias_ih_l0": (12,), "rnn.bias_hh_l0": (12,)},
        "Recurrent LSTM",
    ),
    "gru": ({"rnn.weight_ih_l1_reverse": (9, 5), "rnn.weight_hh_l1_reverse": (9, 3)}, "Recurrent GRU reverse"),
    "rnn_cell": ({"weight_ih": (3, 5), "weight_hh": (3, 3)}, "Recurrent RNN"),
    "flax_dense": ({"h/0/fc/kernel": (5, 7), "h/0/fc/bias": (7,)}, "Dense inputs first"),
    "flax_conv": ({"conv.kernel": (3, 3, 5, 7), "conv.bias": (7,)}, "Convolution"),
    "flax_table": ({"embed.embedding": (30, 8)}, "Embedding"),
    "flax_query": ({"attn.query.kernel": (8, 2, 4), "attn.query.bias": (2, 4)}, "Dense inputs first"),
}


def words(module: Module) -> str:
    said = type(module).__name__
    if isinstance(module, Dense):
        said += " inputs first" * module.inputs_first + (f" {module.packed}" if module.packed else "")
    elif isinstance(module, Convolution):
        said += f" x{module.groups}" * (module.groups > 1) + " transposed" * module.transposed
    elif hasattr(module, "cell"):
        said += f" {module.cell}" + " reverse" * module.reverse
    return said


@pytest.mark.parametrize("case", CASES)
def test_kinds(case: str) -> None:
    shapes, expected = CASES[case]
    assert words(told(shapes)[0]) == expected


def test_a_batch_normalisation() -> None:
    vectors = ("weight", "bias", "running_mean", "running_var")
    arrays = {f"bn.{name}": np.ones(6, np.float32) for name in vectors} | {"bn.num_batches_tracked": np.array(3)}
    assert [words(one) for one in kinds.modules(tensors(**arrays))] == ["BatchNormalization", "Stored"]


def test_square_conv1d_follows_its_siblings() -> None:
    square = {"attn.c_proj.weight": (8, 8), "attn.c_proj.bias": (8,)}
    sibling = {"attn.c_attn.weight": (8, 24), "attn.c_attn.bias": (24,)}
    assert words(told(square)[0]) == "Dense"
    assert words(told(square, conv1d=True)[0]) == "Dense inputs first"
    assert words(told(square | sibling)[0]) == "Dense inputs first"


def test_depthwise_after_as_many_outputs() -> None:
    found = told({"a.weight": (6, 1, 3, 3), "b.weight": (6, 1, 3, 3), "c.weight": (8, 6, 1, 1)})
    assert [words(one) for one in found] == ["Convolution", "Convolution x6", "Convolution"]


def test_a_tied_table_is_told_by_its_head() -> None:
    table = ir.Tensor(gaussian(30, 8), name="encoder.weight")
    bias = ir.Tensor(gaussian(30), name="decoder.bias")
    found = kinds.modules({"encoder.weight": table, "decoder.weight": table, "decoder.bias": bias})
    assert [words(one) for one in found] == ["Embedding", "Dense"]
    assert list(build(found).graph.initializers) == ["encoder.weight", "decoder.bias"]


def test_a_projected_lstm_is_three_maps() -> None:
    shapes = {"rnn.weight_ih_l0": (24, 5), "rnn.weight_hh_l0": (24, 3), "rnn.weight_hr_l0": (3, 6)}
    assert [words(one) for one in told(shapes)] == ["Dense inputs first"] * 3


def test_packed_parts_that_are_known() -> None:
    (found,) = told({"attn.qkv_proj.weight": (16, 8)}, packed={"attn.qkv_proj.weight": (8, 4, 4)})
    assert words(found) == "Dense (8, 4, 4)"


def test_integers_are_kept() -> None:
    arrays = {"fc.qweight": np.ones((4, 4), np.int32), "fc.weight": np.ones((4, 4), np.int8)}
    model = build(kinds.modules(tensors(**arrays)))
    assert set(model.graph.initializers) == set(arrays)
    assert not find(model).layers


# Weights in parts


def effective(**arrays: Array) -> tuple[Array, str]:
    model = build(kinds.modules(tensors(**arrays)))
    (found,) = layers(model).values()
    return found.read().reshape(found.shape), found.name


@pytest.mark.parametrize(
    ("length", "direction"),
    [("w.weight_g", "w.weight_v"), ("w.parametrizations.weight.original0", "w.parametrizations.weight.original1")],
)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(length: str, direction: str, dim: int | None) -> None:
    v = gaussian(6, 4, 3)
    shape = () if dim is None else tuple(n if axis == dim else 1 for axis, n in enumerate(v.shape))
    g = gaussian(*shape)
    axes = tuple(axis for axis in range(3) if axis != dim)
    values, name = effective(**{length: g, direction: v})
    assert np.allclose(values, g * v / np.sqrt((v**2).sum(axes, keepdims=True)), atol=1e-5)
    assert name == "w"


@pytest.mark.parametrize(
    "names",
    [
        ("w.weight_orig", "w.weight_u", "w.weight_v"),
        ("w.parametrizations.weight.original", "w.parametrizations.weight.0._u", "w.parametrizations.weight.0._v"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_spectral_norm(names: tuple[str, str, str], axis: int) -> None:
    stored = gaussian(6, 4, 3)
    matrix = np.moveaxis(stored, axis, 0).reshape(stored.shape[axis], -1)
    u, v = gaussian(matrix.shape[0]), gaussian(matrix.shape[1], seed=1)
    values, name = effective(**dict(zip(names, (stored, u, v), strict=True)))
    assert np.allclose(values, stored / (u @ matrix @ v), rtol=1e-4)
    assert name == "w"


def test_pruning_masks() -> None:
    stored, mask = gaussian(6, 4), (gaussian(6, 4, seed=1) > 0).astype(np.float32)
    values, _ = effective(**{"w.weight_orig": stored, "w.weight_mask": mask})
    assert np.array_equal(values, stored * mask)


BLOCKS = [
    ("fc.weight_scale_inv", (2, 3)),
    ("fc.weight_scale", ()),
    ("fc.weight_scale", (200, 1)),
    ("fc.weight_scale", (200,)),
]


@pytest.mark.parametrize(("name", "sizes"), BLOCKS)
def test_float8_with_its_scale(name: str, sizes: tuple[int, ...]) -> None:
    """One scale, one per output, one per block of 128 x 128 with the last ones cut short."""
    codes = (gaussian(200, 300) * 50).astype(ml_dtypes.float8_e4m3fn)
    scale = np.abs(gaussian(*sizes))
    spread = np.kron(scale, np.ones((128, 128)))[:200, :300] if len(sizes) == 2 and sizes[0] == 2 else scale
    spread = scale[:, None] if sizes == (200,) else spread
    values, _ = effective(**{"fc.weight": codes, name: scale})
    assert np.allclose(values, codes.astype(np.float32) * spread, rtol=1e-6)


def test_int8_with_its_scale() -> None:
    codes, scale = np.arange(-12, 12, dtype=np.int8).reshape(4, 6), np.abs(gaussian(4))
    values, _ = effective(**{"fc.SCB": scale, "fc.weight": codes})
    assert np.allclose(values, codes * scale[:, None] / 127)


OWN = ["weight", "bias", "b", "kernel", "SCB", "running_mean", "running_var", "bias_ih_l0"]
PARTS = ["weight_g", "weight_v", "weight_orig", "weight_u", "weight_mask", "weight_ih_l0", "weight_hh_l0"]
NAMES = st.builds("{}{}".format, st.sampled_from(["", "a.", "a/b/"]), st.sampled_from(OWN + PARTS))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=6).map(tuple), max_size=6))
def test_any_checkpoint_is_told(shapes: dict[str, tuple[int, ...]]) -> None:
    told(shapes)


# Architectures, each module's class being the truth


def architectures() -> list[str]:
    return ["gpt2", "t5", "whisper", "swin", "wav2vec2", "deepseek", "opt"]


@pytest.fixture(scope="module")
def hugging_face() -> dict[str, Any]:
    t = pytest.importorskip("transformers")
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    words = {"vocab_size": 100}
    return {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=4, **words)),
        "t5": lambda: t.T5Model(t.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **words)),
        "whisper": lambda: t.WhisperModel(
            t.WhisperConfig(
                **{
                    f"{side}_{what}": n
                    for side in ("encoder", "decoder")
                    for what, n in (("layers", 1), ("ffn_dim", 48))
                },
                **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
                **{f"{token}_token_id": 1 for token in ("pad", "bos", "eos", "decoder_start")},
                d_model=32,
                **words,
            )
        ),
        "swin": lambda: t.SwinModel(t.SwinConfig(embed_dim=24, depths=[1, 1], num_heads=[2, 4])),
        "wav2vec2": lambda: t.Wav2Vec2Model(
            t.Wav2Vec2Config(
                **common,
                **words,
                conv_dim=(16,) * 7,
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=4,
            )
        ),
        "deepseek": lambda: t.DeepseekV3Model(
            t.DeepseekV3Config(
                **common,
                **words,
                num_key_value_heads=4,
                n_routed_experts=4,
                n_group=1,
                topk_group=1,
                num_experts_per_tok=2,
                q_lora_rank=16,
                kv_lora_rank=8,
                moe_intermediate_size=16,
                first_k_dense_replace=1,
            )
        ),
        "opt": lambda: t.OPTModel(
            t.OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, **words)
        ),
    }


@pytest.mark.filterwarnings("ignore")  # the architectures' own
@pytest.mark.parametrize("architecture", architectures())
def test_architectures(architecture: str, hugging_face: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    module = hugging_face[architecture]()
    every: dict[str, ir.TensorProtocol] = {}
    own: dict[int, ir.TensorProtocol] = {}
    for name, values in module.state_dict().items():
        every[name] = own.setdefault(values.data_ptr(), ir.Tensor(values.numpy(), name=name))
    found = {one.name: one for one in reversed(kinds.modules(every))}
    expected = {
        torch.nn.Linear: "Dense",
        torch.nn.Embedding: "Embedding",
        torch.nn.Conv1d: "Convolution",
        torch.nn.Conv2d: "Convolution",
        torch.nn.LayerNorm: "Scaling",
    }
    checked = 0
    for name, part in module.named_modules():
        kind = next((kind for known, kind in expected.items() if isinstance(part, known)), "")
        if type(part).__name__ == "Conv1D":
            assert words(found[name]) == "Dense inputs first"
        elif kind and getattr(part, "weight", None) is not None:
            assert words(found[name]) == kind, name
        else:
            continue
        checked += 1
    assert checked > 8
