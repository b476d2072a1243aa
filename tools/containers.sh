# shellcheck shell=bash
# Sourced by runtests after setup.sh: an engine and an image for the tests that need a real systemd.

BASE_IMAGE=debian:bookworm-slim
ENGINE_PID=

# A docker engine for the time of the tests, unless one is running already.
start_container_engine() {
	docker info >/dev/null 2>&1 && return
	command -v dockerd >/dev/null || [[ $(distribution) != debian ]] ||
		install_debian_packages docker.io
	local log=$REPOSITORY/build/dockerd.log
	if command -v dockerd >/dev/null; then
		say "starting a container engine (log: $log.*)"
		local attempt waited
		# What an engine that was killed left behind can make the next one give up once.
		for attempt in 1 2 3; do
			setsid dockerd >"$log.$attempt" 2>&1 </dev/null &
			ENGINE_PID=$!
			for ((waited = 0; waited < 60; waited++)); do
				docker info >/dev/null 2>&1 && return
				kill -0 "$ENGINE_PID" 2>/dev/null || break
				sleep 1
			done
		done
	fi
	say "WARNING: no container engine: tests under a real systemd will be skipped"
	return 1
}

# What the tests under a real systemd need; without it they are skipped.
set_up_containers() {
	start_container_engine || return 0
	# In a shell of its own: a failure ends that only.
	(make_base_image) && return
	say "WARNING: no image $BASE_IMAGE: tests under a real systemd will be skipped or fail"
	stop_container_engine
}

stop_container_engine() {
	[[ -z $ENGINE_PID ]] || kill "$ENGINE_PID" 2>/dev/null || true
}

# The image comes from a registry or, where none can be reached, from this machine's own package
# sources; what the machine needs to reach them is copied from it.
make_base_image() {
	docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && return
	timeout 60 docker pull -q "$BASE_IMAGE" >/dev/null 2>&1 && return
	command -v mmdebstrap >/dev/null || install_debian_packages mmdebstrap
	local sources=() options=() file
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
		[[ ! -s $file ]] || sources+=("$file")
	done
	for file in /usr/local/share/ca-certificates/*.crt /etc/apt/apt.conf.d/*proxy* /etc/pip.conf; do
		[[ ! -f $file ]] || options+=("--customize-hook=copy-in $file ${file%/*}")
	done
	say "making the image $BASE_IMAGE from this machine's package sources"
	local archive=$REPOSITORY/build/base-image.tar
	logged "making $BASE_IMAGE" mmdebstrap --quiet --variant=minbase --include=ca-certificates \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		"${options[@]}" --customize-hook="chroot \"\$1\" update-ca-certificates" \
		bookworm "$archive" "${sources[@]}"
	logged "importing $BASE_IMAGE" docker import -c 'CMD ["bash"]' \
		-c 'ENV DEBIAN_FRONTEND=noninteractive' "$archive" "$BASE_IMAGE"
	rm -f "$archive"
}
