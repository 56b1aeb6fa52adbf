"""The Triton kernels, in Triton's interpreter on the CPU; and compiled for GPUs that are not here.

Both happen in processes of their own: the interpreter is chosen when the kernels are imported, and the compiler cannot
read functions that the type checks of these tests have wrapped.
"""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ascl_lightning.models.similarity.attention import (
    AttentionSettings,
    attend_both_ways,
    attend_over_regions,
    attend_over_words,
)
from ascl_lightning.models.similarity.tokens import token_set

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROOT = Path(__file__).parents[3]
NUM_HEADS = 2
ATTENTION = AttentionSettings(NUM_HEADS, image_to_text_scale=4.0, text_to_image_scale=9.0)
# which of (similarity, shares, cosines) over words and over regions the gradient comes from
LOSSES = {"all": range(6), "similarities": (0, 3), "shares": (1, 4), "cosines": (2, 5), "one": (3,)}
CASES = {
    "float32": (torch.float32, 20, 1.0),
    "wide": (torch.float32, 150, 1.0),
    "long words": (torch.float32, 40, 5.0),
    "float16": (torch.float16, 20, 1.0),
}


def make_items(num_items: int, num_tokens: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit vectors, one of them zero, and a mask with gaps; the last item has no token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_items, num_tokens, width, generator=generator, dtype=torch.float64)
    tokens = tokens / tokens.norm(dim=-1, keepdim=True)
    mask = torch.rand(num_items, num_tokens, generator=generator) < 0.7
    mask[:, 0] = True
    tokens[0, 0] = 0
    mask[-1] = False
    return tokens, mask


def attend(case: str, dtype: torch.dtype, device: str = "cpu") -> dict[str, list[Tensor]]:
    """Outputs, and gradients of tokens for each loss, in float64 on the CPU. Tokens are rounded to the case's dtype."""
    rounding, width, length = CASES[case]
    regions, region_mask = make_items(3, 5, width, seed=0)
    words, word_mask = make_items(4, 7, width, seed=1)
    leaves = [tokens.to(rounding).to(device, dtype).requires_grad_() for tokens in (regions, length * words)]
    images = token_set(leaves[0], region_mask.to(device), NUM_HEADS)
    texts = token_set(leaves[1], word_mask.to(device), NUM_HEADS)
    over_words, over_regions = attend_both_ways(images, texts, ATTENTION, shares=True, cosines=True)
    outputs = [*over_words, *over_regions]
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(device) for output in outputs]
    results = {
        "outputs": [output.detach().double().cpu() for output in outputs],
        "one": [
            attend_over_words(images, texts, ATTENTION).similarity.detach().double().cpu(),
            attend_over_regions(images, texts, ATTENTION).similarity.detach().double().cpu(),
        ],
    }
    for loss, chosen in LOSSES.items():
        total = sum((outputs[number].double() * directions[number]).sum() for number in chosen)
        gradients = torch.autograd.grad(total, leaves, retain_graph=True)
        results[f"gradients of {loss}"] = [gradient.double().cpu() for gradient in gradients]
    return results


def save_kernel_results(path: str, device: str = "cpu") -> None:
    """Runs in a separate process; on the CPU with the interpreter."""
    from ascl_lightning.models.similarity import attention_kernel

    sizes = []
    original = attention_kernel.attend_pairs
    attention_kernel.attend_pairs = lambda *items, **kw: sizes.append(len(items[0].bias)) or original(*items, **kw)
    torch.save({case: attend(case, dtype, device) for case, (dtype, *_) in CASES.items()}, path)
    # not counting the trial run, which has two images
    assert sizes.count(3) == 3 * len(CASES), "the kernels must be what ran"


