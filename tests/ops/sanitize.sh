#!/usr/bin/env bash
# The operator's C++ under AddressSanitizer and UndefinedBehaviorSanitizer, with its own tests as input:
#     bash tests/ops/sanitize.sh [python]
# Any report ends the run. Needs g++; takes a few minutes. Leaks are not looked for: Python and PyTorch have theirs.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
export DDETR_CACHE
DDETR_CACHE=$(mktemp -d)
trap 'rm -rf "$DDETR_CACHE"' EXIT
export CXX=g++ DDETR_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
"$python" -m ddetr.ops build cpu
# The sanitizers must be there before anything else, and the C++ runtime before PyTorch throws.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)" \
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    "$python" -m pytest tests/ops/test_cpu.py tests/ops/test_fuzz.py tests/ops/test_cuda_on_host.py \
    tests/ops/test_validate.py -p no:cacheprovider
