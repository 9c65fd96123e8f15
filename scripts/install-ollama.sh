#!/bin/sh
# Installs the Ollama servers that the tests talk to into gguffast's cache folder, where they find them:
#
#   ollama-0.11.4    the last version whose Go module builds and runs by itself
#   ollama-0.33.0    one of those that need llama.cpp's programs beside them
#
# Needs Go 1.24 or newer, and what install-llama-cpp.sh needs. A second call does nothing.
set -eu
here=$(dirname "$0")
cache=${GGUFFAST_CACHE:-$HOME/.cache/gguffast}

# install VERSION [PROGRAM...]: build a server, and put the programs that it calls where it looks for them.
install() {
    version=$1
    shift
    target=$cache/ollama-$version
    [ ! -d "$target" ] || return 0
    if ! command -v go >/dev/null; then
        echo "install-ollama.sh: there is no Go on PATH; install Go 1.24 or newer first" >&2
        exit 1
    fi
    work=$(mktemp -d "$cache/.ollama-XXXXXX")
    mkdir -p "$work/bin" "$work/lib/ollama"
    # It knows its own version only if it is told, and its go.sum lacks what the module proxy's go.mod names.
    GOFLAGS=-mod=mod GOBIN=$work/bin go install \
        -ldflags "-s -w -X=github.com/ollama/ollama/version.Version=$version" \
        "github.com/ollama/ollama@v$version"
    for program in "$@"; do
        cp "$program" "$work/lib/ollama/"
    done
    chmod 755 "$work"
    mv -T "$work" "$target" 2>/dev/null || [ -d "$target" ]
}

mkdir -p "$cache"
trap 'rm -rf "${work:-}"' EXIT
trap 'exit 1' HUP INT TERM
llama_cpp=$("$here/install-llama-cpp.sh")
install 0.11.4
install 0.33.0 "$llama_cpp/llama-quantize" "$llama_cpp/llama-server"
echo "$cache/ollama-0.11.4 and $cache/ollama-0.33.0"
