/* SPDX-License-Identifier: MIT */
/*
 * Calls every recorded system call, through syscall(2) so that libc changes nothing, and fails with
 * as many different errors as a program can cause on purpose. Prints "NAME RESULT" for each call,
 * RESULT as the kernel returned it: the witness for the trace of this program.
 *
 * usage: every_errno DIRECTORY    (an empty one)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define BAD_POINTER ((long)1) /* nothing is mapped there */
#define BAD_FD 9999
#define MAX_RECORDS 512

static struct {
	const char *name;
	long result;
} records[MAX_RECORDS];
static int nr_records;

static long note(const char *name, long number, long a, long b, long c, long d, long e, long f)
{
	long result = syscall(number, a, b, c, d, e, f);

	if (result == -1)
		result = -errno;
	records[nr_records].name = name;
	records[nr_records++].result = result;
	return result;
}

#define P(pointer) ((long)(intptr_t)(pointer))
#define SIX(a, b, c, d, e, f, ...) P(a), P(b), P(c), P(d), P(e), P(f)
#define CALL(name, ...) note(#name, SYS_##name, SIX(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0))

/* Numbers that the C library's headers may not know yet; the same on all architectures. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#define SYS_getxattrat 464
#define SYS_listxattrat 465
#define SYS_removexattrat 466
#endif

static void paths(void)
{
	static char long_name[300];
	static char long_path[5000];
	struct stat st;
	struct statx stx;
	struct {
		uint64_t flags, mode, resolve;
	} how = { O_RDONLY, 0, 0 }, bad_how = { ~0ULL, 0, 0 };
	char target[64];
	long fd;

	memset(long_name, 'n', sizeof(long_name) - 1);
	memset(long_path, '/', sizeof(long_path) - 1);
	CALL(openat, AT_FDCWD, "file", O_CREAT | O_RDWR, 0600);
	CALL(mkdirat, AT_FDCWD, "directory", 0700);
	CALL(symlinkat, "loop", AT_FDCWD, "loop");
	CALL(openat, AT_FDCWD, "nosuch", O_RDONLY);		/* ENOENT */
	CALL(openat, AT_FDCWD, "file/x", O_RDONLY);		/* ENOTDIR */
	CALL(openat, AT_FDCWD, "directory", O_WRONLY);		/* EISDIR */
	CALL(openat, AT_FDCWD, "file", O_CREAT | O_EXCL, 0600); /* EEXIST */
	CALL(openat, AT_FDCWD, "loop", O_RDONLY);		/* ELOOP */
	CALL(openat, AT_FDCWD, long_name, O_RDONLY);		/* ENAMETOOLONG */
	CALL(openat, AT_FDCWD, long_path, O_RDONLY);		/* ENAMETOOLONG */
	CALL(openat, AT_FDCWD, BAD_POINTER, O_RDONLY);		/* EFAULT */
	CALL(openat, BAD_FD, "file", O_RDONLY);			/* EBADF */
	CALL(openat, AT_FDCWD, "", O_RDONLY);			/* ENOENT */
	CALL(openat2, AT_FDCWD, "file", &how, sizeof(how));
	CALL(openat2, AT_FDCWD, "file", &bad_how, sizeof(bad_how)); /* EINVAL */
	CALL(openat2, AT_FDCWD, "file", &how, 3);		    /* EINVAL */
	CALL(openat2, AT_FDCWD, "file", &how, 1 << 20);		    /* E2BIG */
	fd = CALL(memfd_create, "memory", 0);
	CALL(memfd_create, "memory", ~0U); /* EINVAL */
	CALL(close, fd);
	CALL(close, fd);		  /* EBADF */
	CALL(close_range, 5000, 4000, 0); /* EINVAL */
	CALL(close_range, 5000, 5001, 0);
	CALL(mkdirat, AT_FDCWD, "directory", 0700); /* EEXIST */
	CALL(mkdirat, AT_FDCWD, "nosuch/x", 0700);  /* ENOENT */
	CALL(mknodat, AT_FDCWD, "fifo", S_IFIFO | 0600, 0);
	CALL(mknodat, AT_FDCWD, "odd", S_IFMT, 0);	       /* EINVAL */
	CALL(openat, AT_FDCWD, "fifo", O_WRONLY | O_NONBLOCK); /* ENXIO */
	CALL(linkat, AT_FDCWD, "file", AT_FDCWD, "second", 0);
	CALL(linkat, AT_FDCWD, "directory", AT_FDCWD, "third", 0);	 /* EPERM */
	CALL(linkat, AT_FDCWD, "/proc/self/stat", AT_FDCWD, "third", 0); /* EXDEV */
	CALL(renameat2, AT_FDCWD, "second", AT_FDCWD, "moved", 0);
	CALL(renameat2, AT_FDCWD, "moved", AT_FDCWD, "file", 1);	    /* EEXIST */
	CALL(renameat2, AT_FDCWD, "directory", AT_FDCWD, "directory/x", 0); /* EINVAL */
	CALL(renameat2, AT_FDCWD, "moved", AT_FDCWD, "directory", 0);	    /* EISDIR */
	CALL(renameat, AT_FDCWD, "moved", AT_FDCWD, "again");
	CALL(readlinkat, AT_FDCWD, "loop", target, sizeof(target));
	CALL(readlinkat, AT_FDCWD, "file", target, sizeof(target)); /* EINVAL */
	CALL(readlinkat, AT_FDCWD, "loop", target, -1);		    /* EINVAL */
	CALL(newfstatat, AT_FDCWD, "file", &st, 0);
	CALL(newfstatat, AT_FDCWD, "file", BAD_POINTER, 0); /* EFAULT */
	CALL(newfstatat, AT_FDCWD, "", &st, AT_EMPTY_PATH);
	CALL(statx, AT_FDCWD, "file", 0, STATX_ALL, &stx);
	CALL(statx, AT_FDCWD, "file", ~0, STATX_ALL, &stx); /* EINVAL */
	CALL(statfs, "file", &stx);
	CALL(faccessat, AT_FDCWD, "file", R_OK);
	CALL(faccessat, AT_FDCWD, "file", 99);	       /* EINVAL */
	CALL(faccessat2, AT_FDCWD, "nosuch", R_OK, 0); /* ENOENT */
	CALL(fchmodat, AT_FDCWD, "file", 0640);
	CALL(fchmodat2, AT_FDCWD, "file", 0600, 0);
	CALL(fchmodat2, AT_FDCWD, "file", 0600, ~0); /* EINVAL */
	CALL(fchownat, AT_FDCWD, "file", -1, -1, 0);
	CALL(fchownat, AT_FDCWD, "nosuch", 0, 0, 0); /* ENOENT */
	CALL(utimensat, AT_FDCWD, "file", 0, 0);
	CALL(utimensat, AT_FDCWD, "file", BAD_POINTER, 0); /* EFAULT */
	CALL(truncate, "file", 100);
	CALL(truncate, "file", -1L);	/* EINVAL */
	CALL(truncate, "directory", 1); /* EISDIR */
	CALL(setxattr, "file", "user.one", "value", 5, 0);
	CALL(getxattr, "file", "user.one", target, sizeof(target));
	CALL(getxattr, "file", "user.two", target, sizeof(target)); /* ENODATA */
	CALL(getxattr, "file", "user.one", target, 1);		    /* ERANGE */
	CALL(lgetxattr, "file", "odd", target, 1);		    /* EOPNOTSUPP */
	CALL(setxattr, "file", "user.one", "value", 5, 99);	    /* EINVAL */
	CALL(lsetxattr, "loop", "user.one", "value", 5, 0);	    /* EPERM */
	CALL(listxattr, "file", target, sizeof(target));
	CALL(llistxattr, "file", target, 1);	/* ERANGE */
	CALL(lremovexattr, "file", "user.two"); /* ENODATA */
	CALL(removexattr, "file", "user.one");
	CALL(setxattrat, AT_FDCWD, "file", 0, "user.x", 0, 0);
	CALL(getxattrat, AT_FDCWD, "file", 0, "user.x", 0, 0);
	CALL(listxattrat, AT_FDCWD, "file", 0, target, sizeof(target));
	CALL(removexattrat, AT_FDCWD, "file", 0, "user.x");
	CALL(unlinkat, AT_FDCWD, "directory", 0);	/* EISDIR */
	CALL(unlinkat, AT_FDCWD, "file", AT_REMOVEDIR); /* ENOTDIR */
	CALL(unlinkat, AT_FDCWD, "again", 0);
	CALL(unlinkat, AT_FDCWD, "again", 0); /* ENOENT */
	CALL(unlinkat, AT_FDCWD, "directory", AT_REMOVEDIR);
	CALL(chdir, "nosuch");					   /* ENOENT */
	CALL(chdir, "file");					   /* ENOTDIR */
	CALL(name_to_handle_at, AT_FDCWD, "file", target, &fd, 0); /* EOVERFLOW or EINVAL */
	CALL(open_by_handle_at, AT_FDCWD, BAD_POINTER, O_RDONLY);  /* EFAULT */
