#!/bin/bash
# Run the tests of attaching on other kernels, in virtual machines on this machine's file system.
#
# usage: tools/kernel-vm.sh [OPTION...] [PYTEST-ARGUMENT...]
#   --all        on every kernel there is, one after another; a table at the end
#   --short      only functions of the kernel, on the newest kernel that has multi links for them
#                (FPROBE); three minutes under emulation
#   --list       the kernels there are, one path a line, newest last
#   --check      only says what is missing, if anything is
#
# The kernels are /boot/vmlinuz-* and what tools/fetch-kernel.sh fetched, which is the way to a
# kernel that this machine does not have: nothing of it is installed, vng shows its modules to the
# virtual machine alone. Without options the newest one is used, or $DATACRUMBS_VM_KERNEL.
#
# Needs vng (PyPI: virtme-ng), qemu-system-x86_64, script, and a kernel with BTF and kprobes.
# Without KVM the processor is emulated, which takes minutes; $DATACRUMBS_VM_LIMIT_S for one kernel.
# Ends with pytest's status (of --all: 1 if it failed anywhere), or with 77 and the reason if
# something is missing.
set -euo pipefail

MISSING_STATUS=77
LIMIT_S=${DATACRUMBS_VM_LIMIT_S:-1200}
LAST_LINES=15
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$REPOSITORY/.venv/bin/python}
RUNTIME_TESTS=packages/datacrumbs-runtime/tests
TESTS=("$RUNTIME_TESTS"/test_{tiers,kernel_functions,functions_named_twice,bpf_attach,engine}.py)
TESTS+=("$RUNTIME_TESTS"/test_{refused_programs,session_functions,skipped_runs,lost_children}.py)
SHORT_TESTS=("$RUNTIME_TESTS"/test_{kernel_functions,functions_named_twice,skipped_runs}.py)
# Functions of user space are tested on this machine's own kernel.
SHORT_TESTS+=(--deselect
	"$RUNTIME_TESTS"/test_functions_named_twice.py::test_a_function_of_two_categories_is_recorded_in_both_or_refused)
# Lines of the kernel on the console.
KERNEL_LINE='^\[ *[0-9]+\.[0-9]+\]'

skip() { # WHAT HINT
	printf 'kernel-vm: skipped: %s\nkernel-vm: hint: %s\n' "$1" "$2" >&2
	exit "$MISSING_STATUS"
}

in_the_machine() { # PYTEST-ARGUMENT...
	mount -t bpf none /sys/fs/bpf 2>/dev/null || true
	mount -t tracefs none /sys/kernel/tracing 2>/dev/null || true
	cd "$REPOSITORY"
	export HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis # the rest is read-only here
	local status=0
	"$PYTHON" -m pytest -v -m kernel -p no:cacheprovider "$@" || status=$?
	printf 'kernel-vm: %s: status %d\n' "$(uname -r)" "$status"
}

# Newest last, by release.
kernels() {
	{
		find /boot -maxdepth 1 -name 'vmlinuz-*'
		"$REPOSITORY/tools/fetch-kernel.sh" --list
	} 2>/dev/null | sed 's,.*/vmlinuz-,& &,; s,^.*/vmlinuz-\([^ ]*\) ,\1 ,' | sort -V | cut -d' ' -f2-
}

newest_with_multi_links() {
	local kernel
	kernels | tac | while read -r kernel; do
		if grep -qsx CONFIG_FPROBE=y "${kernel/vmlinuz-/config-}"; then
			printf '%s\n' "$kernel"
			break
		fi
	done | grep .
}

check() {
	[[ -x $PYTHON ]] || PYTHON=$(command -v python3) || skip "no python3" "install python3"
	"$PYTHON" -c 'import datacrumbs_runtime, pytest' 2>/dev/null ||
		skip "$PYTHON has no datacrumbs_runtime or no pytest" "run ./quickstart, or set PYTHON"
	PATH=$PATH:$(dirname "$PYTHON")
	[[ $(uname -m) == x86_64 ]] || skip "this is $(uname -m)" "only x86_64 is emulated here"
	command -v vng >/dev/null || skip "no vng" "pip install virtme-ng"
	command -v qemu-system-x86_64 >/dev/null ||
		skip "no qemu-system-x86_64" "apt-get install qemu-system-x86"
	command -v script >/dev/null || skip "no script" "apt-get install bsdutils"
}

