#!/bin/sh
# Installs Fedward from this kit without any network. It checks the whole kit before it writes anything:
# the release key against the fingerprint that you were told, the signature, and every file by its checksum.
# Exit codes: 2 wrong usage, 3 not for this machine, 5 the kit does not hold, 1 anything else.
set -eu
umask 022
LC_ALL=C
export LC_ALL

usage() {
  cat <<'USAGE'
usage: sh install.sh --fingerprint FINGERPRINT [--prefix FOLDER] [--python PROGRAM] [--check]

  --fingerprint  the release key's fingerprint, as read to you by telephone (eight groups of four)
  --prefix       where Fedward goes, a folder that is not there yet or empty.
                 Default: /opt/fedward-VERSION for root, else ~/.local/fedward-VERSION
  --python       the Python to use. Default: python3.X as the kit says
  --check        check the kit and stop
USAGE
}

fail() { # code, what, remedy
  printf 'error: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  to fix it: %s\n' "$3" >&2
  exit "$1"
}

broken() { fail 5 "$1" "${2:-do not use this kit; fetch it again and tell who made it}"; }

heard='' prefix='' python='' check=''
while [ $# -gt 0 ]; do
  case $1 in
    --fingerprint | --prefix | --python)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      case $1 in --fingerprint) heard=$2 ;; --prefix) prefix=$2 ;; --python) python=$2 ;; esac
      shift 2 ;;
    --check) check=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
[ -n "$heard" ] || fail 2 'no fingerprint was given, so nobody knows whose kit this is' \
  'ask who made the kit to read it out by telephone, then add --fingerprint FINGERPRINT'
for tool in openssl sha256sum od comm find; do
  command -v "$tool" > /dev/null || fail 3 "$tool is missing" "install it from your system's packages (openssl, coreutils, findutils)"
