#!/usr/bin/env bash
# The meter's command line on the pretended driver. Same options and output as tests/meter/meter.py (mode shape), and
# per step gpu.peak_reserved_bytes. CUDAMETER: the folder that setup.sh made. With `--python`, any script instead:
#   run.sh CONFIG --recipe R.yaml --layers 2 --out o.json          run.sh --python my_script.py ARGS
#
# PRETENDED_TOTAL   bytes of the card (default: from --gpu-memory-gib, else an H100's 85,520,809,984)
# PRETENDED_CONTEXT bytes that the CUDA context takes from the card before PyTorch does (default 520,000,000)
# PRETENDED_SM      compute capability, two digits (default 90; 80 gives the 8 MiB cuBLAS workspace)
# PRETENDED_DEVICES number of such cards (default 1; 2 where --offload-device is cuda:1)
# CUDAMETER_SECOND  the card whose figures are second_gpu, of several (default 1)
# PRETENDED_PEER    0: the cards do not reach each other's memory (default 1)
# PYTORCH_ALLOC_CONF is PyTorch's own and works, except expandable_segments.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${CUDAMETER:-$(cd "$here/../.." && pwd)/.instruments/cudameter}
[ -x "$folder/venv/bin/python" ] || { echo "run.sh: no environment in $folder; run setup.sh first" >&2; exit 1; }
case " $* " in *" --offload-device cuda:1 "*) export PRETENDED_DEVICES=${PRETENDED_DEVICES:-2} ;; esac
previous=""
for word in "$@"; do [ "$previous" = --gpu-memory-gib ] && : "${PRETENDED_TOTAL:=$("$folder/venv/bin/python" -c "print(int(float('$word') * 2**30))")}"; previous=$word; done
[ -n "${PRETENDED_TOTAL:-}" ] && export PRETENDED_TOTAL
export LD_LIBRARY_PATH=$folder/lib LD_PRELOAD=$folder/lib/libpretended.so CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
[ "${1:-}" = --python ] && { shift; exec "$folder/venv/bin/python" "$@"; }
exec "$folder/venv/bin/python" "$here/cudameter.py" "$@"
