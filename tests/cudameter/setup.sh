#!/usr/bin/env bash
# Makes the environment (PyTorch's CUDA build, real llmcompressor) and builds the pretended driver. Safe to run again.
#
#   tests/cudameter/setup.sh [FOLDER]   FOLDER: default $CUDAMETER, else .instruments/cudameter in the repository (git
#                                       ignores it); takes 6 GB
#
# PYTHON: the interpreter (default python3.11). TORCH: the CUDA build's version (default 2.14.1). LLMCOMPRESSOR: the release
# (default 0.14.0.1, or 0.13.0), with the dependencies that pip chose for it but torch: so releases differ and operators
# do not (planner drift).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
driver=$here/../../planner/rehearse/driver  # what planner rehearse ships
folder=${1:-${CUDAMETER:-$(cd "$here/../.." && pwd)/.instruments/cudameter}}
python=${PYTHON:-python3.11}
torch_version=${TORCH:-2.14.1}
release=${LLMCOMPRESSOR:-0.14.0.1}
case $release in
  0.14.0.1) own="compressed-tensors==0.19.0 transformers==5.17.0 accelerate==1.15.0" others="auto-round==0.15.1 datasets==5.2.0 pillow==13.0.0" ;;
  0.13.0) own="compressed-tensors==0.18.0 transformers==5.14.1 accelerate==1.14.0" others="auto-round==0.14.2 datasets==5.0.1 pillow==12.3.0" ;;
  *) echo "setup.sh: the dependencies of llmcompressor $release are not known here; pip install llmcompressor==$release makes an environment for planner drift" >&2; exit 1 ;;
esac
for tool in "$python" g++ gcc nm; do command -v "$tool" >/dev/null || { echo "setup.sh: $tool is missing" >&2; exit 1; }; done

mkdir -p "$folder/lib"
[ -x "$folder/venv/bin/python" ] || "$python" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet "$@"; }
pip "torch==$torch_version" numpy
"$folder/venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { echo "setup.sh: this torch is a CPU build; the pretended driver needs the CUDA one" >&2; exit 1; }
# llmcompressor asks for an older torch; its own dependencies come with their versions, torch as it is.
# shellcheck disable=SC2086  # words
pip --no-deps "llmcompressor==$release" $own
# shellcheck disable=SC2086
pip -c <(echo "torch==$torch_version") $others pydantic loguru 'pyyaml' tokenizers safetensors huggingface_hub regex tqdm requests psutil packaging nvidia-ml-py typer

# where the headers of torch's own CUDA are, as planner rehearse looks for them
mapfile -t include < <(PYTHONPATH=$here/../.. "$folder/venv/bin/python" -c 'from planner.rehearse.build import headers, interpreter; print(*headers(interpreter(None)), sep="\n")')
torch_lib=$("$folder/venv/bin/python" -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib")')
"$folder/venv/bin/python" "$driver/stubs.py" "$torch_lib" "${include[0]}/cuda.h" "$folder/lib/libraries.cpp" "$folder/lib/driver.c"
g++ -O1 -shared -fPIC -std=c++17 -w "${include[@]/#/-I}" "$driver/runtime.cpp" "$folder/lib/libraries.cpp" -o "$folder/lib/libpretended.so"
gcc -shared -fPIC -w "$folder/lib/driver.c" -Wl,-soname,libcuda.so.1 -o "$folder/lib/libcuda.so.1"
echo "setup.sh: ready. Run: CUDAMETER=$folder $here/run.sh --help"
