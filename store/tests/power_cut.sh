#!/bin/sh
# Cuts the power under a writing store: the file system lies in an image on a loop device; the writer is frozen, the
# image is copied as a disk without power would hold it, mounted elsewhere, and every acknowledged certificate must be
# there. Needs root, mkfs.ext4 and a loop device.
#
# usage: power_cut.sh ROUNDS [WRITER]     WRITER: the built example power_cut_writer
set -eu

rounds=${1:?usage: power_cut.sh ROUNDS [WRITER]}
writer=${2:-${CARGO_TARGET_DIR:-target}/debug/examples/power_cut_writer}
work=$(mktemp -d)
pid=

clean_up() {
    if [ -n "$pid" ]; then kill -KILL "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
    umount "$work/live" 2>/dev/null || true
    umount "$work/cut" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

mkdir "$work/live" "$work/cut"
truncate -s 256M "$work/live.img"
mkfs.ext4 -q "$work/live.img"
mount -o loop "$work/live.img" "$work/live"

round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    "$writer" write "$work/live/store" >"$work/acknowledged.$round" &
    pid=$!
    # Between 0.5 and 3 seconds: before and after checkpoints of the index.
    sleep "$(awk -v r="$round" 'BEGIN { srand(r * 7919); printf "%.2f", 0.5 + 2.5 * rand() }')"
    kill -STOP "$pid"
    cp --sparse=always "$work/live.img" "$work/cut.img"
    cat "$work"/acknowledged.* >"$work/all"
    mount -o loop "$work/cut.img" "$work/cut"
    echo "round $round: $(wc -l <"$work/all") acknowledged"
    "$writer" check "$work/cut/store" <"$work/all"
    umount "$work/cut"
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
done

# The judge must be able to say no: a certificate that nobody issued.
if echo "acknowledged 999999999999" | "$writer" check "$work/live/store" >/dev/null 2>&1; then
    echo "the check finds what is not there" >&2
    exit 1
fi
echo "$rounds power cuts, nothing acknowledged was lost"
