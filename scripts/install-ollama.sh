#!/bin/sh
# Installs the Ollama that the tests talk to, into $(go env GOPATH)/bin, where they find it. Needs Go >= 1.24 and g++.
#
# v0.11.4 is the last version that `go install` builds whole: later ones need llama.cpp's binaries beside them.
set -eu
if ! command -v go >/dev/null; then
    echo "install-ollama.sh: there is no Go on PATH; install Go 1.24 or newer first" >&2
    exit 1
fi
target="$(go env GOPATH)/bin/ollama"
if [ -x "$target" ]; then
    echo "$target is there already"
else
    go install github.com/ollama/ollama@v0.11.4
    echo "installed $target"
fi
