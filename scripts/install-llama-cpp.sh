#!/bin/sh
# Builds the programs of llama.cpp that the tests compare with, out of the source package of llama-cpp-python,
# into gguffast's cache folder; prints the folder that they lie in. Needs cmake, ninja, g++ and pip.
# A second call does nothing.
set -eu
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
programs="llama-quantize llama-gguf-split llama-imatrix llama-perplexity llama-server"

cache=${GGUFFAST_CACHE:-$HOME/.cache/gguffast}
target=$cache/llama.cpp-$version
if [ ! -d "$target" ]; then
    for tool in cmake ninja g++ "${PYTHON:=python3}"; do
        if ! command -v "$tool" >/dev/null; then
            echo "install-llama-cpp.sh: there is no $tool on PATH; install it first" >&2
            exit 1
        fi
    done
    mkdir -p "$cache"
    # Beside its final place, so that a rename puts all of it there, or nothing.
    work=$(mktemp -d "$cache/.llama.cpp-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    (
        cd "$work"
        "$PYTHON" -m pip download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version"
        echo "$sha256  llama_cpp_python-$version.tar.gz" | sha256sum -c --quiet
        tar -xzf "llama_cpp_python-$version.tar.gz"
        # One program a task, that needs nothing beside it and fetches nothing while it is built.
        cmake -S "llama_cpp_python-$version/vendor/llama.cpp" -B build -G Ninja \
            -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
            -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
            -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF >cmake.log
        # shellcheck disable=SC2086
        ninja -C build -j "$(nproc)" $programs
        mkdir -p target/bin
        for program in $programs; do
            cp "build/bin/$program" target/bin/
        done
        chmod 755 target
    ) >&2
    # Where another call was first, its build is as good.
    mv -T "$work/target" "$target" 2>/dev/null || [ -d "$target" ]
fi
echo "$target/bin"
