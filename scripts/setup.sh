#!/usr/bin/env bash
# Installs the Debian packages that building, running and testing itemloom need. Safe to run again; installs nothing
# that is there already. Works as root or through sudo.
#
# setup.sh --cuda installs what the kernels for GPUs are built with, too: where there is no CUDA toolkit of 12.8 or later
# with cuBLAS and NCCL (nvcc on PATH or under CUDA_HOME) NVIDIA's own from PyPI, into build/cuda-toolkit. No GPU is
# needed for it.
set -euo pipefail
cd "$(dirname "$0")/.."
with_cuda=false
if [ "${1:-}" = --cuda ]; then
  with_cuda=true
elif [ $# -gt 0 ]; then
  echo "setup.sh: usage: setup.sh [--cuda]" >&2
  exit 2
fi

packages=(
  g++ cmake ninja-build # compiler and build
  catch2                # unit tests
  libarchive-dev        # reads .gz .xz .zst .bz2 input
  libcli11-dev          # command line
  libfmt-dev            # text output
  libhdf5-dev           # datasets, checkpoints, exports
  libhwy-dev            # portable vectors, chosen at run time
  libopenmpi-dev openmpi-bin # several ranks
  libspdlog-dev         # logging
  libssl-dev            # SHA-256 of inputs and checkpoints
  nlohmann-json3-dev    # configs and reports
  zlib1g-dev            # checks .gz input to its end
)

toolkit=build/cuda-toolkit
# Versions that were tried together.
toolkit_packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.28.9 nvidia-nvtx==13.0.85
)
# Whether there is an nvcc of 12.8 or later with the headers of cuBLAS, NVTX and NCCL (kernels/cuda/toolkit.cmake looks alike).
has_toolkit() {
  local nvcc home release
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
  nvcc=$(readlink -f "$(command -v "${nvcc:-nvcc}" || command -v nvcc || echo /nonexistent)")
  [ -x "$nvcc" ] || return 1
  home=$(dirname "$(dirname "$nvcc")")
  release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
  [ "$(printf '%s\n' 12.8 "$release" | sort -V | head -n 1)" = 12.8 ] || return 1
  [ -e "$home/include/cublasLt.h" ] && [ -e "$home/include/nvtx3/nvToolsExt.h" ] || return 1
  [ -e "$home/include/nccl.h" ] || [ -e /usr/include/nccl.h ] || [ -e /usr/local/include/nccl.h ]
}
needs_toolkit=false
if $with_cuda; then
  packages+=(python3 ccache) # translates kernels for the emulation; keeps what nvcc has made
  if ! has_toolkit && [ "$(cat "$toolkit/complete" 2>/dev/null)" != "${toolkit_packages[*]}" ]; then
    needs_toolkit=true
    packages+=(python3-pip)
  fi
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup.sh: this is not Debian or Ubuntu. Install the equivalents of these packages, then build with cmake:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "setup.sh: run this as root, or install sudo; missing packages: ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup.sh: installing ${missing[*]}" >&2
  "${as_root[@]}" apt-get update -q >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi

if $needs_toolkit; then
  echo "setup.sh: installing a CUDA toolkit into $toolkit (about 1.3 GB)" >&2
  rm -rf "$toolkit"
  python3 -m pip install -q --disable-pip-version-check --no-deps --target "$toolkit" "${toolkit_packages[@]}" >&2
  echo "${toolkit_packages[*]}" >"$toolkit/complete"
fi
