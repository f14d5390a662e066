#!/bin/sh
# Makes a throw-away SoftHSM token in a directory. For development only: SoftHSM keeps keys in files.
#   softhsm/provision.sh DIRECTORY [LABEL]
# The PIN is read from standard input, so that it stays out of the shell's history:
#   printf '%s\n' 1234 | softhsm/provision.sh /tmp/token dev
set -eu

dir=${1:?usage: provision.sh DIRECTORY [LABEL]}
label=${2:-dev}
here=$(cd "$(dirname "$0")" && pwd)

command -v softhsm2-util >/dev/null || {
    echo "SoftHSM is not installed; on Debian and Ubuntu: apt install softhsm2" >&2
    exit 1
}
if [ -t 0 ]; then
    printf 'PIN for the new token (4 to 255 characters): ' >&2
    stty -echo
    trap 'stty echo' EXIT
fi
IFS= read -r pin
[ -n "$pin" ] || { echo "the PIN is empty" >&2; exit 1; }

umask 077
mkdir -p "$dir/tokens"
dir=$(cd "$dir" && pwd)
SOFTHSM2_CONF=$dir/softhsm2.conf
export SOFTHSM2_CONF
if [ ! -e "$SOFTHSM2_CONF" ]; then
    awk -v dir="$dir" '{ i = index($0, "@DIR@"); if (i) $0 = substr($0, 1, i - 1) dir substr($0, i + 5); print }' \
        "$here/softhsm2.conf.template" >"$SOFTHSM2_CONF"
fi
if softhsm2-util --show-slots | grep -q "^ *Label: *$label *\$"; then
    echo "a token labelled '$label' exists already in $dir" >&2
    exit 1
fi
# The tool takes PINs from a terminal or from its arguments; this one protects nothing.
softhsm2-util --init-token --free --label "$label" --so-pin "$pin" --pin "$pin" >&2
echo "export SOFTHSM2_CONF='$SOFTHSM2_CONF'"
