#!/usr/bin/env bash
# Attack the program for as long as you like: damaged files for every reader, and processes killed at any moment.
#
#     scripts/attack.sh --seconds N [--only NAME] [--seed N] [--findings FOLDER]
#
# N seconds for each of some fifteen attacks (see docs/reliability.md). Needs the tests' packages (pip install -e '.[test]') and
# clang with libFuzzer (apt-get install clang libclang-rt-14-dev). Exit code 1 if anything was found.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

seconds=10 only=
arguments=("$@")
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=$2; shift ;;
    --only) only=$2; shift ;;
    esac
    shift
done

if [[ libfuzzer == *"$only"* ]]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/corpus"
    (cd "$root/tests" && python -c "
from support.gguf_bytes import small_file
open('$work/corpus/small', 'wb').write(small_file())")
    clang -std=c11 -g -O1 -DLIBFUZZER -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I"$root/csrc" \
        "$root/csrc/gguf.c" "$root/tests/c/fuzz_gguf.c" -o "$work/fuzz"
    printf '%-24s' libfuzzer
    if ! (cd "$work" && ./fuzz -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=512 -timeout=5 -print_final_stats=1 corpus) \
        >"$work/log" 2>&1; then
        cat "$work/log"
        exit 1
    fi
    awk '/number_of_executed_units/ { printf "%7d headers", $2 } /new_units_added/ { printf ", %d of them new ways through the parser\n", $2 }' "$work/log"
fi

cd "$root"
PYTHONPATH="$root/tests${PYTHONPATH:+:$PYTHONPATH}" python -m attack "${arguments[@]}"
