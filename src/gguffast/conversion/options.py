"""The options of a conversion, beside those of every job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

from gguffast.job import JobOptions, ShardLimits
from gguffast.recipe.options import Option
from gguffast.sources.lora import LoraMerge, parse_merge


class ConvertOptions(JobOptions, ShardLimits, total=False):
    """What can be said about a conversion."""

    model_name: Annotated[
        str | None,
        Option("name of the model in the metadata", "NAME"),
    ]
    metadata: Annotated[
        str | os.PathLike[str] | None,
        Option("JSON file of general.* keys that count more than what the checkpoint says", "FILE.json"),
    ]
    vocab_only: Annotated[bool, Option("write metadata and tokenizer alone")]
    pre: Annotated[str | None, Option("name of the pre-tokenizer, if it is not recognised", "NAME")]
    merge_lora: Annotated[
        Sequence[LoraMerge],
        Option(
            "merge a PEFT LoRA adapter, SCALE times as strongly as it was trained",
            "ADAPTER[:SCALE]",
            parse_merge,
            repeatable=True,
        ),
    ]
    mtp: Annotated[
        Literal["with", "only", "without"],
        Option("layers for multi-token prediction: with (the default), only, without", "HOW"),
    ]
