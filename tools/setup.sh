# shellcheck shell=bash
# Sourced by quickstart and runtests: from a bare machine to .venv with all three packages.
# The caller sets PROGRAM (its own name) and REPOSITORY (absolute path).

ENVIRONMENT=$REPOSITORY/.venv
STAMP=$ENVIRONMENT/.datacrumbs-sources
LOG=$REPOSITORY/build/setup.log
NEEDED_MIB=1500

say() {
	printf '%s: %s\n' "$PROGRAM" "$1" >&2
}

fail() { # MESSAGE [HINT]
	say "error: $1"
	[[ -z ${2-} ]] || say "hint: $2"
	exit 1
}

require_root() {
	[[ $(id -u) == 0 ]] || fail "not root: loading BPF programs and installing packages needs it" \
		"run it with sudo"
}

# Before anything is installed: will this kernel, and this container, let us load programs?
require_bpf() {
	[[ $(uname -s) == Linux ]] || fail "this is $(uname -s), BPF programs need Linux"
	[[ -r /sys/kernel/btf/vmlinux ]] || fail \
		"no BPF: the kernel $(uname -r) has no type information (/sys/kernel/btf/vmlinux)" \
		"boot a kernel built with CONFIG_DEBUG_INFO_BTF, as the distributions' own are"
	local capabilities
	capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
	# CAP_SYS_ADMIN is bit 21, CAP_PERFMON 38, CAP_BPF 39.
	(((0x$capabilities >> 21 & 1) || ((0x$capabilities >> 38 & 3) == 3))) || fail \
		"no BPF: this process has neither CAP_SYS_ADMIN nor CAP_BPF and CAP_PERFMON" \
		"in a container: docker run --privileged, or --cap-add SYS_ADMIN --security-opt seccomp=unconfined"
}

require_space() { # DIRECTORY
	local free_mib
	free_mib=$(df --output=avail -BM "$1" | tr -dc '0-9\n' | tail -n 1)
	((free_mib >= NEEDED_MIB)) || fail \
		"disk full: $free_mib MiB free in $1, $NEEDED_MIB MiB are needed for the first run"
}

# Run a command with its output in the log; on failure say in one line what went wrong.
logged() { # WHAT COMMAND...
	local what=$1 start
	shift
	start=$(wc -c <"$LOG")
	printf '\n$ %s\n' "$*" >>"$LOG"
	"$@" >>"$LOG" 2>&1 </dev/null && return
	local output own
	output=$(tail -c "+$((start + 1))" "$LOG")
	own=$(grep -o 'datacrumbs-[a-z-]*: error: .*' <<<"$output" | head -n 1) || true
	if grep -q 'No space left on device' <<<"$output"; then
		fail "$what: disk full" "see $LOG"
	elif [[ -n $own ]]; then
		fail "${own#*: error: }" "see $LOG"
	elif grep -qE 'Temporary failure resolving|Could not resolve|Could not connect|Failed to fetch|Unable to connect|Connection (failed|refused|timed out)|NewConnectionError|NameResolutionError|Max retries exceeded|Network is unreachable|No matching distribution found' <<<"$output"; then
		fail "$what: no network: the package server does not answer" "see $LOG"
	fi
	fail "$what failed: $(grep -vE '^[[:space:]]*$' <<<"$output" | tail -n 1)" "see $LOG"
}

system_python() {
	local candidate
	for candidate in /usr/bin/python3 /usr/bin/python3.1{4,3,2,1,0}; do
		if [[ -x $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
			printf '%s\n' "$candidate"
			return
		fi
	done
	return 1
}

has_python_headers() {
	"$(system_python)" -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
}

# Whether a program is on PATH under its name or with a version at its end.
has_program() { # NAME
	[[ -n $(compgen -c "$1" | grep -xE "$1(-[0-9]+)?") ]]
}

# Debian 12 calls clang 14 "clang"; the tests of the BPF programs use 16.
TESTED_CLANG=16

has_current_clang() {
	command -v "clang-$TESTED_CLANG" >/dev/null && return
	local version
	version=$(clang -dumpversion 2>/dev/null) && ((${version%%.*} >= TESTED_CLANG))
}

# Print what is missing, one need a line.
missing_needs() {
	if system_python >/dev/null; then
		"$(system_python)" -c 'import ensurepip, venv' 2>/dev/null || echo venv
		has_python_headers || echo python-headers
	else
		printf '%s\n' python venv python-headers
	fi
	[[ -e /usr/include/stdio.h ]] && command -v cc >/dev/null || echo compiler
	has_current_clang || echo clang
	has_program llvm-strip || echo llvm
	[[ -e /usr/include/bpf/bpf_helpers.h ]] || echo libbpf
	command -v cmake >/dev/null || echo cmake
	command -v make >/dev/null || echo make
}

debian_package() { # NEED
	case $1 in
	python) echo python3 ;;
	venv) echo python3-venv ;;
	python-headers) echo python3-dev ;;
	compiler) echo gcc libc6-dev ;;
	libbpf) echo libbpf-dev ;;
	clang) echo "clang-$TESTED_CLANG|clang" ;;
	*) echo "$1" ;;
	esac
}

fedora_package() { # NEED
	case $1 in
	python | venv) echo python3 ;;
	python-headers) echo python3-devel ;;
	compiler) echo gcc glibc-devel ;;
	libbpf) echo libbpf-devel ;;
	*) echo "$1" ;;
	esac
}