#ifdef SYS_open
	CALL(open, "file", O_RDONLY);
	CALL(creat, "created", 0600);
	CALL(creat, ".", 0600); /* EISDIR */
	CALL(stat, "file", &st);
	CALL(stat, "nosuch", &st); /* ENOENT */
	CALL(lstat, "loop", &st);
	CALL(access, "file", R_OK);
	CALL(access, "nosuch", R_OK); /* ENOENT */
	CALL(link, "file", "linked");
	CALL(link, "file", "linked"); /* EEXIST */
	CALL(symlink, "target", "symbolic");
	CALL(symlink, "target", "symbolic"); /* EEXIST */
	CALL(readlink, "symbolic", target, sizeof(target));
	CALL(rename, "linked", "renamed");
	CALL(rename, "nosuch", "renamed"); /* ENOENT */
	CALL(unlink, "renamed");
	CALL(unlink, "."); /* EISDIR */
	CALL(mkdir, "made", 0700);
	CALL(mkdir, "made", 0700); /* EEXIST */
	CALL(mkdir, "made/below", 0700);
	CALL(rmdir, "made"); /* ENOTEMPTY */
	CALL(rmdir, "made/below");
	CALL(rmdir, "made");
	CALL(rmdir, "file"); /* ENOTDIR */
	CALL(mknod, "node", S_IFIFO | 0600, 0);
	CALL(mknod, "node", S_IFIFO | 0600, 0); /* EEXIST */
	CALL(chmod, "file", 0600);
	CALL(chmod, "nosuch", 0600); /* ENOENT */
	CALL(chown, "file", -1, -1);
	CALL(lchown, "nosuch", -1, -1); /* ENOENT */
	CALL(utime, "file", 0);
	CALL(utimes, "nosuch", 0); /* ENOENT */
	CALL(futimesat, AT_FDCWD, "file", 0);
