"""Quantize language models on the CPU: llama.cpp's bytes, many times sooner.

>>> import gguffast
>>> result = gguffast.quantize("model-F16.gguf", "model-Q4_K_M.gguf", "Q4_K_M")  # doctest: +SKIP
>>> result.bpw_out  # doctest: +SKIP
4.89
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguffast.ollama as ollama
    import gguffast.quants as quants
    from gguffast._core import set_target, target, targets
    from gguffast.conversion.converter import convert
    from gguffast.conversion.lora import LoraOptions, convert_lora
    from gguffast.conversion.options import ConvertOptions
    from gguffast.engine import Progress
    from gguffast.errors import (
        DataError,
        FileError,
        FormatError,
        GGUFFastError,
        HubError,
        Interrupted,
        OptionError,
        ServerError,
    )
    from gguffast.filetypes import FileType, LlamaFileType
    from gguffast.gguf import KV, GGUFFile, GGUFValueType, Metadata, TensorInfo, Tensors
    from gguffast.hub import download, upload
    from gguffast.importer import Imported, Step, create, import_model
    from gguffast.job import (
        Fallback,
        JobOptions,
        MakeOptions,
        Result,
        ShardLimits,
        TypeShare,
        WorkOptions,
    )
    from gguffast.ollama.register import Created
    from gguffast.quantizer import quantize
    from gguffast.recipe.options import Override, RecipeOptions, TensorRule
    from gguffast.sources.lora import LoraMerge
    from gguffast.splitter import SplitOptions, merge, split
    from gguffast.types import GGMLQuantizationType, TypeInfo

__version__ = "0.1.0"

__all__ = [
    "KV",
    "ConvertOptions",
    "Created",
    "DataError",
    "Fallback",
    "FileError",
    "FileType",
    "FormatError",
    "GGMLQuantizationType",
    "GGUFFastError",
    "GGUFFile",
    "GGUFValueType",
    "HubError",
    "Imported",
    "Interrupted",
    "JobOptions",
    "LlamaFileType",
    "LoraMerge",
    "LoraOptions",
    "MakeOptions",
    "Metadata",
    "OptionError",
    "Override",
    "Progress",
    "RecipeOptions",
    "Result",
    "ServerError",
    "ShardLimits",
    "SplitOptions",
    "Step",
    "TensorInfo",
    "TensorRule",
    "Tensors",
    "TypeInfo",
    "TypeShare",
    "WorkOptions",
    "__version__",
    "convert",
    "convert_lora",
    "create",
    "download",
    "import_model",
    "merge",
    "ollama",
    "quantize",
    "quants",
    "set_target",
    "split",
    "target",
    "targets",
    "upload",
]

# Loaded when first asked for, so that `gguffast --help` does not wait for NumPy.
_HOMES = {
    "ConvertOptions": "conversion.options",
    "Created": "ollama.register",
    "DataError": "errors",
    "Fallback": "job",
    "FileError": "errors",
    "FileType": "filetypes",
    "FormatError": "errors",
    "GGMLQuantizationType": "types",
    "GGUFFastError": "errors",
    "GGUFFile": "gguf",
    "GGUFValueType": "gguf",
    "HubError": "errors",
    "Imported": "importer",
    "Interrupted": "errors",
    "JobOptions": "job",
    "KV": "gguf",
    "LlamaFileType": "filetypes",
    "LoraMerge": "sources.lora",
    "LoraOptions": "conversion.lora",
    "MakeOptions": "job",
    "Metadata": "gguf",
    "OptionError": "errors",
    "Override": "recipe.options",
    "Progress": "engine",
    "RecipeOptions": "recipe.options",
    "Result": "job",
    "ServerError": "errors",
    "ShardLimits": "job",
    "SplitOptions": "splitter",
    "Step": "importer",
    "TensorInfo": "gguf",
    "TensorRule": "recipe.options",
    "Tensors": "gguf",
    "TypeInfo": "types",
    "TypeShare": "job",
    "WorkOptions": "job",
    "convert": "conversion.converter",
    "convert_lora": "conversion.lora",
    "create": "importer",
    "download": "hub",
    "import_model": "importer",
    "merge": "splitter",
    "quantize": "quantizer",
    "set_target": "_core",
    "split": "splitter",
    "target": "_core",
    "targets": "_core",
    "upload": "hub",
}


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        if name in ("ollama", "quants"):
            return importlib.import_module(f"gguffast.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'gguffast' has no attribute '{name}'")
        value = getattr(importlib.import_module(f"gguffast.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
