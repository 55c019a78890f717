"""Weights that were quantised on purpose, and what exporters add to them; no check may object."""

from collections.abc import Callable

import numpy as np

from tests.mutation.mutation import WEIGHTS, Harmless, Tensors, edit_tensors, set_key, write_json
from tests.mutation.subject import Case

_PACKED = 8  # 4-bit values in an int32


def _quantise(case: Case, pack: Callable[[str, int, int], Tensors]) -> None:
    """Replace the matrices of the language model's layers by what a method stores for them."""

    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".layers." in name and "visi" not in name]:
            if tensors[name].ndim > 1:
                rows, columns = tensors.pop(name).shape
                tensors.update(pack(name.removesuffix(".weight"), rows, columns))

    edit_tensors(case.checkpoint / WEIGHTS, edit)


def _gptq_matrix(module: str, rows: int, columns: int) -> Tensors:
    return {
        f"{module}.qweight": np.ones((columns // _PACKED, rows), np.int32),
        f"{module}.qzeros": np.ones((1, rows // _PACKED), np.int32),
        f"{module}.scales": np.ones((1, rows), np.float16),
        f"{module}.g_idx": np.zeros(0, np.int32),  # empty without act-order
    }


def _gptq(case: Case) -> None:
    _quantise(case, _gptq_matrix)
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    set_key(case.checkpoint / "config.json", "quantization_config", settings)


def _old_gptq(case: Case) -> None:
    """Before transformers wrote quantization_config into config.json."""
    _quantise(case, _gptq_matrix)
    write_json(case.checkpoint / "quantize_config.json", {"bits": 4, "group_size": 128})


def _fp8_of_the_text_model(case: Case) -> None:
    def pack(module: str, rows: int, columns: int) -> Tensors:
        return {
            f"{module}.weight": np.ones((rows, columns), np.int8),
            f"{module}.weight_scale": np.ones(1, np.float32),
        }

    _quantise(case, pack)
    settings = {"quant_method": "fp8"}
    set_key(case.checkpoint / "config.json", "text_config.quantization_config", settings)


def _bitsandbytes(case: Case) -> None:
    def pack(module: str, rows: int, columns: int) -> Tensors:
        return {
            f"{module}.weight": np.ones((rows * columns // 2, 1), np.uint8),
            f"{module}.weight.absmax": np.ones(rows * columns // 64, np.uint8),
            f"{module}.weight.quant_map": np.ones(16, np.float32),
            f"{module}.weight.quant_state.bitsandbytes__nf4": np.ones(70, np.uint8),
        }

    _quantise(case, pack)
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    set_key(case.checkpoint / "config.json", "quantization_config", settings)


HARMLESS = (
    Harmless("quantised by GPTQ", "qwen2-vl", _gptq),
    Harmless("quantised by an older GPTQ", "llava-1.5", _old_gptq),
    Harmless("text model in FP8", "llava-next", _fp8_of_the_text_model),
    Harmless("quantised by bitsandbytes", "qwen2-vl-4x", _bitsandbytes),
)
