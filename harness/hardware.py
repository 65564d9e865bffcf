"""What this machine can do: where to compute and in which arithmetic. Nothing of this enters a trial's identity."""

import torch


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def arithmetic(wanted: str, on: str) -> torch.dtype:
    """The dtype for `train.precision` (auto, bf16 or fp32): auto is bf16 where the hardware multiplies it natively."""
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if on == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        can = torch.cpu.get_capabilities()
        native = any(can.get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))
    return torch.bfloat16 if native else torch.float32


def compile_pays(train_gflops: float, on: str) -> bool:
    """Is torch.compile worth its start-up on this training compute (1e9 multiply-adds)?

    On CUDA always. On a CPU with AMX its half a minute comes back on long runs, because matmuls are then so cheap that
    elementwise passes dominate. On other CPUs matmuls dominate and it gains nothing (measured, AVX-512 bf16: 102
    against 104 Gflop/s at width 128, patch 2).
    """
    if on == "cuda":
        return True
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and train_gflops > 10_000
