// SPDX-License-Identifier: MIT
/*
 * datacrumbs_wrap: run a command so that the daemon of this node records it.
 *
 * It registers itself by loading the client library and then execs, so that statically linked
 * programs and the first instructions of ld.so are recorded as well: a process stays registered
 * across exec. It runs once per MPI rank on a shared file system: no locale, no configuration.
 */
#define _GNU_SOURCE
#include "message.h"
#include "prefix.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define STATUS_USAGE 2
#define OVERFLOW_UID 65534 /* how a user namespace shows those that it does not have, as root */
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND 127

static const char *const library_names[] = {
	"lib/libdatacrumbs_client.so",
	"lib64/libdatacrumbs_client.so",
	DC_LIBDIR "/libdatacrumbs_client.so",
};

static const char usage[] =
	"usage: datacrumbs_wrap [--quiet] [--verbose] [--dry-run] [--] CMD [ARGS...]\n";

static const char help[] =
	"Run CMD so that the DataCrumbs daemon of this node records it and its children.\n"
	"\n"
	"  -h, --help     Show this text.\n"
	"      --version  Show the version.\n"
	"      --quiet    Say nothing but errors (also: QUIET=1).\n"
	"  -v, --verbose  Say which client library is preloaded (also: VERBOSE=1).\n"
	"  -n, --dry-run  Show what would be run, run nothing (also: DRY_RUN=1).\n"
	"\n"
	"Examples:\n"
	"  datacrumbs_wrap dd if=/dev/zero of=/tmp/out.bin bs=1M count=1\n"
	"  srun datacrumbs_wrap ./simulation input.nml\n"
	"\n"
	"The exit status is CMD's own; 127: CMD not found, 126: not executable, 2: wrong usage.\n";

struct options {
	int quiet;
	int verbose;
	int dry_run;
};

/* Returns the number of arguments consumed; exits on --help, --version and wrong usage. */
static int parse_options(int argc, char **argv, struct options *options)
{
	int i;

	for (i = 1; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		const char *option = argv[i];

		if (!strcmp(option, "--")) {
			i++;
			break;
		} else if (!strcmp(option, "--quiet")) {
			options->quiet = 1;
		} else if (!strcmp(option, "-v") || !strcmp(option, "--verbose")) {
			options->verbose = 1;
		} else if (!strcmp(option, "-n") || !strcmp(option, "--dry-run")) {
			options->dry_run = 1;
		} else if (!strcmp(option, "-h") || !strcmp(option, "--help")) {
			printf("%s%s", usage, help);
			exit(0);
		} else if (!strcmp(option, "--version")) {
			printf("datacrumbs_wrap %s\n", DC_VERSION);
			exit(0);
		} else {
			dc_say("error", "%s: no such option", option);
			dc_say("hint", "see datacrumbs_wrap --help");
			exit(STATUS_USAGE);
		}
	}
	if (i >= argc) {
		fputs(usage, stderr);
		exit(STATUS_USAGE);
	}
	return i;
}

static int find_library(char path[PATH_MAX])
{
	char prefix[PATH_MAX];

	if (dc_find_prefix(prefix))
		return -1;
	for (size_t i = 0; i < sizeof(library_names) / sizeof(library_names[0]); i++) {
		if (!dc_join_path(path, prefix, library_names[i]) && !access(path, R_OK))
			return 0;
	}
	dc_join_path(path, prefix, library_names[0]);
	return -1;
}

