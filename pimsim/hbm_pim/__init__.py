"""HBM-PIM: units at the banks of a stack that multiply and add, for attention and other products with vectors."""

from pimsim.hbm_pim.attention import Attention, AttentionResult, attention, attention_commands
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.products import Work, gemm, gemv, kv_append, weights_floor_us

__all__ = [
    "Attention",
    "AttentionResult",
    "Device",
    "Work",
    "attention",
    "attention_commands",
    "gemm",
    "gemv",
    "kv_append",
    "weights_floor_us",
]
