# Sourced by scripts that work in fresh roots of Debian, made by debootstrap, as root. They set `me`, their name in messages, and then
# take_work DIR or take_work '' for a folder that is removed at the end.
mirror=${MIRROR:-http://deb.debian.org/debian}
roots=()

take_work() {
  [ "$(id -u)" = 0 ] || { echo "$me: debootstrap and chroot want root" >&2; exit 2; }
  command -v debootstrap >/dev/null || { echo "$me: no debootstrap here: apt-get install debootstrap" >&2; exit 2; }
  work=$1
  kept=yes
  [ -n "$work" ] || { work=$(mktemp -d); kept=no; }
  mkdir -p "$work"
  # What could not be unmounted is not walked into.
  trap 'release_roots && { [ $kept = yes ] || rm -rf --one-file-system "$work"; }' EXIT
}

release_roots() {
  local one
  for one in "${roots[@]}"; do
    ! mountpoint -q "$one/proc" || umount --lazy "$one/proc" || return
    ! mountpoint -q "$one/dev" || umount -R --lazy "$one/dev" || return
  done
}

# take_root RELEASE PACKAGES LOG sets `root`; one that is there is used again.
take_root() {
  root=$work/$1
  if [ ! -x "$root/bin/bash" ]; then
    debootstrap --variant=minbase --include="$2" "$1" "$root" "$mirror" >>"$3" 2>&1 ||
      { tail -n 3 "$3" >&2; echo "$me: debootstrap of $1 failed" >&2; exit 1; }
  fi
  cp /etc/resolv.conf "$root/etc/resolv.conf"
}

# What programs expect below /proc and /dev is bound while they run.
mount_root() {
  roots+=("$root")
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --make-rslave "$root/dev"
}

# A line of bash in the root, with nothing of this machine's environment but what stands in `passed`.
passed=()
inside() {
  chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "${passed[@]}" bash -c "$1" </dev/null
}