done
case $prefix in '' | /*) ;; *) prefix=$(pwd)/$prefix ;; esac
case $python in */*) case $python in /*) ;; *) python=$(pwd)/$python ;; esac ;; esac
cd "$(dirname "$0")"
scratch=$(mktemp -d)
made=''
clean_up() {
  rm -rf "$scratch"
  [ -z "$made" ] || rm -rf "$made"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- 1. The key is the one that was read out -----------------------------------------------------------------------
printf '[1/5] the release key\n'
[ -f release-key.pem ] || broken 'release-key.pem is missing'
openssl pkey -pubin -in release-key.pem -outform DER -out "$scratch/key" 2> /dev/null || broken 'release-key.pem is no public key'
# Ed25519 and nothing else: another kind of key could end in the right 32 bytes.
der=$(od -An -v -tx1 "$scratch/key" | tr -d ' \n')
case $der in
  302a300506032b6570032100*) [ ${#der} -eq 88 ] || broken 'release-key.pem is no Ed25519 key' ;;
  *) broken 'release-key.pem is no Ed25519 key' ;;
esac
seen=$(tail -c 32 "$scratch/key" | sha256sum | cut -c 1-32)
told=$(printf '%s' "$heard" | tr 'A-F' 'a-f' | tr -d ' :-')
[ "$told" = "$seen" ] || broken "the kit is signed by another key: its fingerprint is $(printf '%s' "$seen" | sed 's/..../&-/g; s/-$//'), not the one that you were told" \
  'compare once more by telephone; if it differs, somebody else made this kit'

# --- 2. The list of files is signed by it ---------------------------------------------------------------------------
printf '[2/5] the signature\n'
for name in SHA256SUMS SHA256SUMS.sig; do [ -f "$name" ] || broken "$name is missing: the kit is unsigned"; done
openssl pkeyutl -verify -pubin -inkey release-key.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig > /dev/null 2>&1 ||
  broken 'the signature of SHA256SUMS does not hold' \
    "do not use this kit; fetch it again and tell who made it (openssl must be version 3: this is $(openssl version | cut -d ' ' -f 2))"

# --- 3. The files are those of the list, all of them and no others --------------------------------------------------
printf '[3/5] %s files\n' "$(wc -l < SHA256SUMS | tr -d ' ')"
find . ! -type d ! -type f | sed 's|^\./||' > "$scratch/odd"
[ ! -s "$scratch/odd" ] || broken "no plain file: $(tr '\n' ' ' < "$scratch/odd")"
{ cut -c 67- SHA256SUMS; printf 'SHA256SUMS\nSHA256SUMS.sig\n'; } | sort > "$scratch/listed"
find . -type f | sed 's|^\./||' | sort > "$scratch/present"
comm -23 "$scratch/listed" "$scratch/present" | sed 's/^/  missing: /' > "$scratch/problems"
comm -13 "$scratch/listed" "$scratch/present" | sed 's/^/  not of the kit: /' >> "$scratch/problems"
while IFS= read -r line; do
  name=${line#*  }
  [ ! -f "$name" ] || [ "$(sha256sum < "$name" | cut -c 1-64)" = "${line%%  *}" ] || printf '  changed: %s\n' "$name" >> "$scratch/problems"
done < SHA256SUMS
if [ -s "$scratch/problems" ]; then
  cat "$scratch/problems" >&2
  broken 'the kit is not the one that was signed'
fi
printf 'the kit holds: it is whole, unchanged, and signed by %s\n' "$(printf '%s' "$seen" | sed 's/..../&-/g; s/-$//')"
[ -z "$check" ] || exit 0

# --- 4. It is for this machine --------------------------------------------------------------------------------------
printf '[4/5] an environment\n'
value() { sed -n "s/^$1=//p" KIT; }
version=$(value version) needs=$(value python) platform=$(value platform) glibc=$(value glibc)
python=${python:-python$needs}
command -v "$python" > /dev/null || fail 3 "$python is missing" "install Python $needs from your system's packages, or name one with --python"
has=$("$python" -I -c 'import sys, sysconfig; print("%d.%d" % sys.version_info[:2], sysconfig.get_platform())')
[ "$has" = "$needs $platform" ] || fail 3 "the kit is for Python $needs on $platform, this is Python $has" 'ask for a kit for this machine, or name another Python with --python'
libc=$(getconf GNU_LIBC_VERSION 2> /dev/null | cut -d ' ' -f 2) || libc=''
if [ "$glibc" != 0.0 ] && { [ -z "$libc" ] || [ "$(printf '%s\n%s\n' "$glibc" "$libc" | sort -t . -k 1,1n -k 2,2n | head -n 1)" != "$glibc" ]; }; then
  fail 3 "the kit needs glibc $glibc or newer, this system has ${libc:-another C library}" 'use a newer system (Debian 12, RHEL 9), or ask for a kit made for this one'
fi
[ -n "$prefix" ] || if [ "$(id -u)" = 0 ]; then prefix=/opt/fedward-$version; else prefix=$HOME/.local/fedward-$version; fi
if [ -e "$prefix" ] && { [ ! -d "$prefix" ] || [ -n "$(ls -A "$prefix")" ]; }; then
  fail 3 "$prefix is there already" 'give another folder with --prefix; an older Fedward can stay beside the new one'
fi
mkdir -p "$prefix"
made=$prefix # taken away again if anything fails from here on
"$python" -I -m venv --without-pip "$prefix"

# --- 5. The wheels, from the kit alone; pip checks each against the lock again --------------------------------------
printf '[5/5] %s wheels\n' "$(wc -l < requirements.lock | tr -d ' ')"
pip=$(find wheels -name 'pip-*.whl')
PIP_CONFIG_FILE=/dev/null "$prefix/bin/python" -I "$pip/pip" --isolated --disable-pip-version-check install --quiet --no-index \
  --no-cache-dir --find-links wheels --only-binary :all: --require-hashes --requirement requirements.lock
[ "$("$prefix/bin/fedward" --version)" = "fedward $version" ] || fail 1 'the installed program does not tell its version' 'report it'
made=''
printf 'fedward %s is installed in %s\n' "$version" "$prefix"
printf 'next: %s/bin/fedward site init NAME\n' "$prefix"
