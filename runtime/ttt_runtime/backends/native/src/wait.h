/* Waiting for a number that another thread changes: awake for a while, then asleep. */
#ifndef TTT_WAIT_H
#define TTT_WAIT_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "simd.h"

#define PAUSES_A_LOOK 64 /* between two looks at the clock: 1 to 3 microseconds */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleep until `word` is changed and its sleepers are woken, if it is `seen` still. May return
 * early. */
static void sleep_on(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Stay awake until `word` is not `seen`, for so long at most; tell whether it changed. */
static int await_awake(atomic_uint *word, unsigned seen, int64_t nanoseconds)
{
    int64_t until = 0;
    do {
        for (int i = 0; i < PAUSES_A_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen)
                return 1;
            pause_a_little();
        }
        if (until == 0) /* most waits are over before the clock is read */
            until = now_ns() + nanoseconds;
    } while (now_ns() < until);
    return 0;
}

#endif
