#!/bin/bash
# Run the tests of attaching on another kernel, in a virtual machine on this machine's file system.
#
# usage: tools/kernel-vm.sh [PYTEST-ARGUMENT...]
#        tools/kernel-vm.sh --check           says what is missing, if anything is
#
# Needs vng (PyPI: virtme-ng), qemu-system-x86_64, script, and a kernel with BTF and kprobes: the
# newest of /boot/vmlinuz-*, or $DATACRUMBS_VM_KERNEL. Without KVM the processor is emulated, which
# takes minutes. Ends with pytest's status, or with 77 and the reason if something is missing.
set -euo pipefail

MISSING_STATUS=77
LIMIT_S=${DATACRUMBS_VM_LIMIT_S:-900}
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$REPOSITORY/.venv/bin/python}
TESTS=(packages/datacrumbs-runtime/tests/test_tiers.py
	packages/datacrumbs-runtime/tests/test_bpf_attach.py
	packages/datacrumbs-runtime/tests/test_engine.py)

skip() {
	printf 'kernel-vm: skipped: %s\nkernel-vm: hint: %s\n' "$1" "$2" >&2
	exit "$MISSING_STATUS"
}

if [[ ${1-} == --in-the-machine ]]; then
	shift
	mount -t bpf none /sys/fs/bpf || true
	mount -t tracefs none /sys/kernel/tracing || true
	cd "$REPOSITORY"
	export HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis # the rest is read-only here
	status=0
	"$PYTHON" -m pytest -v -m kernel -p no:cacheprovider "${@:-${TESTS[@]}}" || status=$?
	printf 'kernel-vm: %s: status %d\n' "$(uname -r)" "$status"
	exit 0
fi

[[ -x $PYTHON ]] || PYTHON=$(command -v python3) || skip "no python3" "install python3"
"$PYTHON" -c 'import datacrumbs_runtime, pytest' 2>/dev/null ||
	skip "$PYTHON has no datacrumbs_runtime or no pytest" "run ./quickstart, or set PYTHON"
PATH=$PATH:$(dirname "$PYTHON")
command -v vng >/dev/null || skip "no vng" "pip install virtme-ng"
command -v qemu-system-x86_64 >/dev/null ||
	skip "no qemu-system-x86_64" "apt-get install qemu-system-x86"
command -v script >/dev/null || skip "no script" "apt-get install bsdutils"
kernel=${DATACRUMBS_VM_KERNEL-}
if [[ -z $kernel ]]; then
	kernel=$(find /boot -maxdepth 1 -name 'vmlinuz-*' | sort -V | tail -n 1)
fi
[[ -r $kernel ]] || skip "no kernel in /boot" "apt-get install linux-image-amd64"
[[ ${1-} != --check ]] || exit 0

# A machine that does nothing runs until it is stopped, unless KVM is there in name only.
acceleration=()
runs=0
(
	timeout 3 qemu-system-x86_64 -accel kvm -cpu host -display none -serial none -monitor none -S
	exit $?
) >/dev/null 2>&1 || runs=$?
[[ $runs == 124 ]] || acceleration=(--disable-kvm)
arguments=$(printf ' %q' "$@")
[[ $# -gt 0 ]] || arguments=
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# vng needs a terminal, and it does not pass on the status of what it runs.
timeout "$LIMIT_S" script -qefc "vng -r $(printf %q "$kernel") ${acceleration[*]} --cpus 2 \
	--memory 2G --user root -- \
	'PYTHON=$(printf %q "$PYTHON") $(printf %q "$REPOSITORY")/tools/kernel-vm.sh --in-the-machine$arguments'" \
	"$log" </dev/null || true
status=$(sed -n 's/^kernel-vm: .*: status \([0-9]*\).*/\1/p' "$log" | tail -n 1)
if [[ -z $status ]]; then
	printf 'kernel-vm: error: %s: the machine did not get to the end within %s s\n' \
		"$kernel" "$LIMIT_S" >&2
	exit 1
fi
exit "$status"
