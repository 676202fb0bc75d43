# What scripts that boot a guest share: Debian's kernel, an initial file system with the modules it wants, and qemu without KVM.
# Sourced; wants `work`, `skip` and `fail`.

# Sets `kernel` and `version`.
guest_kernel() {
    kernel=$(ls target/guest-kernel/boot/vmlinuz-* 2>/dev/null | head -n 1 || true)
    [ -n "$kernel" ] || skip "no guest kernel (scripts/lib/setup slow unpacks one)"
    version=${kernel##*/vmlinuz-}
}

# guest_modules ROOT MODULE...: the modules with all they need, numbered in the order in which they go in.
guest_modules() {
    local root=$1 modules=target/guest-kernel module number=100
    shift
    [ -e "$modules/lib/modules/$version/modules.dep.bin" ] || depmod -b "$modules" "$version"
    : >"$work/depends"
    for module in "$@"; do
        modprobe -d "$modules" -S "$version" --show-depends "$module" >>"$work/depends" 2>"$work/modprobe" \
            || fail "the guest's kernel has no module $module: $(cat "$work/modprobe")"
    done
    # What ext4 asks for by name only when it mounts, where it is not built in.
    modprobe -d "$modules" -S "$version" --show-depends crc32c_generic >>"$work/depends" 2>/dev/null || true
    mkdir -p "$root/modules"
    sed -n 's/^insmod //p' "$work/depends" | awk '{ print $1 }' | sed 's,//*,/,g' | awk '!seen[$0]++' >"$work/modules"
    while read -r module; do
        cp "$module" "$root/modules/$number-$(basename "$module")"
        number=$((number + 1))
    done <"$work/modules"
}

# guest_pack ROOT: its files as `initrd` in the work directory.
guest_pack() { (cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"; }

# guest_run SECONDS CONSOLE APPEND QEMU-WORDS...: until the guest powers off, and no longer than that.
guest_run() {
    local seconds=$1 console=$2 append=$3
    shift 3
    # Without a romfile, no package with boot code for a network card is needed.
    exec timeout -k 10 "$seconds" qemu-system-x86_64 -machine pc,accel=tcg -cpu max -m 512 -smp 1 -nodefaults -display none -no-reboot \
        -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 panic=-1 quiet $append" -serial "file:$console" \
        "$@" </dev/null >"$work/qemu.log" 2>&1
}
