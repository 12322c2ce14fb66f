"""What a processor multiplies natively."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 natively; emulation takes five times as long as float32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