#endif
}

static void descriptors(void)
{
	static char buffer[4096];
	struct iovec one = { buffer, 100 }, bad = { (void *)BAD_POINTER, 100 };
	struct rlimit small = { 50, 50 }, old;
	struct stat st;
	int64_t offset = 10;
	int pair[2];
	long fd = CALL(openat, AT_FDCWD, "data", O_CREAT | O_RDWR, 0600);
	long reader = CALL(openat, AT_FDCWD, "data", O_RDONLY);
	long directory = CALL(openat, AT_FDCWD, ".", O_RDONLY | O_DIRECTORY);
	long other = CALL(openat, AT_FDCWD, "other", O_CREAT | O_RDWR, 0600);
	long full = CALL(openat, AT_FDCWD, "/dev/full", O_WRONLY);

	CALL(write, fd, buffer, sizeof(buffer));
	CALL(write, reader, buffer, 1);	   /* EBADF */
	CALL(write, fd, BAD_POINTER, 100); /* EFAULT */
	CALL(write, full, buffer, 100);	   /* ENOSPC */
	CALL(write, BAD_FD, buffer, 1);	   /* EBADF */
	CALL(read, reader, buffer, 1000);
	CALL(read, reader, buffer, sizeof(buffer));
	CALL(read, reader, buffer, 1);	  /* end of the file */
	CALL(read, directory, buffer, 1); /* EISDIR */
	CALL(lseek, reader, 5, SEEK_SET);
	CALL(lseek, reader, -100, SEEK_SET);	  /* EINVAL */
	CALL(lseek, reader, 0, 99);		  /* EINVAL */
	CALL(lseek, reader, 1L << 40, SEEK_DATA); /* ENXIO */
	CALL(readv, reader, &one, 1);
	CALL(readv, reader, &bad, 1);  /* EFAULT */
	CALL(readv, reader, &one, -1); /* EINVAL */
	CALL(writev, fd, &one, 1);
	CALL(pread64, reader, buffer, 100, 7);
	CALL(pread64, reader, buffer, 100, -1L); /* EINVAL */
	CALL(pwrite64, fd, buffer, 100, 50);
	CALL(preadv, reader, &one, 1, 3, 0);
	CALL(pwritev, fd, &one, 1, 3, 0);
	CALL(preadv2, reader, &one, 1, 3, 0, 0);
	CALL(preadv2, reader, &one, 1, 3, 0, 0x40000000); /* EOPNOTSUPP */
	CALL(pwritev2, fd, &one, 1, 3, 0, 0);
	CALL(fsync, fd);
	CALL(fsync, BAD_FD); /* EBADF */
	CALL(fdatasync, fd);
	CALL(fdatasync, directory);
	CALL(syncfs, BAD_FD); /* EBADF */
	CALL(sync_file_range, fd, 0, 100, 0);
	CALL(sync_file_range, fd, -5L, 100, 0); /* EINVAL */
	CALL(ftruncate, fd, 5000);
	CALL(ftruncate, reader, 10); /* EINVAL */
	CALL(ftruncate, fd, -1L);    /* EINVAL */
	CALL(fallocate, fd, 0, 0, 6000);
	CALL(fallocate, fd, 0, -1L, 10);     /* EINVAL */
	CALL(fallocate, fd, 0, 0, 1L << 62); /* EFBIG */
	CALL(fadvise64, fd, 0, 0, 0);
	CALL(fadvise64, fd, 0, 0, 99); /* EINVAL */
	CALL(readahead, fd, 0, 4096);
	CALL(readahead, BAD_FD, 0, 4096); /* EBADF */
	CALL(copy_file_range, reader, &offset, other, 0, 200, 0);
	CALL(copy_file_range, reader, 0, reader, 0, 200, 0);	   /* EBADF */
	CALL(copy_file_range, reader, &offset, other, 0, 200, 99); /* EINVAL */
	CALL(sendfile, other, reader, &offset, 300);
	CALL(sendfile, other, BAD_FD, 0, 300); /* EBADF */
	CALL(pipe2, pair, O_NONBLOCK);
	CALL(pipe2, BAD_POINTER, 0);	/* EFAULT */
	CALL(pipe2, pair, 0x12345);	/* EINVAL */
	CALL(read, pair[0], buffer, 1); /* EAGAIN */
	CALL(write, pair[1], buffer, 100);
	CALL(splice, pair[0], 0, other, 0, 50, 0);
	CALL(splice, fd, 0, other, 0, 50, 0); /* EINVAL */
	CALL(tee, pair[0], fd, 10, 0);	      /* EINVAL */
	CALL(vmsplice, pair[1], &one, 1, 0);
	CALL(vmsplice, fd, &one, 1, 0);	      /* EBADF */
	CALL(lseek, pair[0], 0, SEEK_SET);    /* ESPIPE */
	CALL(pread64, pair[0], buffer, 1, 0); /* ESPIPE */
	CALL(close, pair[0]);
	CALL(write, pair[1], buffer, 1); /* EPIPE */
	CALL(fstat, fd, &st);
	CALL(fstat, BAD_FD, &st); /* EBADF */
	CALL(fstatfs, fd, buffer);
	CALL(getdents64, directory, buffer, sizeof(buffer));
	CALL(getdents64, directory, buffer, sizeof(buffer)); /* the end */
	CALL(getdents64, fd, buffer, sizeof(buffer));	     /* ENOTDIR */
	CALL(fchmod, fd, 0600);
	CALL(fchown, fd, -1, -1);
	CALL(utimensat, fd, 0, 0, 0);
	CALL(fsetxattr, fd, "user.two", "x", 1, 0);
	CALL(fgetxattr, fd, "user.two", buffer, 100);
	CALL(flistxattr, fd, buffer, 100);
	CALL(fremovexattr, fd, "user.two");
	CALL(fremovexattr, fd, "user.two"); /* ENODATA */
	CALL(flock, fd, 2);
	CALL(flock, reader, 2 | 4); /* EAGAIN */
	CALL(flock, fd, 99);	    /* EINVAL */
	CALL(fcntl, fd, F_GETFL, 0);
	CALL(fcntl, fd, 9999, 0);	 /* EINVAL */
	CALL(ioctl, fd, 0x5401, buffer); /* ENOTTY */
	CALL(dup, fd);
	CALL(dup, BAD_FD); /* EBADF */
	CALL(dup3, fd, 100, O_CLOEXEC);
	CALL(dup3, fd, fd, 0); /* EINVAL */
	CALL(fchdir, fd);      /* ENOTDIR */
	CALL(fchdir, directory);
#ifdef SYS_dup2
	CALL(dup2, fd, 101);
	CALL(dup2, BAD_FD, 101); /* EBADF */
	CALL(getdents, directory, buffer, sizeof(buffer));
	CALL(pipe, pair);
	CALL(pipe, BAD_POINTER); /* EFAULT */
#endif
	getrlimit(RLIMIT_NOFILE, &old);
	small.rlim_max = old.rlim_max;
	small.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &small);
	CALL(dup, fd);				  /* EMFILE */
	CALL(openat, AT_FDCWD, "data", O_RDONLY); /* EMFILE */
	setrlimit(RLIMIT_NOFILE, &old);
}

