#!/usr/bin/env bash
# Installs the Debian packages that building, running and testing itemloom need. Safe to run again; installs nothing
# that is there already. Works as root or through sudo.
set -euo pipefail

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
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

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
