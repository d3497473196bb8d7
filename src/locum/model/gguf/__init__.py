"""GGUF, llama.cpp's file format, as a source of a model: config, tensors, tokenizer. No weights are read."""

from locum.model.gguf.find import gguf_files
from locum.model.gguf.ggml import BLOCKS, READABLE
from locum.model.gguf.reader import TextArray, read_gguf_metadata
from locum.model.gguf.source import GgufModel, gguf_generation, read_gguf

__all__ = [
    "BLOCKS",
    "READABLE",
    "GgufModel",
    "TextArray",
    "gguf_files",
    "gguf_generation",
    "read_gguf",
    "read_gguf_metadata",
]
