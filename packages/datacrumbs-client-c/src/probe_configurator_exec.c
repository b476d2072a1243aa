// SPDX-License-Identifier: MIT
/*
 * datacrumbs_probe_configurator_exec: hand one unsigned probe file to the signer of this node and
 * write the signed one to standard output. The signer knows this program by device and inode; it
 * is small and native so that what the signer trusts can be read in a few minutes.
 */
#include "message.h"
#include "prefix.h"
#include "signer_socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_S 60
#define MAX_TIMEOUT_S 3600
#define FIRST_BUFFER_BYTES (1u << 20)

enum status {
	STATUS_SIGNED = 0,
	STATUS_FAILED = 1, /* our input or output, or trouble inside the signer */
	STATUS_USAGE = 2,
	STATUS_NO_SIGNER = 3,
	STATUS_REFUSED = 4,
	STATUS_TIMED_OUT = 5,
};

static const char help[] =
	"usage: datacrumbs_probe_configurator_exec [--socket PATH] [--timeout SECONDS] "
	"< unsigned.json > signed.json\n"
	"Relay one unsigned probe file to the signer of this node.\n"
	"\n"
	"  -h, --help             Show this text.\n"
	"      --version          Show the version.\n"
	"      --socket PATH      The signer's socket (also: DATACRUMBS_SIGN_PROBES_SOCKET_PATH).\n"
	"      --timeout SECONDS  Longest wait for the signer, default 60.\n"
	"\n"
	"Exit status: 0 signed, 1 failed, 2 wrong usage, 3 no signer, 4 refused, 5 timed out.\n";

struct options {
	const char *socket_path; /* NULL: this installation's */
	long timeout_s;
};

static int wrong_usage(const char *argument, const char *what)
{
	dc_say("error", "%s: %s", argument, what);
	dc_say("hint", "see datacrumbs_probe_configurator_exec --help");
	exit(STATUS_USAGE);
}

static void parse_options(int argc, char **argv, struct options *options)
{
	char *end;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
			fputs(help, stdout);
			exit(STATUS_SIGNED);
		} else if (!strcmp(argv[i], "--version")) {
			printf("datacrumbs_probe_configurator_exec %s\n", DC_VERSION);
			exit(STATUS_SIGNED);
		} else if (!strcmp(argv[i], "--socket")) {
			if (!value || !*value)
				wrong_usage(argv[i], "a path is missing");
			options->socket_path = value;
			i++;
		} else if (!strcmp(argv[i], "--timeout")) {
			if (!value)
				wrong_usage(argv[i], "a number of seconds is missing");
			options->timeout_s = strtol(value, &end, 10);
			if (*end || end == value || options->timeout_s < 1 ||
			    options->timeout_s > MAX_TIMEOUT_S)
				wrong_usage(value, "not a number of seconds from 1 to 3600");
			i++;
		} else {
			wrong_usage(argv[i], "no such option");
		}
	}
}

/* Returns the malloc()ed bytes of standard input, or NULL when an error was printed. */
static char *read_input(size_t *bytes)
{
	size_t capacity = FIRST_BUFFER_BYTES;
	char *buffer = malloc(capacity);
	ssize_t count;

	*bytes = 0;
	while (buffer) {
		count = read(STDIN_FILENO, buffer + *bytes, capacity - *bytes);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0) {
			dc_say("error", "standard input: %s", strerror(errno));
			goto failed;
		}
		if (count == 0)
			break;
		*bytes += count;
		if (*bytes > DC_MAX_PAYLOAD_BYTES) {
			dc_say("error", "standard input: larger than %u MiB",
			       DC_MAX_PAYLOAD_BYTES >> 20);
			goto failed;
		}
		if (*bytes == capacity) {
			char *larger = realloc(buffer, capacity *= 2);

			if (!larger)
				free(buffer);
			buffer = larger;
		}
	}
	if (!buffer) {
		dc_say("error", "standard input: %s", strerror(ENOMEM));
		return NULL;
	}
	if (*bytes > 0)
		return buffer;
	dc_say("error", "standard input: empty, where a probe file was expected");
