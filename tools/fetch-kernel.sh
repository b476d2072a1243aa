#!/bin/bash
# Get the newest Debian kernel of a suite, with its modules, for tools/kernel-vm.sh.
#
# usage: tools/fetch-kernel.sh SUITE[=VERSION]...  such as sid, trixie-backports, trixie-backports=6.18
#        tools/fetch-kernel.sh --list              the kernels that are there, one path a line
#
# Prints the path of each kernel: <directory>/<release>/boot/vmlinuz-<release>, its modules in
# <directory>/<release>/lib/modules. The directory is $DATACRUMBS_KERNEL_DIRECTORY, else
# ~/.cache/datacrumbs/kernels. A kernel that is there is not fetched again.
#
# The packages come from where this machine's own apt sources have Debian, are verified by apt
# with the machine's keys, and are unpacked, not installed: apt's lists and sources, /boot and
# /lib/modules stay as they are. Ends with 77 and the reason where this machine has no such apt.
set -euo pipefail

MISSING_STATUS=77
MIB_FOR_ONE=700
DIRECTORY=${DATACRUMBS_KERNEL_DIRECTORY:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/datacrumbs/kernels}

skip() { # WHAT HINT
	printf 'fetch-kernel: skipped: %s\nfetch-kernel: hint: %s\n' "$1" "$2" >&2
	exit "$MISSING_STATUS"
}

fail() { # WHERE WHAT
	printf 'fetch-kernel: error: %s: %s\n' "$1" "$2" >&2
	exit 1
}

list() {
	[[ -d $DIRECTORY ]] || return 0
	find "$DIRECTORY" -mindepth 3 -maxdepth 3 -path '*/boot/vmlinuz-*' | sort -V
}

# Where the machine's apt has Debian itself: not its security updates, nor somebody else's packages.
archive() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' |
		head -n 1
}

private_apt() { # PROGRAM ARGUMENT...
	local program=$1
	shift
	"$program" -q -o Dir::State="$work/state" -o Dir::State::status="$work/status" \
		-o Dir::Cache="$work/cache" -o Dir::Etc::sourcelist="$work/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null \
		-o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root \
		-o Acquire::Languages=none -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
		-o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false "$@"
}

dependencies() { # PACKAGE
	private_apt apt-cache depends --important "$1" | sed -n 's/^ *\(Pre\)\?Depends: //p'
}

# A kernel and what belongs to it alone: newer ones come in several packages, of which a suite may
# have forgotten one that holds no more than descriptions.
packages_of() { # PACKAGE
	local package
	printf '%s\n' "$1"
	dependencies "$1" | grep -F -- "-${1#linux-image-}" | while read -r package; do
		! private_apt apt-cache show "$package" >/dev/null 2>&1 || printf '%s\n' "$package"
	done
}

# The newest kernel of a version, or the one that the suite installs.
newest_package() { # ARCHITECTURE VERSION
	if [[ -n $2 ]]; then
		private_apt apt-cache pkgnames "linux-image-$2" |
			grep -xE "linux-image-[^-]+(-[0-9]+)?-$1" | sort -V | tail -n 1 | grep .
	else
		dependencies "linux-image-$1" | grep -m 1 '^linux-image-[0-9]'
	fi
}

fetch() { # SUITE[=VERSION]
	local suite=${1%%=*} version='' work uri problem package release packages keyring options=
	[[ $1 != *=* ]] || version=${1#*=}
	uri=$(archive) || uri=
	[[ -n $uri ]] || skip "apt knows no Debian archive" "only on Debian, after apt-get update"
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial "$work"/packages "$work"/root
	: >"$work/status"
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[[ ! -r $keyring ]] || options="[signed-by=$keyring] "
	printf 'deb %s%s %s main\n' "$options" "$uri" "$suite" >"$work/sources.list"
	# A server that does not answer is no error to apt.
	private_apt apt-get update >"$work/log" 2>&1 || true
	! problem=$(grep -m 1 -E '^(E:|W: (Failed to fetch|GPG error))' "$work/log") ||
		fail "$suite" "$problem"
	package=$(newest_package "$(dpkg --print-architecture)" "$version") ||
		fail "$suite" "it has no kernel${version:+ $version} for $(dpkg --print-architecture)"
	release=${package#linux-image-}
	if [[ ! -e $DIRECTORY/$release/boot/vmlinuz-$release ]]; then
		mkdir -p "$DIRECTORY"
		((MIB_FOR_ONE <= $(df --output=avail -BM "$DIRECTORY" | tr -dc '0-9\n' | tail -n 1))) ||
			fail "$DIRECTORY" "less than $MIB_FOR_ONE MiB are free"
		mapfile -t packages < <(packages_of "$package")
		(cd "$work/packages" && private_apt apt-get download "${packages[@]}") \
			>"$work/log" 2>&1 || fail "$package" "$(tail -n 1 "$work/log")"
		unpack "$release" "$work"
	fi
	rm -rf "$work"
	trap - EXIT
	printf '%s\n' "$DIRECTORY/$release/boot/vmlinuz-$release"
}

unpack() { # RELEASE WORK
	local release=$1 work=$2
	local file image=$work/root/boot/vmlinuz-$release modules=$work/root/lib/modules
	for file in "$work"/packages/*.deb; do
		dpkg-deb -x "$file" "$work/root" || fail "${file##*/}" "cannot be unpacked"
	done
	if [[ -d $work/root/usr/lib/modules ]]; then
		mkdir -p "$work/root/lib"
		mv "$work/root/usr/lib/modules" "$modules"
	fi
	if [[ ! -e $image ]]; then
		mkdir -p "$work/root/boot"
		mv "$modules/$release/vmlinuz" "$image" || fail "$release" "the packages hold no kernel"
	fi
	[[ ! -e $modules/$release/config ]] || mv "$modules/$release/config" "$work/root/boot/config-$release"
	rm -rf "$work/root/usr"
	[[ -d $modules/$release/kernel ]] || fail "$release" "the packages hold no modules"
	depmod -b "$work/root" "$release" || fail "$release" "depmod failed"
	# In place at once or not at all.
	rm -rf "${DIRECTORY:?}/.$release"
	cp -a "$work/root" "$DIRECTORY/.$release"
	rm -rf "${DIRECTORY:?}/$release"
	mv "$DIRECTORY/.$release" "$DIRECTORY/$release"
}

case ${1-} in
'' | -h | --help)
	sed -n '2,/^set/{s/^# \?//p}' "${BASH_SOURCE[0]}"
	[[ -n ${1-} ]] || exit 2
	;;
--list) list ;;
-*)
	printf 'fetch-kernel: error: no option %s\n' "$1" >&2
	exit 2
	;;
*)
	for program in apt-get apt-cache dpkg dpkg-deb depmod; do
		PATH=$PATH:/usr/sbin command -v "$program" >/dev/null ||
			skip "no $program" "only on Debian; depmod is in kmod"
	done
	PATH=$PATH:/usr/sbin
	for suite; do
		fetch "$suite"
	done
	;;
esac
