#!/usr/bin/env bash
# Make a folder of what a machine without network lacks, for benchmarks/device/run.sh --wheels DIR:
#
#     bash benchmarks/device/pack.sh DIR [PYTHON]
#
# PYTHON is that machine's version (default 3.12), which has torch (CUDA), torchvision, timm, NumPy,
# SciPy, OpenCV, matplotlib, TensorBoard, pytest and what these need. To run where `make setup` has
# been: the versions are those of constraints.txt, and detectron2's wheel is that of `longtail
# install-detectron2`. Everything but pycocotools is Python alone; no CUDA parts. With PEERS=1 also
# mmsegmentation, whose models benchmarks/throughput.py compares with (see mmseg_peers.py); that
# needs rich and regex there, too.
set -euo pipefail
folder=$(mkdir -p "${1:?the folder of the wheels}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
version=${2:-3.12}
python=${BIN:-.venv/bin}/python

pinned() { for name in "$@"; do sed -n "s/^\($name==[^ ;]*\).*/\1/p" constraints.txt | tail -n 1; done; }

pure=$(pinned fvcore iopath hydra-core omegaconf antlr4-python3-runtime termcolor yacs portalocker lvis)
if [ -n "${PEERS:-}" ]; then
    pure="$pure mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 ftfy addict yapf prettytable"
    pure="$pure wcwidth==0.2.13 platformdirs"
fi
# shellcheck disable=SC2086
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" $pure
platforms=$(for n in 28 27 17; do echo "--platform manylinux_2_${n}_x86_64"; done)
# shellcheck disable=SC2046,SC2086
"$python" -m pip download --quiet --no-deps --only-binary :all: --implementation cp \
    --python-version "$version" $platforms --platform manylinux2014_x86_64 \
    --dest "$folder" $(pinned pycocotools)
"$python" - "$folder" <<'END'
import sys, tempfile
from pathlib import Path
from longtail.commands.install_detectron2 import build_wheel, fetch_source

with tempfile.TemporaryDirectory() as name:
    print(build_wheel(fetch_source(Path(name)), Path(sys.argv[1])))
END
ls -l "$folder"
for wheel in "$folder"/*.whl; do
    case $wheel in
        *-none-any.whl | */pycocotools-*) ;;
        *) echo "error: $wheel is built for this machine" >&2; exit 1 ;;
    esac
done
du -sh "$folder"
