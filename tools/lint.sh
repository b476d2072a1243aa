#!/usr/bin/env bash
# Style checks of all languages: ruff, clang-format, shellcheck, codespell, vermin. Changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

ruff check .
ruff format --check .

mapfile -d '' -t c_files < <(git ls-files -z --deduplicate -- 'packages/*.c' 'packages/*.h')
clang-format --dry-run --Werror "${c_files[@]}"

if command -v shellcheck >/dev/null; then
	mapfile -d '' -t scripts < <(git grep -lz '^#!.*\(bash\|/sh\)$' -- . ':!*.in')
	shellcheck -x "${scripts[@]}"
else
	echo "lint: warning: shellcheck is missing, shell scripts are not checked" >&2
fi

# Tests misspell on purpose.
git ls-files -z -- ':!*/tests/*' ':!*.gz' | xargs -0 codespell

# Flux loads its plugin with its own Python, which may be as old as 3.6.
flux_plugins=packages/datacrumbs-utils/data/flux
if [[ -d $flux_plugins ]]; then
	vermin --quiet -t=3.6- --violations "$flux_plugins"
fi
