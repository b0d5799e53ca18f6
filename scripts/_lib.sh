# Shared by the scripts beside it: where the checkout is, how to speak, which Python to use. Sourced, never run.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
VLLM_VENV="$ROOT/.venv-vllm"
# Read by the scripts that source this file.
export ROOT VENV VLLM_VENV

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf '\n!!! %s\n\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
wrong_use() {
    printf 'error: %s (see --help)\n' "$*" >&2
    exit 2
}

# Prints the comment block at the head of the calling script: that is its --help.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"; }

# Prints the first interpreter that runs and is new enough. 3.11 comes first: the locked versions were made on it.
find_python() {
    local name
    for name in ${STEER_PYTHON:+"$STEER_PYTHON"} python3.11 python3.12 python3.13 python3 python; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    die "no Python >= 3.11 with the venv module found. Install one (Debian: apt-get install python3 python3-venv)" \
        "or name it: STEER_PYTHON=/path/to/python3.11 $0"
}
