#!/bin/busybox sh
# The lab's work: the host's file system becomes ours to write on, and one command runs in it.
#
# Runs in the initramfs of the lab with all modules loaded.  The host's root comes read-only
# by 9p and gets a tmpfs above it (overlay), so tests may write anywhere and the host never
# sees it; only /lab, the folder of this one run, is shared for writing.
#
#   /lab/command   the shell command, whose output goes to /lab/stdout and /lab/stderr (or to the
#                  first alone, if there is /lab/merged); without it a shell on the console
#   /lab/cwd       where it runs
#   /lab/env       lines to source first
#   /lab/cache     where the host keeps what it has fetched: unpacked kernels, so that modprobe works
#   /lab/images    where it keeps the disk images that definitions name
#   /lab/keep_cpu.so   what every program in there is linked with before anything else (keep_cpu.c)
#   /lab/tty       "rows columns" of the terminal at the console's other end
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
# What lies in a folder that has just been made empty (a clone in /tmp) comes back, writable as the rest.
for kept in cwd cache images; do
    place=$(cat "/root/lab/$kept" 2>/dev/null) && [ -d "/host$place" ] || continue
    case $place in
    /tmp/* | /run/* | /dev/shm/* | /var/tmp/*)
        mkdir -p "/root$place" "/upper/$kept" "/upper/$kept.work"
        mount -t overlay -o "lowerdir=/host$place,upperdir=/upper/$kept,workdir=/upper/$kept.work" overlay "/root$place"
        ;;
    esac
done
cp /root/lab/keep_cpu.so /root/usr/lib/keep_cpu.so
echo /usr/lib/keep_cpu.so >/root/etc/ld.so.preload
[ -e /root/dev/fd ] || ln -s /proc/self/fd /root/dev/fd
release=$(uname -r)
for tree in "/root$(cat /root/lab/cache)"/kernels/*/lib/modules/"$release"; do
    [ -d "$tree" ] || continue
    mkdir -p "/root/usr/lib/modules/$release"
    mount --bind "$tree" "/root/usr/lib/modules/$release"
    break
done
for each in /sys/devices/system/cpu/cpu[1-9]*/online; do echo 1 >"$each"; done
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
hostname lab

cat > /root/run/lab-work <<'END'
[ -e /lab/cwd ] && cd "$(cat /lab/cwd)"
set -a
[ -e /lab/env ] && . /lab/env
set +a
# As long as it lives, KVM's coming and going patches the kernel no more (decision 0045).
python3 -I -S tests/lab/hold_kvm.py </dev/null >/dev/null 2>&1
if [ -e /lab/command ]; then exec /bin/sh -c "$(cat /lab/command)"; fi
export PS1='lab:\w# '
exec /bin/bash --norc -i # what a .bashrc does on a good machine takes half a minute here
END
set +e
touch /root/lab/started
# What runs is not only chrooted: a chroot may not make user namespaces, which passt confines itself by.
cd /root
mount --move . /
if [ -e lab/command ]; then
    # Files and not the console: QEMU's drops what its reader is too slow for.
    errors=stderr
    [ -e lab/merged ] && errors=stdout
    chroot . /bin/sh /run/lab-work </dev/null >>lab/stdout 2>>lab/$errors
else
    exec 3<>dev/hvc0 # kept open: the last close would forget how the line is set up
    read -r rows columns 2>/dev/null <lab/tty || { rows=24 columns=80; }
    stty sane rows "$rows" cols "$columns" <&3
    chroot . /usr/bin/setsid -c /bin/sh /run/lab-work <&3 >&3 2>&1
fi
