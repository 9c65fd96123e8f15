"""Ask a model something in the real llama.cpp, which the PyPI package xllamacpp carries."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from gguffast.errors import GGUFFastError, OptionError

# In a process of its own: llama.cpp writes its log to the standard error of whoever loads it, and may abort.
_PROGRAM = """
import json, sys, xllamacpp
path, question, max_tokens = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx = 512
messages = [{"role": "user", "content": question}]
server = xllamacpp.Server(params)
answer = server.handle_chat_completions({"messages": messages, "max_tokens": max_tokens, "temperature": 0})
print("\\n" + json.dumps(answer["choices"][0]["message"]["content"]))
"""


def answer(model: Path, question: str, max_tokens: int = 48) -> str:
    """Load a GGUF file in llama.cpp and let it answer.

    Parameters
    ----------
    model : Path
        The file.
    question : str
        What the user says.
    max_tokens : int
        Length of the answer, at most.

    Raises
    ------
    OptionError
        xllamacpp is not installed.
    GGUFFastError
        llama.cpp could not load the model or did not answer.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise OptionError("xllamacpp is not installed; run: pip install 'gguffast[demo]'")
    # -P: nothing from the current folder, which may hold a json.py of whomever.
    command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps([str(model), question, max_tokens])]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise GGUFFastError(f"llama.cpp cannot run {model}: {reason}")
    text: str = json.loads(done.stdout.splitlines()[-1])
    return text.strip()