# What makes vng emulate the processor, where it must. In one thread: with one for each processor a
# kernel that changes its code, as attaching does, sometimes dies of a breakpoint that is gone.
find_acceleration() {
	local runs=0
	(
		timeout 3 qemu-system-x86_64 -accel kvm -cpu host -display none -serial none -monitor none -S
		exit $?
	) >/dev/null 2>&1 || runs=$?
	# A machine that does nothing runs until it is stopped, unless KVM is there in name only.
	[[ $runs == 124 ]] || ACCELERATION=(--disable-kvm --qemu-opts='-accel tcg,thread=single')
}

run_on() { # KERNEL PYTEST-ARGUMENT...
	local kernel=$1 arguments command log machine status
	shift
	arguments=$(printf ' %q' "$@")
	command="PYTHON=$(printf %q "$PYTHON") PYTHONPATH=$(printf %q "${PYTHONPATH-}")"
	command+=" $(printf %q "$REPOSITORY")/tools/kernel-vm.sh --in-the-machine$arguments"
	log=$(mktemp)
	printf 'kernel-vm: %s\n' "$kernel"
	# vng needs a terminal, and it does not pass on the status of what it runs.
	machine=$(printf '%q ' vng --verbose --force-9p -r "$kernel" "${ACCELERATION[@]}" \
		--cpus 2 --memory 2G --user root -- "$command")
	timeout "$LIMIT_S" script -qefc "$machine" "$log" </dev/null |
		grep --line-buffered -vE "$KERNEL_LINE" || true
	status=$(sed -n 's/^kernel-vm: .*: status \([0-9]*\).*/\1/p' "$log" | tail -n 1)
	if [[ -z $status ]]; then
		printf 'kernel-vm: error: %s: the machine did not get to the end within %s s; it said last:\n' \
			"$kernel" "$LIMIT_S"
		tail -n "$LAST_LINES" "$log"
		status=1
	fi >&2
	SUMMARIES+=("$(basename "$kernel" | sed 's/^vmlinuz-//'): $(summary_of "$log" "$status")")
	rm -f "$log"
	[[ $status == 0 ]]
}

summary_of() { # LOG STATUS
	# The last line of pytest, without its frame.
	sed -nE 's/^=+ (.*(passed|failed|error|skipped).*) in .*=+\s*$/\1/p' "$1" | tail -n 1 | grep . ||
		printf 'status %s\n' "$2"
}

mode='' is_check='' arguments=()
if [[ ${1-} == --in-the-machine ]]; then
	shift
	in_the_machine "$@"
	exit 0
fi
for argument; do
	case $argument in
	--all | --short | --list) mode=$argument ;;
	--check) is_check=1 ;;
	-h | --help)
		sed -n '2,/^set/{/^set/d;s/^# \?//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) arguments+=("$argument") ;;
	esac
done
if [[ $mode == --list ]]; then
	kernels
	exit 0
fi
check
tests=("${TESTS[@]}")
case $mode in
--all) mapfile -t chosen < <(kernels) ;;
--short)
	tests=("${SHORT_TESTS[@]}")
	mapfile -t chosen < <(newest_with_multi_links)
	((${#chosen[@]})) || skip "no kernel with multi links for kernel functions (FPROBE)" \
		"tools/fetch-kernel.sh with a suite of backports"
	;;
*)
	if [[ -n ${DATACRUMBS_VM_KERNEL-} ]]; then
		chosen=("$DATACRUMBS_VM_KERNEL")
	else
		mapfile -t chosen < <(kernels | tail -n 1)
	fi
	;;
esac
((${#chosen[@]})) || skip "no kernel in /boot" "apt-get install linux-image-amd64, or tools/fetch-kernel.sh"
[[ -z $is_check ]] || exit 0
((${#arguments[@]})) || arguments=("${tests[@]}")
ACCELERATION=()
find_acceleration
SUMMARIES=()
failed=0
for kernel in "${chosen[@]}"; do
	[[ -r $kernel ]] || skip "$kernel is not there" "tools/kernel-vm.sh --list"
	run_on "$kernel" "${arguments[@]}" || failed=1
done
((${#chosen[@]} == 1)) || printf 'kernel-vm: %s\n' "${SUMMARIES[@]}"
exit "$failed"
