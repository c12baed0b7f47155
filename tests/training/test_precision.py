from __future__ import annotations

import torch
import torch.nn.functional as functional

from percepta.training.precision import forward_precision, product_precision


def test_attention_runs_in_float32_and_products_in_bfloat16() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 8).bfloat16()
    layer = torch.nn.Linear(4, 4)
    with forward_precision("cpu", "bfloat16-mixed"):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16
        mixed = functional.scaled_dot_product_attention(query, key, value=value, is_causal=True)
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, exact.bfloat16())


def test_a_float_mask_is_taken_along() -> None:
    query = torch.randn(1, 1, 3, 8).bfloat16()
    mask = torch.zeros(3, 3).bfloat16()
    with forward_precision("cpu", "bfloat16-mixed"):
        assert functional.scaled_dot_product_attention(query, query, query, attn_mask=mask).dtype == torch.bfloat16


def test_switches_are_put_back() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with product_precision("bfloat16-products"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with product_precision("float32"):
        assert torch.backends.mkldnn.matmul.fp32_precision == before