/* Whether the two names lead to one file. */
static int same_file(const char *left, const char *right)
{
	struct stat a, b;

	return !stat(left, &a) && !stat(right, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* ld.so separates the entries of LD_PRELOAD by colons or spaces. */
static int is_preloaded(const char *preload, const char *library)
{
	char *copy = strdup(preload), *rest = copy;
	const char *entry;
	int found = 0;

	while (!found && (entry = strsep(&rest, ": ")))
		found = strstr(entry, "/libdatacrumbs_client.so") && same_file(entry, library);
	free(copy);
	return found;
}

/* Put the library in front of LD_PRELOAD for the command. Returns 0, or -1 with errno. */
static int preload(const char *library)
{
	const char *current = getenv("LD_PRELOAD");
	char *value;
	int failed;

	if (!current || !*current)
		return setenv("LD_PRELOAD", library, 1);
	if (is_preloaded(current, library))
		return 0;
	if (asprintf(&value, "%s:%s", library, current) < 0)
		return -1;
	failed = setenv("LD_PRELOAD", value, 1);
	free(value);
	return failed;
}

/*
 * A daemon that listens has a uprobe on datacrumbs_start(), and the kernel writes that into the
 * code of every process that maps the library: a breakpoint in place of the first byte, or a call
 * in place of all five. So the untouched nop means that nobody is listening. This asks no file and
 * no socket, and works for any user. Where we do not know the bytes we say nothing.
 */
static int nobody_listens(void *library)
{
#if defined(__x86_64__)
	static const unsigned char untouched[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
#elif defined(__aarch64__)
	static const unsigned char untouched[] = { 0x1f, 0x20, 0x03, 0xd5 };
#else
	static const unsigned char untouched[] = { 0 };
#endif
	const void *start = dlsym(library, "datacrumbs_start");

	return start && sizeof(untouched) > 1 && !memcmp(start, untouched, sizeof(untouched));
}

/*
 * Its status file says whose a run is: nobody else can read it but root, and root's own has no ACL,
 * which lets its owner read it. On file systems without ACLs it is the owner's.
 */
static int is_our_run(int directory, const char *status_file)
{
	char path[PATH_MAX];
	struct stat status;

	if (fstatat(directory, status_file, &status, AT_SYMLINK_NOFOLLOW))
		return 1;
	if (getuid() || status.st_uid == OVERFLOW_UID)
		return !faccessat(directory, status_file, R_OK, 0);
	if (status.st_uid)
		return 0;
	return dc_join_path(path, DC_RUN_DIR, status_file) ||
	       lgetxattr(path, "system.posix_acl_access", NULL, 0) <= 0;
}

/*
 * Returns whether the runs that are ready are all somebody else's; without any, or where that
 * cannot be seen, as in a container, 0.
 */
static int only_others_listen(void)
{
	static const char ready[] = ".ready", status_file[] = ".json";
	DIR *directory = opendir(DC_RUN_DIR);
	const struct dirent *entry;
	int others = 0, ours = 0;

	if (!directory)
		return 0;
	while (!ours && (entry = readdir(directory))) {
		size_t length = strlen(entry->d_name), stem = length - strlen(ready);
		char name[sizeof(entry->d_name) + sizeof(status_file)];

		if (length <= strlen(ready) || strcmp(entry->d_name + stem, ready))
			continue;
		memcpy(name, entry->d_name, stem);
		memcpy(name + stem, status_file, sizeof(status_file));
		ours = is_our_run(dirfd(directory), name);
		others = 1;
	}
	closedir(directory);
	return others && !ours;
}

/* Loading the library calls datacrumbs_start() in its constructor: that registers us. */
static void register_and_preload(const struct options *options)
{
	char path[PATH_MAX];
	void *library;
	int only_others;

	if (find_library(path)) {
		dc_say("error", "%s: %s", path, strerror(errno));
		dc_say("hint", "datacrumbs_wrap belongs into bin/ beside lib/ of one installation");
		exit(1);
	}
	if (options->dry_run) {
		if (preload(path)) {
			dc_say("error", "LD_PRELOAD: %s", strerror(errno));
			exit(1);
		}
		return;
	}
	/* before we are registered: what we look at is no part of the trace */
	only_others = !options->quiet && only_others_listen();
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		dc_say("error", "%s", dlerror());
		exit(1);
	}
	if (nobody_listens(library) && !options->quiet)
		dc_say("warning", "no daemon is listening on this node, nothing is recorded");
	else if (only_others)
		dc_say("warning", "all runs on this node are other users', nothing is recorded");
	if (strpbrk(path, ": ")) {
		/* ld.so would take the path apart. We are registered, which is inherited. */
		if (!options->quiet)
			dc_say("warning", "%s: not preloaded: the path has a colon or space", path);
		return;
	}
	if (preload(path)) {
		dc_say("error", "LD_PRELOAD: %s", strerror(errno));
		exit(1);
	}
	if (options->verbose)
		dc_say("info", "%s is preloaded", path);
}

static void show(char **command)
{
	const char *value = getenv("LD_PRELOAD");

	printf("LD_PRELOAD=%s", value ? value : "");
	for (; *command; command++)
		printf(" %s", *command);
	putchar('\n');
}

/* What a shell would answer for a command that could not be executed. */
static int exec_failure(const char *command, int error)
{
	struct stat status;

	if (error == ENOENT && strchr(command, '/') && !access(command, F_OK)) {
		dc_say("error", "%s: its interpreter does not exist", command);
		return STATUS_NOT_EXECUTABLE;
	}
	if (error == ENOENT && !strchr(command, '/')) {
		dc_say("error", "%s: command not found", command);
		return STATUS_NOT_FOUND;
	}
	if (error == EACCES && !stat(command, &status) && S_ISDIR(status.st_mode))
		error = EISDIR;
	dc_say("error", "%s: %s", command, strerror(error));
	return error == ENOENT || error == ENOTDIR ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
}

int main(int argc, char **argv)
{
	struct options options = {
		.quiet = dc_environment_flag("QUIET"),
		.verbose = dc_environment_flag("VERBOSE"),
		.dry_run = dc_environment_flag("DRY_RUN"),
	};
	char **command;

	dc_command_name = "datacrumbs_wrap";
	command = argv + parse_options(argc, argv, &options);
	register_and_preload(&options);
	if (options.dry_run) {
		show(command);
		return 0;
	}
	execvp(command[0], command);
	return exec_failure(command[0], errno);
}
