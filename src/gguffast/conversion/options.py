"""The options of a conversion, beside those of every job."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from gguffast.job import JobOptions, ShardLimits
from gguffast.recipe.options import Option


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
    mtp: Annotated[
        Literal["with", "only", "without"],
        Option("layers for multi-token prediction: with (the default), only, without", "HOW"),
    ]
