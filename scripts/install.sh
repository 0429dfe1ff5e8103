#!/usr/bin/env bash
# Installs the Debian packages that gsa is built with, on Debian 12 and 13 and Ubuntu 24.04.
#
#   scripts/install.sh            what building, running and plotting need
#   scripts/install.sh --tests    and the tools that only scripts/test.sh uses
#
# Installs only what is missing, through apt-get as root or with sudo; does nothing, and asks
# nothing of the network, when all is there. CUDA and NCCL are not installed: see README.md.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BUILD_PACKAGES=(
  build-essential cmake ninja-build ccache pkg-config
  libopenmpi-dev openmpi-bin        # ranks
  libhdf5-dev hdf5-tools            # checkpoints
  libyaml-cpp-dev libcli11-dev      # configurations, command line
  libspdlog-dev libfmt-dev          # logging
  libopenblas-openmp-dev            # matrix products on the CPU
  libzstd-dev zstd zlib1g-dev       # compressed text
  libsimdjson-dev libxxhash-dev     # JSON lines, checksums
  libsentencepiece-dev sentencepiece
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-numpy python3-matplotlib python3-h5py # plots, a look into checkpoints
)
TEST_PACKAGES=(git shellcheck procps) # procps: pkill, for the test that kills a rank
# Release 14 of the formatter, where there is one. The linter must know the standard library that it
# reads: release 14 knows that of Debian 12 and no newer one. scripts/test.sh skips what is missing.
case $(. /etc/os-release && echo "$ID-$VERSION_ID") in
  debian-12) TEST_PACKAGES+=(clang-format-14 clang-tidy-14) ;;
  ubuntu-24.04) TEST_PACKAGES+=(clang-format-14) ;;
esac

packages=("${BUILD_PACKAGES[@]}")
case ${1:-} in
  '') ;;
  --tests)
    packages+=("${TEST_PACKAGES[@]}")
    ;;
  *) die "unknown option $1 (known: --tests)" ;;
esac

command -v dpkg-query >/dev/null ||
  die "needs Debian 12, 13 or Ubuntu 24.04; elsewhere install the like of: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done

if [[ ${#missing[@]} == 0 ]]; then
  say "all ${#packages[@]} packages are installed"
  exit 0
fi
say "installing ${#missing[@]} packages: ${missing[*]}"
as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${missing[@]}"
