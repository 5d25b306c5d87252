"""What must be found in each real network and exporter sample: checked by hand, and against onnx alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from build_models import Array, find
from onnx import numpy_helper

import wwonnx as ww
from wwonnx.graph.walk import Walk
from wwonnx.layer import WeightLayer


@dataclass(frozen=True)
class Row:
    """A layer: its name, its type, outputs x inputs, how many matrices, and its marks."""

    name: str
    layer_type: str
    shape: tuple[int, int]
    rf: int
    folded: bool = False
    depthwise: bool = False
    uses: int = 1


def resnet(blocks: int) -> list[Row]:
    rows = [Row("conv1", "conv2d", (16, 3), 9)]
    inputs = 16
    for stage, outputs in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            rows.append(Row(f"layer{stage}.{block}.conv1", "conv2d", (outputs, inputs), 9))
            rows.append(Row(f"layer{stage}.{block}.conv2", "conv2d", (outputs, outputs), 9))
            inputs = outputs
    return [*rows, Row("linear", "dense", (10, 64), 1)]


def parsed(table: str) -> list[Row]:
    return [parse(line) for line in table.strip().splitlines()]


def parse(line: str) -> Row:
    name, layer_type, shape, rf, *marks = line.split()
    outputs, inputs = map(int, shape.split("x"))
    uses = next((int(mark.removeprefix("uses=")) for mark in marks if mark.startswith("uses=")), 1)
    return Row(name, layer_type, (outputs, inputs), int(rf), "folded" in marks, "depthwise" in marks, uses)


def ultraface(folded: bool) -> list[Row]:
    """One network twice; where BatchNormalization was folded, the exporter gave the weight a number for a name."""
    rows: list[Row] = []
    for line in ULTRAFACE.strip().splitlines():
        name, shape, rf, number, *marks = line.split()
        changed = folded and number != "-"
        row = parse(f"{f'Conv_{number}' if changed else name} conv2d {shape} {rf} {' '.join(marks)}")
        rows.append(Row(row.name, row.layer_type, row.shape, row.rf, changed, row.depthwise))
    return rows


ULTRAFACE = """
    base_net.0.0 16x3 9 487
    base_net.1.0 16x1 9 491 depthwise
    base_net.1.3 32x16 1 495
    base_net.2.0 32x1 9 499 depthwise
    base_net.2.3 32x32 1 503
    base_net.3.0 32x1 9 507 depthwise
    base_net.3.3 32x32 1 511
    base_net.4.0 32x1 9 515 depthwise
    base_net.4.3 64x32 1 519
    base_net.5.0 64x1 9 523 depthwise
    base_net.5.3 64x64 1 527
    base_net.6.0 64x1 9 531 depthwise
    base_net.6.3 64x64 1 535
    base_net.7.branch0.0.conv 8x64 1 539
    base_net.7.branch0.1.conv 16x8 9 543
    base_net.7.branch0.2.conv 16x16 9 547
    base_net.7.branch1.0.conv 8x64 1 551
    base_net.7.branch1.1.conv 16x8 9 555
    base_net.7.branch1.2.conv 16x16 9 559
    base_net.7.branch2.0.conv 8x64 1 563
    base_net.7.branch2.1.conv 12x8 9 567
    base_net.7.branch2.2.conv 16x12 9 571
    base_net.7.branch2.3.conv 16x16 9 575
    base_net.7.ConvLinear.conv 64x48 1 579
    base_net.7.shortcut.conv 64x64 1 583
    classification_headers.0.0 64x1 9 - depthwise
    classification_headers.0.2 6x64 1 -
    regression_headers.0.0 64x1 9 - depthwise
    regression_headers.0.2 12x64 1 -
    base_net.8.0 64x1 9 587 depthwise
    base_net.8.3 128x64 1 591
    base_net.9.0 128x1 9 595 depthwise
    base_net.9.3 128x128 1 599
    base_net.10.0 128x1 9 603 depthwise
    base_net.10.3 128x128 1 607
    classification_headers.1.0 128x1 9 - depthwise
    classification_headers.1.2 4x128 1 -
    regression_headers.1.0 128x1 9 - depthwise
    regression_headers.1.2 8x128 1 -
    base_net.11.0 128x1 9 611 depthwise
    base_net.11.3 256x128 1 615
    base_net.12.0 256x1 9 619 depthwise
    base_net.12.3 256x256 1 623
    classification_headers.2.0 256x1 9 - depthwise
    classification_headers.2.2 4x256 1 -
    regression_headers.2.0 256x1 9 - depthwise
    regression_headers.2.2 8x256 1 -
    extras.0.0 64x256 1 -
    extras.0.2.0 64x1 9 - depthwise
    extras.0.2.2 256x64 1 -
    classification_headers.3 6x256 9 -
    regression_headers.3 12x256 9 -
