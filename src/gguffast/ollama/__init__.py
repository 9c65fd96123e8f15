"""Ollama: Modelfiles, a client for its server, and registering models there.

>>> from gguffast.ollama import Client, Modelfile
>>> modelfile = Modelfile.parse("FROM ./model.gguf")
>>> modelfile.set("parameter", 0.7, "temperature")
>>> print(modelfile, end="")
FROM ./model.gguf
PARAMETER temperature 0.7
"""

from __future__ import annotations

from gguffast.ollama.client import Client
from gguffast.ollama.modelfile import Command, Modelfile
from gguffast.ollama.register import Created, create

__all__ = ["Client", "Command", "Created", "Modelfile", "create"]