failed:
	free(buffer);
	return NULL;
}

static int write_output(const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t count = write(STDOUT_FILENO, bytes, size);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0) {
			dc_say("error", "standard output: %s", strerror(errno));
			return STATUS_FAILED;
		}
		bytes += count;
		size -= count;
	}
	return STATUS_SIGNED;
}

static int socket_error(const char *path, int error)
{
	switch (error) {
	case ETIMEDOUT:
		dc_say("error", "%s: the signer did not answer in time", path);
		dc_say("hint", "try again, or ask the administrator to look at "
			       "datacrumbs_sign_probes.service");
		return STATUS_TIMED_OUT;
	case EPROTO:
		dc_say("error", "%s: this is not a signer of this version", path);
		return STATUS_FAILED;
	case ECONNRESET:
		dc_say("error", "%s: the signer closed the connection", path);
		dc_say("hint", "its log (journalctl -u datacrumbs_sign_probes) says why");
		return STATUS_FAILED;
	default:
		dc_say("error", "%s: %s", path, strerror(error));
		return STATUS_FAILED;
	}
}

static int connect_error(const char *path, int error)
{
	if (error == ETIMEDOUT)
		return socket_error(path, error);
	dc_say("error", "%s: no signer: %s", path, strerror(error));
	dc_say("hint", "the administrator starts it with systemctl start datacrumbs_sign_probes");
	return STATUS_NO_SIGNER;
}

/* Print the text of a refusal: the reason, then the hint if there is a second line. */
static int refusal(struct dc_answer *answer)
{
	char *rest = answer->payload;
	const char *reason = strsep(&rest, "\n");

	dc_say("error", "%s", *reason ? reason : "refused without a reason");
	if (rest && *rest)
		dc_say("hint", "%s", rest);
	return answer->kind == DC_REFUSED ? STATUS_REFUSED : STATUS_FAILED;
}

/*
 * The socket: named by the caller, else this installation's (normally a link into the run
 * directory), else that of the run directory that was set when this was built.
 */
static int connect_signer(const char *named, char path[PATH_MAX], int64_t deadline_ns)
{
	char prefix[PATH_MAX];
	int fd;

	if (named) {
		int length = snprintf(path, PATH_MAX, "%s", named);

		errno = ENAMETOOLONG;
		return length < PATH_MAX ? dc_signer_connect(path, deadline_ns) : -1;
	}
	if (!dc_find_prefix(prefix) &&
	    !dc_join_path(path, prefix, "share/datacrumbs/data/datacrumbs-sign-probes.sock")) {
		fd = dc_signer_connect(path, deadline_ns);
		if (fd >= 0 || errno != ENOENT)
			return fd;
	}
	snprintf(path, PATH_MAX, "%s", DC_RUN_DIR "/datacrumbs-sign-probes.sock");
	return dc_signer_connect(path, deadline_ns);
}

int main(int argc, char **argv)
{
	struct options options = { .timeout_s = DEFAULT_TIMEOUT_S };
	struct dc_answer answer = { 0 };
	char path[PATH_MAX] = "";
	int64_t deadline_ns;
	size_t bytes;
	char *document;
	int fd, status;

	dc_command_name = "datacrumbs_probe_configurator_exec";
	options.socket_path = getenv("DATACRUMBS_SIGN_PROBES_SOCKET_PATH");
	if (options.socket_path && !*options.socket_path)
		options.socket_path = NULL;
	parse_options(argc, argv, &options);
	document = read_input(&bytes);
	if (!document)
		return STATUS_FAILED;

	deadline_ns = dc_now_ns() + options.timeout_s * INT64_C(1000000000);
	fd = connect_signer(options.socket_path, path, deadline_ns);
	if (fd < 0)
		status = connect_error(path, errno);
	else if (dc_signer_ask(fd, document, bytes, deadline_ns, &answer))
		status = socket_error(path, errno);
	else if (answer.kind == DC_SIGNED)
		status = write_output(answer.payload, answer.payload_bytes);
	else
		status = refusal(&answer);
	free(answer.payload);
	free(document);
	if (fd >= 0)
		close(fd);
	return status;
}
