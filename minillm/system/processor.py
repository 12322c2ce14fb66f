"""Matrix formats that a processor multiplies natively."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices natively; emulation takes five times as long."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