def run_alone(call: str, **environment: str) -> str:
    """Output of a function of this file, called in a separate process."""
    command = [sys.executable, "-c", f"from tests.models.similarity.test_attention_kernel import *; {call}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def kernel_results(tmp_path_factory) -> dict[str, dict[str, list[Tensor]]]:
    path = tmp_path_factory.mktemp("kernel") / "results.pt"
    run_alone(f"save_kernel_results({str(path)!r})", TRITON_INTERPRET="1")
    return torch.load(path, weights_only=True)


# float16 tokens multiply exactly in float32; their gradients are rounded to 11 bits (the interpreter has no bfloat16)
TOLERANCE = {"float16": 2e-3}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("result", ["outputs", "one", *(f"gradients of {loss}" for loss in LOSSES)])
def test_the_kernels_equal_float64_in_torch(kernel_results, case: str, result: str) -> None:
    expected = attend(case, torch.float64)[result]
    tolerance = TOLERANCE.get(case, 1e-5) if result.startswith("gradients") else 1e-5
    for ours, theirs in zip(kernel_results[case][result], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernels_equal_float64_on_a_gpu(tmp_path) -> None:
    path = tmp_path / "results.pt"
    run_alone(f"save_kernel_results({str(path)!r}, 'cuda')")
    results = torch.load(path, weights_only=True)
    for case in CASES:
        for name, expected in attend(case, torch.float64).items():
            tolerance = TOLERANCE.get(case, 1e-5) if name.startswith("gradients") else 1e-5
            for ours, theirs in zip(results[case][name], expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_a_failing_kernel_falls_back_to_torch_with_one_warning(monkeypatch) -> None:
    from ascl_lightning.models.similarity import attention_kernel

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(attention_kernel, "attend_pairs", broken)
    attention_kernel._try_kernels.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = attend("float32", torch.float32)["outputs"]
        attend("float32", torch.float32)
    attention_kernel._try_kernels.cache_clear()
    assert [str(warning.message) for warning in caught if "attention kernels" in str(warning.message)] == [
        "the attention kernels do not work on cpu (RuntimeError: no compiler); PyTorch computes the same, more slowly. "
        "ASCL_KERNELS=0 turns them off without this warning"
    ]
    for mine, exact in zip(ours, attend("float32", torch.float64)["outputs"], strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-5)


def test_the_kernels_can_be_turned_off(monkeypatch) -> None:
    from ascl_lightning.models.similarity import attention_kernel

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("ASCL_KERNELS", "0")
    monkeypatch.setattr(attention_kernel, "attend_pairs", lambda *_, **__: pytest.fail("turned off"))
    assert all(output.isfinite().all() for output in attend("float32", torch.float32)["outputs"])


def test_unsupported_items_fall_back_to_torch(monkeypatch) -> None:
    from ascl_lightning.models.similarity.attention_kernel import kernel_fits

    def items(num_tokens: int, dtype: torch.dtype):
        return token_set(torch.ones(2, num_tokens, 8, dtype=dtype), torch.ones(2, num_tokens).bool(), NUM_HEADS)

    small = items(3, torch.float32)
    assert not kernel_fits(small, small), "on the CPU"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernel_fits(small, items(128, torch.float32))
    assert not kernel_fits(small, items(129, torch.float32))
    assert not kernel_fits(items(3, torch.float64), items(3, torch.float64))
    assert not kernel_fits(small, items(3, torch.bfloat16))


SHARED_KIB = {80: 163, 90: 227}
"""Shared memory per block on an A100 and an H100, by compute capability."""


def print_shared_memory() -> None:
    """Compiles both kernels for each capability; prints it with the bytes of shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ascl_lightning.models.similarity import attention_kernel

    constants = {"HEADS": 8, "SHARES": True, "PRECISION": "tf32x3", "BLOCK_X": 64, "BLOCK_Y": 32}
    for function in (attention_kernel._forward_kernel, attention_kernel._backward_kernel):
        names = function.arg_names
        known = dict.fromkeys(constants, "constexpr")
        known |= {name: "i32" for name in names if name.startswith("num") or name.endswith("_len")}
        known |= {name: "fp32" for name in names if name.startswith("scale")}
        signature = {name: known.get(name, "*fp32") for name in names}
        for capability in SHARED_KIB:
            source = ASTSource(fn=function, signature=signature, constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert "ptx" in compiled.asm
            print(capability, compiled.metadata.shared)


@pytest.mark.slow
def test_the_kernels_compile_for_gpus(tmp_path) -> None:
    """36 regions, 32 words and 8 heads fit into the shared memory of an A100 and an H100."""
    printed = run_alone("print_shared_memory()", TRITON_CACHE_DIR=str(tmp_path))
    sizes = [tuple(map(int, line.split())) for line in printed.splitlines()]
    assert sorted(capability for capability, _ in sizes) == [80, 80, 90, 90]
    assert all(size <= SHARED_KIB[capability] * 1024 for capability, size in sizes)
