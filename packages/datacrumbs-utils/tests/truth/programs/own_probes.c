/* SPDX-License-Identifier: MIT */
/*
 * usage: own_probes ROUNDS PROCESSES THREADS
 *
 * Calls functions and passes USDT probes of its own in threads of several processes, and sends
 * itself signals. Every process prints "PID NAME CALLS ERRORS" for all of it at its end.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES(apply)                                                                               \
	apply(add) apply(say) apply(refuse) apply(depth) apply(leap) apply(around) apply(step)     \
		apply(mark) apply(signal)
#define COUNTER(name) static int calls_of_##name, errors_of_##name;
#define REPORT(name) printf("%d " #name " %d %d\n", getpid(), calls_of_##name, errors_of_##name);
#define COUNT(name, calls) __sync_fetch_and_add(&calls_of_##name, calls)
NAMES(COUNTER)

#ifdef __x86_64__
#define FIRST "rdi"
#define SECOND "rsi"
#define OPERANDS "-4@%%edi 8@%%rsi"
#else
#define FIRST "x0"
#define SECOND "x1"
#define OPERANDS "-4@w0 8@x1"
#endif

/* As sys/sdt.h would: the kernel raises the semaphore while somebody listens. */
__asm__(".pushsection .probes,\"aw\",\"progbits\"\n"
	"semaphore_of_mark: .zero 2\n"
	".popsection\n"
	".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
	".weak _.stapsdt.base\n.hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n"
	".size _.stapsdt.base, 1\n.popsection\n");
extern volatile unsigned short semaphore_of_mark __attribute__((visibility("hidden")));

#define PROBE(name, semaphore, number, text)                                                       \
	do {                                                                                       \
		register long first __asm__(FIRST) = (number);                                     \
		register const char *second __asm__(SECOND) = (text);                              \
		__asm__ volatile("990: nop\n.pushsection .note.stapsdt,\"?\",\"note\"\n"           \
				 ".balign 4\n.4byte 992f-991f, 994f-993f, 3\n"                     \
				 "991: .asciz \"stapsdt\"\n992: .balign 4\n993: .8byte 990b\n"     \
				 ".8byte _.stapsdt.base\n.8byte " semaphore "\n"                   \
				 ".asciz \"own\"\n.asciz \"" name "\"\n.asciz \"" OPERANDS "\"\n"  \
				 "994: .balign 4\n.popsection\n"                                   \
				 :                                                                 \
				 : "r"(first), "r"(second));                                       \
	} while (0)

#define KEPT __attribute__((noipa))

/* They do not count themselves: no probe goes on an instruction with a lock prefix. */
KEPT int add(int first, int second)
{
	return first + second;
}

KEPT unsigned long say(const char *text, unsigned char letter, long long big)
{
	return text[0] + letter + big;
}

KEPT int refuse(int number)
{
	return number % 3 ? number : -1;
}

KEPT int depth(int levels)
{
	return levels ? 1 + depth(levels - 1) : 0;
}

/* Every fourth time it never returns. */
KEPT int leap(int number, jmp_buf *back)
{
	if (number % 4 == 0)
		longjmp(*back, 1);
	return number;
}

KEPT int around(int number)
{
	jmp_buf back;

	if (setjmp(back))
		return -2;
	return leap(number, &back);
}

static void *work(void *argument)
{
	int rounds = *(int *)argument;
	char text[32];

	for (int i = 0; i < rounds; i++) {
		snprintf(text, sizeof(text), "round \"%d\"", i);
		PROBE("step__entry", "0", i, text);
		add(i, -i - 2);
		say(text, 200, 1LL << 40);
		if (refuse(i) < 0)
			__sync_fetch_and_add(&errors_of_refuse, 1);
		COUNT(depth, 1 + depth(i % 5));
		if (around(i) == i)
			COUNT(leap, 1);
		PROBE("step__return", "0", i, text);
		if (semaphore_of_mark) {
			PROBE("mark", "semaphore_of_mark", -i, text);
			COUNT(mark, 1);
		}
		if (i % 10 == 0) {
			raise(SIGUSR1);
			COUNT(signal, 1);
		}
	}
	COUNT(add, rounds);
	COUNT(say, rounds);
	COUNT(refuse, rounds);
	COUNT(around, rounds);
	COUNT(step, rounds);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[16];
	int rounds, nr_threads, status = 0, failed = 0;

	if (argc != 4)
		return 2;
	rounds = atoi(argv[1]);
	nr_threads = atoi(argv[3]) < 16 ? atoi(argv[3]) : 16;
	signal(SIGUSR1, SIG_IGN);
	for (int i = 1; i < atoi(argv[2]); i++)
		if (!fork())
			break;
	for (int i = 0; i < nr_threads; i++)
		pthread_create(&threads[i], NULL, work, &rounds);
	for (int i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	NAMES(REPORT)
	fflush(stdout);
	while (wait(&status) > 0)
		failed |= status;
	return failed != 0;
}
