#!/usr/bin/env bash
# Make a virtual environment at $1 with the newest Python found, 3.11 at least. $PYTHON names one outright.
set -euo pipefail

target=${1:?usage: new_venv.sh FOLDER}
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "$new_enough" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "locum: no Python 3.11 or newer found; install one, or name it: make test PYTHON=/path/to/python3" >&2
    exit 1
}

python=$(find_python)
# A half-made environment is completed, a finished one is left as it is.
if "$target/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
if ! "$python" -m venv "$target"; then
    echo "locum: $python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
fi
