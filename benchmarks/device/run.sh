#!/usr/bin/env bash
# Run a script of this folder on a bare machine: torch (CUDA) is there, the network is not.
#
#     bash benchmarks/device/run.sh [--wheels DIR] [--cifar100 MOSAICS] SCRIPT [ARGUMENTS]
#
#     bash benchmarks/device/run.sh --wheels wheels day --seconds 480 --output results
#     bash benchmarks/device/run.sh --wheels wheels --cifar100 mosaics cifar100_lt --seconds 480
#
# DIR is what pack.sh has made, MOSAICS what pack_cifar100.py has. Both are installed and unpacked into
# a new temporary folder; nothing else on the machine is changed. Without --wheels the environment is
# taken as it is. PYTHON=... chooses the interpreter, by default python3.
set -euo pipefail
here=$(pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
wheels='' mosaics=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --wheels) wheels=$(cd "$2" && pwd) ;;
        --cifar100) mosaics=$(cd "$2" && pwd) ;;
        *) echo "error: $1: expected --wheels DIR, --cifar100 MOSAICS, then day or cifar100_lt" >&2; exit 2 ;;
    esac
    shift 2
done
script=$root/benchmarks/device/${1:?day or cifar100_lt}.py
[ -f "$script" ] || { echo "error: there is no $script: expected day or cifar100_lt" >&2; exit 2; }
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PYTHONUNBUFFERED=1 PYTHONPATH=$root/benchmarks:$root/benchmarks/device${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$wheels" ]; then
    pip=("$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir)
    # A copy: building writes beside the sources.
    mkdir "$folder/sources"
    (cd "$root" && cp -r longtail projects configs setup.py pyproject.toml README.md "$folder/sources")
    "${pip[@]}" --target "$folder/site" "$wheels"/*.whl
    "${pip[@]}" --target "$folder/site" --upgrade --no-build-isolation "$folder/sources"
    export PYTHONPATH=$folder/site:$PYTHONPATH
fi
if [ -n "$mosaics" ]; then
    export DETECTRON2_DATASETS=$folder/datasets
    mkdir "$DETECTRON2_DATASETS"
    "$python" -m longtail prepare cifar100_lt --source "$mosaics"
fi
cd "$here"
"$python" "$script" "$@"
