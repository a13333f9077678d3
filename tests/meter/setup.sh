#!/usr/bin/env bash
# Makes the meter's virtual environment and builds its extension. Safe to run again.
#
#   tests/meter/setup.sh [VENV]    VENV: default $METER_VENV, else .instruments/meter-venv in the repository (git ignores it)
#
# METER_BUILD: folder for the built extension (default: .instruments/meter-build). When it is set here, set it for every run.
# PYTHON: the interpreter to use (default: python3.11).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
instruments=$(cd "$here/../.." && pwd)/.instruments
venv=${1:-${METER_VENV:-$instruments/meter-venv}}
build=${METER_BUILD:-$instruments/meter-build}
python=${PYTHON:-python3.11}

need() { command -v "$1" >/dev/null || { echo "setup.sh: $1 is missing: $2" >&2; exit 1; }; }
need "$python" "install Python 3.11, or name another one with PYTHON=..."
need g++ "install it (Debian: apt-get install g++)"
"$python" -c 'import sysconfig, os; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null \
  || { echo "setup.sh: $python has no Python.h (Debian: apt-get install python3.11-dev)" >&2; exit 1; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# torch first, so that the next line finds its version already there
"$venv/bin/pip" install --quiet torch==2.13.0 numpy
"$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || {
  echo "setup.sh: this torch is a CUDA build, and the meter needs the CPU one. Uninstall it from $venv and run" >&2
  echo "setup.sh again with pip pointed at PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS)." >&2
  exit 1
}
"$venv/bin/pip" install --quiet llmcompressor==0.14.0.1 compressed-tensors==0.19.0 transformers==5.17.0

# The extension. Compiled again only when its source or this torch is newer.
torch=$("$venv/bin/python" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("torch").origin))')
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
source=$here/ext/fakecuda.cpp
library=$build/fakecuda_ext.so
mkdir -p "$build"
if [ ! "$library" -nt "$source" ] || [ ! "$library" -nt "$torch/version.py" ]; then
  g++ -O1 -std=c++20 -shared -fPIC -w -DTORCH_EXTENSION_NAME=fakecuda_ext \
    -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" -isystem "$include" \
    "$source" -o "$library.part" -L"$torch/lib" -ltorch -ltorch_cpu -lc10 -ltorch_python
  mv "$library.part" "$library"
fi
echo "setup.sh: ready. Run: $venv/bin/python $here/meter.py --help"
