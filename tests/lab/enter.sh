#!/bin/busybox sh
# The lab's work: the host's file system becomes ours to write on, and one command runs in it.
#
# Runs in the initramfs of the lab with all modules loaded.  The host's root comes read-only
# by 9p and gets a tmpfs above it (overlay), so tests may write anywhere and the host never
# sees it; only /lab, the folder of this one run, is shared for writing.
#
#   /lab/command   the shell command; without it an interactive shell
#   /lab/cwd       where it runs
#   /lab/env       lines to source first
#   /lab/kernels   where the host keeps unpacked kernels, so that modprobe works
#   /lab/tty       "rows columns" when a person sits at the other end; else the output goes to
#   /lab/stdout    and
#   /lab/stderr    (or to the first alone, if there is
#   /lab/merged)
set -e
nine() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$1" "$2" "$3"; }

mkdir -p /host /upper /root /run
nine cache=loose,ro,noxattr hostroot /host
mount -t tmpfs -o size=100% tmpfs /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/data,workdir=/upper/work overlay /root
for each in proc sys dev; do mount --bind "/$each" "/root/$each"; done
for each in tmp run dev/shm var/tmp; do
    mkdir -p "/root/$each"
    mount -t tmpfs -o mode=1777 tmpfs "/root/$each"
done
mkdir -p /root/dev/pts /root/lab /root/lib/modules
mount -t devpts -o mode=600,ptmxmode=666 devpts /root/dev/pts
nine cache=none,rw lab /root/lab
[ -e /root/dev/fd ] || ln -s /proc/self/fd /root/dev/fd
release=$(uname -r)
for tree in /root"$(cat /root/lab/kernels)"/*/lib/modules/"$release"; do
    [ -d "$tree" ] || continue
    mkdir -p "/root/usr/lib/modules/$release"
    mount --bind "$tree" "/root/usr/lib/modules/$release"
    break
done
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
hostname lab

cat > /root/run/lab-work <<'END'
cd "$(cat /lab/cwd)"
set -a
. /lab/env
set +a
if [ -e /lab/command ]; then exec /bin/sh -c "$(cat /lab/command)"; fi
exec /bin/bash -i
END
set +e
# What runs is not only chrooted: a chroot may not make user namespaces, which passt confines itself by.
cd /root
mount --move . /
if [ -s lab/tty ]; then
    exec 3<>dev/hvc0 # kept open: the last close would forget how the line is set up
    stty sane rows "$(cut -d' ' -f1 lab/tty)" cols "$(cut -d' ' -f2 lab/tty)" <&3
    chroot . /usr/bin/setsid -c /bin/sh /run/lab-work <&3 >&3 2>&1
else
    # Files and not the console: QEMU's drops what its reader is too slow for.
    errors=stderr
    [ -e lab/merged ] && errors=stdout
    chroot . /bin/sh /run/lab-work </dev/null >>lab/stdout 2>>lab/$errors
fi