distribution() {
	local ID='' ID_LIKE='' PRETTY_NAME=''
	# shellcheck disable=SC1091
	[[ ! -r /etc/os-release ]] || . /etc/os-release
	case " $ID $ID_LIKE " in
	*' debian '*) echo debian ;;
	*' fedora '*) echo fedora ;;
	*) echo "${PRETTY_NAME:-unknown}" ;;
	esac
}

# One source that does not answer is no reason to give up, hence the status of the update is not
# looked at; what it said is in the log and explains why the installation fails. Of alternatives
# with | between them the first is taken that the distribution has.
apt_install() { # PACKAGE...
	apt-get -q update
	local package packages=()
	for package; do
		if [[ $package == *'|'* ]] && apt-cache show "${package%%|*}" >/dev/null 2>&1; then
			package=${package%%|*}
		fi
		packages+=("${package##*|}")
	done
	apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends "${packages[@]}"
}

install_debian_packages() { # PACKAGE...
	say "installing ${*%%|*}"
	export DEBIAN_FRONTEND=noninteractive
	logged "installing system packages" apt_install "$@"
}

install_system_packages() {
	local needs packages=() need
	mapfile -t needs < <(missing_needs)
	((${#needs[@]})) || return 0
	case $(distribution) in
	debian)
		for need in "${needs[@]}"; do
			read -ra package < <(debian_package "$need")
			packages+=("${package[@]}")
		done
		install_debian_packages "${packages[@]}"
		;;
	fedora)
		for need in "${needs[@]}"; do
			read -ra package < <(fedora_package "$need")
			packages+=("${package[@]}")
		done
		say "installing ${packages[*]}"
		logged "installing system packages" dnf -qy install --setopt=install_weak_deps=False "${packages[@]}"
		;;
	*)
		fail "unsupported distribution: $(distribution): cannot install what is missing: ${needs[*]}" \
			"install these by hand (libbpf: its headers) and run it again"
		;;
	esac
	mapfile -t needs < <(missing_needs)
	((${#needs[@]} == 0)) || fail "still missing after installation: ${needs[*]}" "see $LOG"
}

# Everything that an installed command depends on beside the Python files, which are used in place.
sources_digest() {
	{
		printf '%s\n' "$REPOSITORY"
		"$(system_python)" --version
		cd "$REPOSITORY" || exit 1
		find packages tools/setup.sh -type f \
			\( -name '*.c' -o -name '*.h' -o -name '*.in' -o -name 'CMakeLists.txt' \
			-o -name '*.cmake' -o -name pyproject.toml -o -name hatch_build.py \
			-o -path tools/setup.sh \) -not -path '*/build/*' -not -path '*/tests/*' \
			-print0 | LC_ALL=C sort -z | xargs -0 sha256sum
	} | sha256sum | cut -d' ' -f1
}

make_environment() {
	local python
	python=$(system_python)
	# The programs in it name their interpreter by path: one that was moved is made again.
	local made_for=$ENVIRONMENT/.datacrumbs-path
	if ! [[ -r $made_for && $(<"$made_for") == "$ENVIRONMENT" ]] ||
		! "$ENVIRONMENT/bin/python" -c '' 2>/dev/null; then
		rm -rf "$ENVIRONMENT" "$REPOSITORY/build/client"
		logged "making $ENVIRONMENT" "$python" -m venv "$ENVIRONMENT"
		printf '%s' "$ENVIRONMENT" >"$made_for" || fail "$made_for: cannot write"
	fi
	say "building and installing the three packages into $ENVIRONMENT"
	logged "installing the Python packages" "$ENVIRONMENT/bin/pip" install --disable-pip-version-check \
		-e "$REPOSITORY/packages/datacrumbs-runtime" -e "$REPOSITORY/packages/datacrumbs-utils"
	local build=$REPOSITORY/build/client
	logged "configuring the client" cmake -S "$REPOSITORY/packages/datacrumbs-client-c" -B "$build" \
		-DBUILD_TESTING=OFF -DCMAKE_INSTALL_PREFIX="$ENVIRONMENT"
	logged "building the client" cmake --build "$build"
	logged "installing the client" cmake --install "$build"
}

# The whole set-up; does nothing if what it did last time is still current.
set_up() {
	local lock digest
	exec {lock}<"$REPOSITORY/tools/setup.sh"
	flock "$lock"
	if [[ ! -r $STAMP ]] || ! system_python >/dev/null || [[ $(<"$STAMP") != "$(sources_digest)" ]]; then
		if ! { mkdir -p "${LOG%/*}" && : >"$LOG"; } 2>/dev/null; then
			fail "$LOG: cannot write"
		fi
		if [[ ! -e $STAMP ]]; then
			require_space /
			require_space "$REPOSITORY"
		fi
		install_system_packages
		make_environment
		digest=$(sources_digest)
		printf '%s\n' "$digest" >"$STAMP" || fail "$STAMP: cannot write"
	fi
	exec {lock}<&-
}

mount_kernel_file_systems() {
	local type directory
	for type in tracefs:/sys/kernel/tracing debugfs:/sys/kernel/debug bpf:/sys/fs/bpf; do
		directory=${type#*:}
		type=${type%%:*}
		[[ -d $directory ]] || continue
		[[ $(stat -f -c %T "$directory") == "${type/bpf/bpf_fs}" ]] && continue
		mount -t "$type" "$type" "$directory" 2>/dev/null ||
			say "warning: $directory: cannot mount $type"
	done
}