"""

TABLES = {
    "keras_tensorflow_att_export": """
        katt_1.emb_1 embedding 30x16 1
        katt_1.mha_1.value_1 dense 16x16 1
        katt_1.mha_1.query_1 dense 16x16 1
        katt_1.mha_1.key_1 dense 16x16 1
        katt_1.mha_1.attention_output_1 dense 16x16 1
        katt_1.ff1_1 dense 32x16 1
        katt_1.eins_1 dense 9x32 1
    """,
    "keras_tensorflow_cnn_export": """
        kcnn_1.d3d_1 dense 5x4 1
        kcnn_1.c1_1 conv2d 7x4 3
        kcnn_1.c2_1 conv2d 8x3 9 folded
        Conv__79 conv2d 16x1 9 depthwise
        kcnn_1.sep_1 conv2d 16x1 9 depthwise
        kcnn_1.sep_1_2 conv2d 6x16 1
        kcnn_1.ct_1 conv_transpose 5x6 4
        kcnn_1.d1_1 dense 16x12 1
        kcnn_1.d2_1 dense 3x16 1
    """,
    "keras_tensorflow_rnn_export": """
        krnn_1.srnn_1.while.simple_rnn_cell_1 dense 4x4 1
        krnn_1.srnn_1.while.simple_rnn_cell_1_2 dense 4x4 1
        W__288 recurrent 12x4 1
        W__288_reverse recurrent 12x4 1
        R__289 recurrent 12x3 1
        R__289_reverse recurrent 12x3 1
        W0__225 recurrent 20x4 1
        R0__226 recurrent 20x5 1
        krnn_1.gru_1.while.gru_cell_1 dense 15x5 1
        krnn_1.gru_1.while.gru_cell_1_2 dense 15x5 1
    """,
    "keras_tensorflow_seqcnn_export": """
        kseqcnn_1.ca_1 conv2d 6x3 9
        kseqcnn_1.db_1 dense 2x216 1
    """,
    "keras_tf_bn_default": """
        bn_1.ca_1 conv2d 8x4 9 folded
        bn_1.cb_1 conv2d 8x8 9
        bn_1.dw_1 conv2d 8x1 9 depthwise
        bn_1.ct_1 conv_transpose 6x8 4
        bn_1.da_1 dense 6x6 1
        bn_1.db_1 dense 3x6 1
    """,
    "keras_tf_bn_nofold": """
        bn_1.ca_1 conv2d 8x4 9 folded
        bn_1.cb_1 conv2d 8x8 9
        bn_1.dw_1 conv2d 8x1 9 depthwise
        bn_1.ct_1 conv_transpose 6x8 4
        bn_1.da_1 dense 6x6 1
        bn_1.db_1 dense 3x6 1
    """,
    "keras_tf_groups_gelu": """
        bn_1.ca_1 conv2d 8x4 9 folded
        bn_1.dw_1 conv2d 8x1 9 depthwise
        bn_1.ct_1 conv_transpose 6x8 4
        bn_1.da_1 dense 6x6 1
        bn_1.db_1 dense 3x6 1
    """,
    "keras_torch_att_direct_optF": """
        embedding embedding 30x16 1
        einsum dense 16x16 1
        einsum_1 dense 16x16 1
        einsum_2 dense 16x16 1
        einsum_3 dense 16x16 1
        matmul dense 32x16 1
        einsum_4 dense 9x32 1
    """,
    "keras_torch_cnn_export": """
        _wrapped conv2d 8x3 9
        _wrapped_2 conv2d 16x1 9 depthwise
        _wrapped_3 conv2d 16x1 9 depthwise
        _wrapped_4 conv2d 6x16 1
        _wrapped_5 conv2d 6x3 9
        _wrapped_6 conv1d 7x4 3
        _wrapped_7 conv_transpose 5x6 4
        _wrapped_8 dense 16x12 1
        _wrapped_9 dense 5x4 1
        _wrapped_10 dense 3x16 1
    """,
    "nb4_asym": """
        emb embedding 64x96 1
        W dense 48x200 1
    """,
    "nb4_gather": """
        emb embedding 64x96 1
        W dense 48x200 1
    """,
    "nb4_qdq_sym": """
        emb embedding 64x96 1
        W dense 48x200 1
    """,
    "nb_float": """
        emb embedding 64x96 1
        W dense 48x200 1
    """,
    "q_dynamic": """
        emb embedding 40x16 1
        node_MatMul_5_quant dense 24x16 1
        c conv2d 8x3 9
        node_lstm__2_quant.W recurrent 48x24 1
        node_lstm__2_quant.R recurrent 48x12 1
        ct conv_transpose 4x8 4
        f1 dense 64x196 1
        f2 dense 10x64 1
    """,
    "q_float": """
        c conv2d 8x3 9
        ct conv_transpose 4x8 4
        emb embedding 40x16 1
        p dense 24x16 1
        lstm.weight_ih_l0 recurrent 48x24 1
        lstm.weight_hh_l0 recurrent 48x12 1
        f1 dense 64x196 1
        f2 dense 10x64 1
    """,
    "q_static_qdq": """
        emb embedding 40x16 1
        c conv2d 8x3 9
        p dense 24x16 1
        ct conv_transpose 4x8 4
        f1 dense 64x196 1
        lstm.weight_ih_l0 recurrent 48x24 1
        lstm.weight_hh_l0 recurrent 48x12 1
        f2 dense 10x64 1
    """,
    "q_static_qop": """
        emb embedding 40x16 1
        node_MatMul_5_quant dense 24x16 1
        c conv2d 8x3 9
        ct conv_transpose 4x8 4
        lstm.weight_ih_l0 recurrent 48x24 1
        lstm.weight_hh_l0 recurrent 48x12 1
        f1 dense 64x196 1
        f2 dense 10x64 1
    """,
    "torch_cnn_dyn_optFalse": """
        c1 conv1d 8x3 3
        c2 conv2d 8x4 9
        dw conv2d 8x1 9 depthwise
        c3 conv3d 4x1 27
        ct conv_transpose 6x8 4
        fc1 dense 16x48 1
        fc2 dense 10x16 1
        fc3 dense 7x5 1
    """,
    "torch_cnn_dynamo": """
        c1 conv1d 8x3 3 folded
        c2 conv2d 8x4 9 folded
        dw conv2d 8x1 9 depthwise
        c3 conv3d 4x1 27 folded
        ct conv_transpose 6x8 4
        fc1 dense 16x48 1
        fc2 dense 10x16 1
        fc3 dense 7x5 1
    """,
    "torch_cnn_ts": """
        c1 conv1d 8x3 3 folded
        c2 conv2d 8x4 9 folded
        dw conv2d 8x1 9 depthwise
        c3 conv3d 4x1 27 folded
        ct conv_transpose 6x8 4
        fc1 dense 16x48 1
        fc2 dense 10x16 1
        fc3 dense 7x5 1
    """,
    "torch_cnn_ts_modfn": """
        c1 conv1d 8x3 3
        c2 conv2d 8x4 9
        dw conv2d 8x1 9 depthwise
        c3 conv3d 4x1 27
        ct conv_transpose 6x8 4
        fc1 dense 16x48 1
        fc2 dense 10x16 1
        fc3 dense 7x5 1
    """,
    "torch_enc_dynamo": """
        enc.layers.0.self_attn.in_proj_weight dense 48x16 1 uses=2
        enc.layers.0.self_attn.out_proj dense 16x16 1 uses=2
        enc.layers.0.linear1 dense 32x16 1 uses=2
        enc.layers.0.linear2 dense 16x32 1 uses=2
        mha.in_proj_weight dense 48x16 1
        mha.out_proj dense 16x16 1
        mha_kv.q_proj_weight dense 16x16 1
        mha_kv.k_proj_weight dense 16x12 1
        mha_kv.v_proj_weight dense 16x12 1
        mha_kv.out_proj dense 16x16 1
        head dense 5x16 1
    """,
    "torch_enc_ts": """
        enc.layers.0.self_attn dense 48x16 1 uses=2
        enc.layers.0.self_attn.out_proj dense 16x16 1 uses=2
        enc.layers.0.linear1 dense 32x16 1 uses=2
        enc.layers.0.linear2 dense 16x32 1 uses=2
        mha dense 48x16 1
        mha.out_proj dense 16x16 1
        mha_kv dense 16x16 1
        mha_kv_2 dense 16x12 1
        mha_kv_3 dense 16x12 1
        mha_kv.out_proj dense 16x16 1
        head dense 5x16 1
    """,
    "torch_lora_fact_dynamo": """
        l1.base dense 10x12 1
        l1.A dense 3x12 1
        l1.B dense 10x3 1
        blk.1 dense 4x10 1
    """,
    "torch_lora_merged_ts": """
        l1.base dense 10x12 1
        blk.1 dense 4x10 1
    """,
    "torch_lstmp_dynamo": """
        lstmp.weight_ih_l0 recurrent 12x6 1
        lstmp.weight_hh_l0 recurrent 12x3 1
    """,
    "torch_realistic_dynamo": """
        head embedding 300x128 1 uses=2
        enc.self_attn.in_proj_weight dense 384x128 1
        enc.self_attn.out_proj dense 128x128 1
        enc.linear1 dense 256x128 1
        enc.linear2 dense 128x256 1
        base dense 128x128 1
        shared dense 128x128 1 uses=2
        l dense 256x128 1
        lstm.weight_ih_l0 recurrent 384x128 1
        lstm.weight_hh_l0 recurrent 384x96 1
        gru.weight_ih_l0 recurrent 288x128 1
        gru.weight_hh_l0 recurrent 288x96 1
        conv conv2d 64x64 9 folded
    """,
    "torch_rnn_dynamo": """
        lstm.weight_ih_l0 recurrent 20x6 1
        lstm.weight_ih_l0_reverse recurrent 20x6 1
        lstm.weight_hh_l0 recurrent 20x5 1
        lstm.weight_hh_l0_reverse recurrent 20x5 1
        lstm.weight_ih_l1 recurrent 20x10 1
        lstm.weight_ih_l1_reverse recurrent 20x10 1
        lstm.weight_hh_l1 recurrent 20x5 1
        lstm.weight_hh_l1_reverse recurrent 20x5 1
        gru.weight_ih_l0 recurrent 15x6 1
        gru.weight_hh_l0 recurrent 15x5 1
        rnn.weight_ih_l0 dense 5x6 1
        rnn.weight_hh_l0 dense 5x5 1 uses=3
    """,
    "torch_rnn_ts": """
        lstm.W recurrent 20x6 1
        lstm.W_reverse recurrent 20x6 1
        lstm.R recurrent 20x5 1
        lstm.R_reverse recurrent 20x5 1
        lstm.W_2 recurrent 20x10 1
        lstm.W_reverse_2 recurrent 20x10 1
        lstm.R_2 recurrent 20x5 1
        lstm.R_reverse_2 recurrent 20x5 1
        gru.W recurrent 15x6 1
        gru.R recurrent 15x5 1
        rnn.W recurrent 5x6 1
        rnn.R recurrent 5x5 1
    """,
    "torch_tied_ts": """
        emb embedding 50x8 1 uses=2
        lin dense 8x8 1
    """,
    "dtln_1": """
        lstm_4_W recurrent 512x257 1
        lstm_4_R recurrent 512x128 1
        lstm_5_W recurrent 512x128 1
        lstm_5_R recurrent 512x128 1
        dense_2 dense 257x128 1
    """,
    "gtcrn": """
        MatMul_26 dense 64x192 1 uses=2
        Conv_75 conv2d 16x9 5 folded
        Conv_77 conv2d 16x8 5 folded
        Conv_139 conv2d 16x24 1 folded
        Conv_147 conv2d 16x1 9 folded depthwise
        Conv_149 conv2d 8x16 1 folded
        GRU_153.W recurrent 48x8 1
        GRU_153.R recurrent 48x16 1
        MatMul_156 dense 8x16 1
        Conv_329 conv2d 16x24 1 folded
        Conv_337 conv2d 16x1 9 folded depthwise
        Conv_339 conv2d 8x16 1 folded
        GRU_343.W recurrent 48x8 1
        GRU_343.R recurrent 48x16 1
        MatMul_346 dense 8x16 1
        Conv_519 conv2d 16x24 1 folded
        Conv_527 conv2d 16x1 9 folded depthwise
        Conv_529 conv2d 8x16 1 folded
        GRU_533.W recurrent 48x8 1
        GRU_533.R recurrent 48x16 1
        MatMul_536 dense 8x16 1
        GRU_700.W recurrent 12x8 1
        GRU_700.W_reverse recurrent 12x8 1
        GRU_700.R recurrent 12x4 1
        GRU_700.R_reverse recurrent 12x4 1
        GRU_706.W recurrent 12x8 1
        GRU_706.W_reverse recurrent 12x8 1
        GRU_706.R recurrent 12x4 1
        GRU_706.R_reverse recurrent 12x4 1
        MatMul_712 dense 16x16 1
        GRU_780.W recurrent 24x8 1
        GRU_780.R recurrent 24x8 1
        GRU_784.W recurrent 24x8 1
        GRU_784.R recurrent 24x8 1
        MatMul_789 dense 16x16 1
        GRU_877.W recurrent 12x8 1
        GRU_877.W_reverse recurrent 12x8 1
        GRU_877.R recurrent 12x4 1
        GRU_877.R_reverse recurrent 12x4 1
        GRU_883.W recurrent 12x8 1
        GRU_883.W_reverse recurrent 12x8 1
        GRU_883.R recurrent 12x4 1
        GRU_883.R_reverse recurrent 12x4 1
        MatMul_889 dense 16x16 1
        GRU_957.W recurrent 24x8 1
        GRU_957.R recurrent 24x8 1
        GRU_961.W recurrent 24x8 1
        GRU_961.R recurrent 24x8 1
        MatMul_966 dense 16x16 1
        decoder.de_convs.0.point_conv1 conv_transpose 16x24 1
        decoder.de_convs.0.depth_conv.ConvTranspose2d conv_transpose 1x16 9 depthwise
        decoder.de_convs.0.point_conv2 conv_transpose 8x16 1
        GRU_1111.W recurrent 48x8 1
        GRU_1111.R recurrent 48x16 1
        MatMul_1114 dense 8x16 1
        decoder.de_convs.1.point_conv1 conv_transpose 16x24 1
        decoder.de_convs.1.depth_conv.ConvTranspose2d conv_transpose 1x16 9 depthwise
        decoder.de_convs.1.point_conv2 conv_transpose 8x16 1
        GRU_1348.W recurrent 48x8 1
        GRU_1348.R recurrent 48x16 1
        MatMul_1351 dense 8x16 1
        decoder.de_convs.2.point_conv1 conv_transpose 16x24 1
        decoder.de_convs.2.depth_conv.ConvTranspose2d conv_transpose 1x16 9 depthwise
        decoder.de_convs.2.point_conv2 conv_transpose 8x16 1
        GRU_1585.W recurrent 48x8 1
        GRU_1585.R recurrent 48x16 1
        MatMul_1588 dense 8x16 1
        decoder.de_convs.3.conv conv_transpose 8x16 5
        decoder.de_convs.4.conv conv_transpose 2x16 5
    """,
    "mnist_mlp": """
        fc1 dense 20x25 1
        fc2 dense 15x20 1
        fc3 dense 10x15 1
    """,
    "mnist_mlp_int8": """
        fc1 dense 20x25 1
        fc2 dense 15x20 1
        fc3 dense 10x15 1
    """,
    "silero_vad": """
        If_0_else_branch__Inline_0__stft.forward_basis_buffer conv1d 130x1 128
        If_0_else_branch__Inline_0__encoder.0.reparam_conv conv1d 128x65 3
        If_0_else_branch__Inline_0__encoder.1.reparam_conv conv1d 64x128 3
        If_0_else_branch__Inline_0__encoder.2.reparam_conv conv1d 64x64 3
        If_0_else_branch__Inline_0__encoder.3.reparam_conv conv1d 128x64 3
        If_0_else_branch__Inline_0__decoder.rnn.weight_ih recurrent 512x128 1 uses=2
        If_0_else_branch__Inline_0__decoder.rnn.weight_hh recurrent 512x128 1 uses=2
        If_0_else_branch__Inline_0__decoder.decoder.2 conv1d 1x128 1
        If_0_then_branch__Inline_0__stft.forward_basis_buffer conv1d 258x1 256
        If_0_then_branch__Inline_0__encoder.0.reparam_conv conv1d 128x129 3
        If_0_then_branch__Inline_0__encoder.1.reparam_conv conv1d 64x128 3
        If_0_then_branch__Inline_0__encoder.2.reparam_conv conv1d 64x64 3
        If_0_then_branch__Inline_0__encoder.3.reparam_conv conv1d 128x64 3
        If_0_then_branch__Inline_0__decoder.rnn.weight_ih recurrent 512x128 1 uses=2
        If_0_then_branch__Inline_0__decoder.rnn.weight_hh recurrent 512x128 1 uses=2
        If_0_then_branch__Inline_0__decoder.decoder.2 conv1d 1x128 1
    """,
    "silero_vad_16k_op15": """
        model.stft.forward_basis_buffer conv1d 258x1 256
        model.encoder.0.reparam_conv conv1d 128x129 3
        model.encoder.1.reparam_conv conv1d 64x128 3
        model.encoder.2.reparam_conv conv1d 64x64 3
        model.encoder.3.reparam_conv conv1d 128x64 3
        model.decoder.rnn.weight_ih recurrent 512x128 1 uses=2
        model.decoder.rnn.weight_hh recurrent 512x128 1 uses=2
        model.decoder.decoder.2 conv1d 1x128 1
    """,
}

EXPECTED = {name: parsed(table) for name, table in TABLES.items()} | {
    "resnet20": resnet(3),
    "resnet32": resnet(5),
    "ultraface_rfb320": ultraface(folded=False),
    "ultraface_rfb320_bn_folded": ultraface(folded=True),
}

#: Weights that are no layers, by the name of their tensor, and words of the reason.
SKIPPED = {
    "keras_tensorflow_cnn_export": {"kcnn_1/c2g_1/747:0": "StatefulPartitionedCall"},
    "keras_tf_groups_gelu": {"bn_1/cb_1/2848:0": "StatefulPartitionedCall"},
}

#: Why other constants are no layers, in words of the inventory.
REASONS = [
    ("dtln_1", "lstm_4_B", "LSTM"),
    ("gtcrn", "onnx::PRelu_3422", "PRelu"),
    ("gtcrn", "dpgrnn1.intra_ln.weight", "Mul"),
    ("gtcrn", "onnx::Add_3415", "int64"),
    ("gtcrn", "onnx::Expand_570", "int64"),
    ("keras_tensorflow_att_export", "katt_1/ln_1/Reshape:0", "Mul"),
    ("keras_tensorflow_cnn_export", "kcnn_1/c2g_1/747:0", "StatefulPartitionedCall"),
    ("keras_tensorflow_cnn_export", "const_fold_opt__101", "Add"),
    ("keras_tf_bn_default", "bn_1/bnb_1/batchnorm/mul:0", "Mul"),
    ("keras_tf_groups_gelu", "bn_1/cb_1/2848:0", "does not know"),
    ("nb4_asym", "W_scales", "scale"),
    ("nb4_gather", "emb_zero_points", "zero point"),
    ("nb4_qdq_sym", "W_DQ_scales", "scale"),
    ("torch_rnn_ts", "/gru/Constant_output_0", "Expand"),
    ("torch_rnn_ts", "onnx::GRU_564", "GRU"),
    ("ultraface_rfb320", "465", "Mul"),
]

FILES = sorted(EXPECTED)
each_file = pytest.mark.parametrize("name", FILES)


def path_of(shared: Path, name: str) -> Path:
    (path,) = (shared / "models").glob(f"*/{name}.onnx")
    return path


@cache
def found_in(path: Path) -> Walk:
    return find(path)


@cache
def named(path: Path) -> dict[str, WeightLayer]:
    return {layer.name: layer for layer in found_in(path).layers}


def of(shared: Path, name: str) -> dict[str, WeightLayer]:
    return named(path_of(shared, name))


def test_every_file_has_a_table(shared: Path) -> None:
    assert sorted(path.stem for path in (shared / "models").glob("*/*.onnx")) == FILES


@each_file
def test_layers(shared: Path, name: str) -> None:
    found = [
        Row(
            layer.name,
            layer.layer_type.label,
            layer.matrix_shape[1:],
            layer.rf,
            layer.folded,
            layer.depthwise,
            len(layer.uses),
        )
        for layer in of(shared, name).values()
    ]
    assert found == EXPECTED[name]
    for layer, row in zip(of(shared, name).values(), EXPECTED[name], strict=True):
        assert (max(row.shape), min(row.shape)) == (layer.N, layer.M)


@each_file
def test_what_is_left_out(shared: Path, name: str) -> None:
    found = {skip.longname: skip.reason for skip in found_in(path_of(shared, name)).skipped}
    expected = SKIPPED.get(name, {})
    assert found.keys() == expected.keys()
    for tensor, words in expected.items():
        assert words in found[tensor]


# Against onnx alone


@dataclass(frozen=True)
class Stored:
    """A constant as the file has it."""

    name: str
    tensor: onnx.TensorProto


def constants(graph: onnx.GraphProto) -> Iterator[Stored]:
    yield from (Stored(tensor.name, tensor) for tensor in graph.initializer)
    yield from (Stored(tensor.values.name, tensor.values) for tensor in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield Stored(node.output[0], attribute.t)
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from constants(attribute.g)
            for inner in attribute.graphs:
                yield from constants(inner)


@cache
def stored_in(path: Path) -> list[Stored]:
    model = onnx.load(path)
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    return list(constants(model.graph))


@each_file
def test_the_inventory_is_complete(shared: Path, name: str) -> None:
    path = path_of(shared, name)
    table = ww.WeightWatcher(path).inventory()
    listed = Counter((row.name, tuple(row.shape)) for row in table.itertuples())
    stored = Counter((each.name, tuple(each.tensor.dims)) for each in stored_in(path) if len(each.tensor.dims) >= 2)
    assert listed == stored
    for row in table.itertuples():
        assert row.layer or row.reason, row.name
    assert table.attrs["parameters"] >= table.attrs["parameters_analyzed"]
    layers = {layer for cell in table["layer"] for layer in cell.split(", ") if layer}
    assert layers == set(of(shared, name))


@pytest.mark.parametrize(("name", "tensor", "words"), REASONS)
def test_reasons(shared: Path, name: str, tensor: str, words: str) -> None:
    table = ww.WeightWatcher(path_of(shared, name)).inventory()
    (reason,) = table.loc[table["name"] == tensor, "reason"]
    assert words in reason
    if words == "StatefulPartitionedCall":
        assert "no linear map" not in reason


def raw_matrices(layer: WeightLayer, array: Array) -> Array:
    """The stored tensor as a stack of matrices, either way round."""
    op_type = layer.uses[0].op_type
    if "Conv" in op_type:
        return np.moveaxis(array.reshape(*array.shape[:2], -1), 2, 0)
    if op_type in ("LSTM", "GRU", "RNN"):
        array = array.reshape(-1, *array.shape[-2:])  # without its directions where the file puts them on later
        return array[int("_reverse" in layer.name)][None]
    if op_type == "Einsum" and array.ndim == 3:
        return (
            array.reshape(1, array.shape[0], -1) if array.shape[0] == layer.M else array.reshape(1, -1, array.shape[2])
        )
    return array[None]


def squares(matrices: Array) -> Array:
    """Squared singular values of each matrix, whichever way round it is."""
    wide = np.asarray(matrices, dtype=np.float64)
    wide = wide.transpose(0, 2, 1) if wide.shape[1] > wide.shape[2] else wide
    return np.sort(np.linalg.eigvalsh(wide @ wide.transpose(0, 2, 1)).reshape(-1))


@each_file
def test_spectra_are_those_of_the_stored_tensors(shared: Path, name: str) -> None:
    """However a weight is sliced, joined or transposed on its way, nothing of it is lost."""
    stored = {each.name: each.tensor for each in stored_in(path_of(shared, name))}
    for layer in of(shared, name).values():
        tensor = stored[layer.longname]
        if tensor.data_type != onnx.TensorProto.FLOAT or layer.name in ("l1.base", "base"):  # codes; LoRA is merged in
            continue
        found, expected = squares(layer.matrices()), squares(raw_matrices(layer, numpy_helper.to_array(tensor)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9 * expected.max())


def test_merged_lora(shared: Path) -> None:
    path = path_of(shared, "torch_lora_merged_ts")
    stored = {each.name: numpy_helper.to_array(each.tensor) for each in stored_in(path)}
    scale = next(value for key, value in stored.items() if key.startswith("/l1/Constant"))
    merged = stored["l1.base.weight"] + scale * (stored["l1.B"] @ stored["l1.A"])
    np.testing.assert_allclose(of(shared, path.stem)["l1.base"].matrices()[0], merged, rtol=1e-5, atol=1e-6)


def test_merged_lora_of_real_size(shared: Path) -> None:
    path = path_of(shared, "torch_realistic_dynamo")
    stored = {each.name: numpy_helper.to_array(each.tensor) for each in stored_in(path)}
    merged = stored["base.weight"] + stored["matmul"]
    np.testing.assert_allclose(of(shared, path.stem)["base"].matrices()[0], merged, rtol=1e-5, atol=1e-6)


# One network in several files


def esd(shared: Path, name: str, layer: str) -> Array:
    return ww.WeightWatcher(path_of(shared, name)).get_ESD(layer=layer)


def test_silero_in_two_files(shared: Path) -> None:
    """The 16 kHz network is the then-branch of the one and all of the other."""
    branch = [name for name in of(shared, "silero_vad") if "then_branch" in name]
    alone = list(of(shared, "silero_vad_16k_op15"))
    assert len(branch) == len(alone) == 8
    for one, other in zip(branch, alone, strict=True):
        assert one.split("__")[-1] == other.removeprefix("model.")
        first, second = esd(shared, "silero_vad", one), esd(shared, "silero_vad_16k_op15", other)
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-9 * second.max())


def test_the_other_branch_is_another_network(shared: Path) -> None:
    names = [f"If_0_{branch}_branch__Inline_0__encoder.1.reparam_conv" for branch in ("then", "else")]
    first, second = (esd(shared, "silero_vad", name) for name in names)
    assert first.shape == second.shape
    assert not np.allclose(first, second)


def test_folding_changes_spectra(shared: Path) -> None:
    plain, folded = of(shared, "ultraface_rfb320"), of(shared, "ultraface_rfb320_bn_folded")
    assert sum(layer.folded for layer in folded.values()) == 35
    for one, other in zip(plain.values(), folded.values(), strict=True):
        same = np.array_equal(one.matrices(), other.matrices())
        assert same is not other.folded


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("torch_cnn_dynamo", {"c1", "c2", "c3"}),
        ("torch_cnn_ts", {"c1", "c2", "c3"}),
        ("torch_cnn_dyn_optFalse", set()),
        ("torch_cnn_ts_modfn", set()),
        ("resnet20", set()),
        ("resnet32", set()),
        ("keras_tf_bn_default", {"bn_1.ca_1"}),
        ("keras_tf_bn_nofold", {"bn_1.ca_1"}),  # by tf2onnx's transpose optimizer, with no sign in the weight's name
    ],
)
def test_folded(shared: Path, name: str, folded: set[str]) -> None:
    assert {layer.name for layer in of(shared, name).values() if layer.folded} == folded


def test_one_network_from_four_exports(shared: Path) -> None:
    exports = ["torch_cnn_dyn_optFalse", "torch_cnn_ts_modfn", "torch_cnn_dynamo", "torch_cnn_ts"]
    names = ["c1", "c2", "dw", "c3", "ct", "fc1", "fc2", "fc3"]
    assert all(list(of(shared, export)) == names for export in exports)
    for first, second in (exports[:2], exports[2:]):
        for name in names:
            one, other = of(shared, first)[name], of(shared, second)[name]
            np.testing.assert_allclose(one.matrices(), other.matrices(), rtol=1e-6, atol=1e-7)


def test_keras_folded_both_ways_alike(shared: Path) -> None:
    default, nofold = of(shared, "keras_tf_bn_default"), of(shared, "keras_tf_bn_nofold")
    for name, layer in default.items():
        np.testing.assert_array_equal(layer.matrices(), nofold[name].matrices())


def test_tied_embedding_and_head(shared: Path) -> None:
    for name, layer in (("torch_tied_ts", "emb"), ("torch_realistic_dynamo", "head")):
        tied = of(shared, name)[layer]
        assert [use.op_type for use in tied.uses] == ["Gather", "MatMul"]
        assert tied.layer_type.label == "embedding"
        assert tied.layer_types == ww.LAYER_TYPE.EMBEDDING | ww.LAYER_TYPE.DENSE


# Quantised networks against the float network that they were made from


@dataclass(frozen=True)
class Quantised:
    """A layer of a quantised file, its float original, and the tensor that holds its scale; "" where it is float."""

    file: str
    layer: str
    original: str
    scale: str = ""
    scale_axis: int = 0


#: Axes of the scales are of the matrices, (outputs, inputs).
QUANTISED = [
    Quantised("q_dynamic", "emb", "emb", "emb.weight_scale"),
    Quantised("q_dynamic", "node_MatMul_5_quant", "p", "val_4_scale"),
    Quantised("q_dynamic", "c", "c", "c.weight_scale"),
    Quantised("q_dynamic", "node_lstm__2_quant.W", "lstm.weight_ih_l0", "val_47_scale"),
    Quantised("q_dynamic", "node_lstm__2_quant.R", "lstm.weight_hh_l0", "val_48_scale"),
    Quantised("q_dynamic", "ct", "ct"),
    Quantised("q_dynamic", "f1", "f1", "f1.weight_scale"),
    Quantised("q_dynamic", "f2", "f2", "f2.weight_scale"),
    Quantised("q_static_qdq", "emb", "emb", "emb.weight_scale"),
    Quantised("q_static_qdq", "p", "p", "val_4_scale"),
    Quantised("q_static_qdq", "c", "c", "c.weight_scale"),
    Quantised("q_static_qdq", "ct", "ct", "ct.weight_scale"),
    Quantised("q_static_qdq", "lstm.weight_ih_l0", "lstm.weight_ih_l0"),
    Quantised("q_static_qdq", "lstm.weight_hh_l0", "lstm.weight_hh_l0"),
    Quantised("q_static_qdq", "f1", "f1", "f1.weight_scale"),
    Quantised("q_static_qdq", "f2", "f2", "f2.weight_scale"),
    Quantised("q_static_qop", "emb", "emb", "emb.weight_scale"),
    Quantised("q_static_qop", "node_MatMul_5_quant", "p", "val_4_scale"),
    Quantised("q_static_qop", "c", "c", "c.weight_scale"),
    Quantised("q_static_qop", "ct", "ct"),
    Quantised("q_static_qop", "lstm.weight_ih_l0", "lstm.weight_ih_l0"),
    Quantised("q_static_qop", "lstm.weight_hh_l0", "lstm.weight_hh_l0"),
    Quantised("q_static_qop", "f1", "f1", "f1.weight_scale"),
    Quantised("q_static_qop", "f2", "f2", "f2.weight_scale"),
    Quantised("nb4_asym", "emb", "emb"),
    Quantised("nb4_asym", "W", "W", "W_scales"),
    Quantised("nb4_gather", "emb", "emb", "emb_scales"),
    Quantised("nb4_gather", "W", "W", "W_scales"),
    Quantised("nb4_qdq_sym", "emb", "emb"),
    Quantised("nb4_qdq_sym", "W", "W", "W_DQ_scales"),
    Quantised("mnist_mlp_int8", "fc1", "fc1", "onnx::MatMul_13_scale"),
    Quantised("mnist_mlp_int8", "fc2", "fc2", "onnx::MatMul_14_scale"),
    Quantised("mnist_mlp_int8", "fc3", "fc3", "onnx::MatMul_15_scale"),
]


def float_file(name: str) -> str:
    return {"q": "q_float", "nb4": "nb_float", "mnist": "mnist_mlp"}[name.split("_", maxsplit=1)[0]]


def test_every_layer_of_the_quantised_files_is_compared(shared: Path) -> None:
    for name in {case.file for case in QUANTISED}:
        assert {case.layer for case in QUANTISED if case.file == name} == set(of(shared, name))
        assert {case.original for case in QUANTISED if case.file == name} == set(of(shared, float_file(name)))


def step_of(scale: Array, matrices: Array) -> Array:
    """A quantisation step per element of (matrices, outputs, inputs)."""
    _, outputs, inputs = matrices.shape
    if scale.size == 1:
        return np.broadcast_to(np.abs(scale).reshape(()), matrices.shape)
    if scale.ndim == 1:
        return np.broadcast_to(np.abs(scale).reshape(1, outputs, 1), matrices.shape)
    if scale.shape[1] == outputs:  # blocks first
        scale = scale.T
    return np.repeat(np.abs(scale), 32, axis=1)[None, :, :inputs]


@pytest.mark.parametrize("case", QUANTISED, ids=lambda case: f"{case.file}-{case.layer}")
def test_quantised_weights(shared: Path, case: Quantised) -> None:
    quantised = of(shared, case.file)[case.layer]
    original = of(shared, float_file(case.file))[case.original]
    assert quantised.layer_type == original.layer_type
    found, true = (np.asarray(layer.matrices(), dtype=np.float64) for layer in (quantised, original))
    if not case.scale:
        np.testing.assert_array_equal(found, true)
        return
    stored = {each.name: each.tensor for each in stored_in(path_of(shared, case.file))}
    step = step_of(numpy_helper.to_array(stored[case.scale]), found)
    in_range = true
    if case.file == "nb4_qdq_sym":  # 4 bits from -8 to 7 around zero: what lies beyond was clipped
        in_range = np.where(np.abs(found) > 6.5 * step, found, true)
        assert (np.abs(found - true) <= 1.01 * step).all()
    assert (np.abs(found - in_range) <= 0.501 * step).all()
    assert np.abs(found - true).max() > 0

    # Weyl: no singular value moves further than the largest of the difference.
    bound = np.linalg.svd(found - true, compute_uv=False).max()
    first, second = (np.linalg.svd(matrices, compute_uv=False) for matrices in (found, true))
    assert np.abs(first - second).max() <= bound * (1 + 1e-9)
    watched = np.sqrt(esd(shared, case.file, case.layer))
    np.testing.assert_allclose(watched, np.sort(first.reshape(-1)), rtol=1e-4, atol=1e-4 * watched.max())


# What the runtime refuses


def test_a_truncated_lstm_is_read_as_it_is(shared: Path) -> None:
    """LSTM(proj_size) as dynamo exports it: too few rows for its gates; nothing to be found out but its shape."""
    found = of(shared, "torch_lstmp_dynamo")
    assert math.prod(found["lstmp.weight_ih_l0"].shape) == 72
    for layer in found.values():
        assert np.isfinite(layer.matrices()).all()
