"""From a Hugging Face checkpoint to GGUF.

`converter` is the way through; `hparams` and `metadata` read what a checkpoint says about itself,
`architectures` holds the model families, one file each in the language of `architecture`, `tensors` applies
their rules, and `vocab` reads tokenizers.
"""