static void memory_and_requests(void)
{
	long fd = CALL(openat, AT_FDCWD, "mapped", O_CREAT | O_RDWR, 0600);
	long context = 0;
	long address;
	char *mapped;

	CALL(ftruncate, fd, 8192);
	address = CALL(mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	mapped = (char *)address;
	mapped[0] = 'x';
	CALL(mmap, 0, 0, PROT_READ, MAP_SHARED, fd, 0);	     /* EINVAL */
	CALL(mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 123); /* EINVAL */
	CALL(msync, mapped, 4096, MS_SYNC);
	CALL(msync, mapped, 4096, 99); /* EINVAL */
	address = CALL(mremap, mapped, 8192, 4096, 0);
	CALL(munmap, address, 4096);
	CALL(io_setup, 4, &context);
	CALL(io_setup, 0, &context); /* EINVAL */
	CALL(io_submit, context, 0, 0);
	CALL(io_submit, 12345, 1, 0); /* EINVAL */
	CALL(io_getevents, context, 0, 0, 0, 0);
	CALL(io_pgetevents, 12345, 0, 0, 0, 0, 0); /* EINVAL */
	CALL(io_cancel, context, BAD_POINTER, 0);  /* EFAULT */
	CALL(io_destroy, context);
	CALL(io_destroy, context);		     /* EINVAL */
	CALL(io_uring_setup, 0, BAD_POINTER);	     /* EFAULT */
	CALL(io_uring_enter, fd, 1, 0, 0, 0, 0);     /* EOPNOTSUPP */
	CALL(io_uring_enter, BAD_FD, 1, 0, 0, 0, 0); /* EBADF */
	CALL(io_uring_register, fd, 0, 0, 0);	     /* EOPNOTSUPP or EINVAL */
	CALL(sync, 0);
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: every_errno DIRECTORY\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	paths();
	descriptors();
	memory_and_requests();
	for (int i = 0; i < nr_records; i++)
		printf("%s %ld\n", records[i].name, records[i].result);
	return 0;
}
