"""Which tensor becomes which type: the mixtures, the fallbacks and the user's overrides.

The decisions are those of llama.cpp (``src/llama-quant.cpp``), whose files gguffast reproduces byte for byte.
Nothing here reads a weight: names, shapes and metadata decide.

`options` is the user's say, `model` what metadata and tensors' names tell, `mixtures` the types that a file
type mixes, `choose` the type of each tensor, and `metadata` what the output says about itself.
"""
