/* A team of threads that work through one job together and meet at barriers in between.
 *
 * A text step of a small model meets over a hundred times in a few milliseconds, so those who wait
 * spin. Between jobs they spin for a moment, since the next step usually follows at once, and sleep
 * then: other threads (the codec's) need the CPU.
 */
#ifndef TTT_TEAM_H
#define TTT_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "simd.h"

/* A millisecond: who yields earlier gives a whole time slice away. */
#define SPINS_BEFORE_YIELD 60000
/* Python between two forwards takes less than half of it. */
#define NANOSECONDS_AWAKE 300000

typedef void (*team_job)(void *job, int member);

typedef struct {
    int size;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint jobs; /* handed out so far */
    atomic_int stop, asleep;
    team_job run;
    void *argument;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t *threads; /* size - 1; the caller is member 0 */
} team;

typedef struct {
    team *of;
    int number;
} team_member;

static void team_wait(team *t)
{
    if (t->size == 1)
        return;
    unsigned phase = atomic_load_explicit(&t->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) == t->size - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&t->phase, memory_order_acquire) == phase; spins++) {
        _mm_pause();
        if (spins > SPINS_BEFORE_YIELD) /* somebody else has the CPU that the last one needs */
            sched_yield();
    }
}

static int64_t team_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Wait for another job than the last one; return 0 when the team is dissolved. */
static int team_next(team *t, unsigned done)
{
    int64_t until = team_now() + NANOSECONDS_AWAKE;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&t->jobs, memory_order_acquire) != done)
                return !atomic_load(&t->stop);
            _mm_pause();
        }
    } while (team_now() < until);
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->asleep, 1);
    while (atomic_load(&t->jobs) == done)
        pthread_cond_wait(&t->wake, &t->lock);
    atomic_fetch_sub(&t->asleep, 1);
    pthread_mutex_unlock(&t->lock);
    return !atomic_load(&t->stop);
}

static void *team_main(void *argument)
{
    team_member self = *(team_member *)argument;
    free(argument);
    team *t = self.of;
    unsigned done = 0;
    while (team_next(t, done)) {
        done++;
        t->run(t->argument, self.number);
        team_wait(t);
    }
    return NULL;
}

static void team_hand_out(team *t)
{
    /* A member counts itself asleep, then looks for a job; here the job comes first, the count
     * second: one of the two sees the other. */
    atomic_fetch_add(&t->jobs, 1);
    if (atomic_load(&t->asleep)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
    }
}

/* Run a job on all members; return when all are done. One caller at a time. */
static void team_run(team *t, team_job run, void *argument)
{
    t->run = run;
    t->argument = argument;
    if (t->size > 1)
        team_hand_out(t);
    run(argument, 0);
    team_wait(t);
}

static void team_dissolve(team *t, int started)
{
    atomic_store(&t->stop, 1);
    team_hand_out(t);
    for (int i = 0; i < started; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t->threads);
    free(t);
}

/* Each further member stays on one of the process's CPUs: a thread that the system moves in the
 * middle of a step keeps all others waiting. The caller's thread is nobody's to pin. */
static void team_pin(pthread_t thread, int number)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    int have = CPU_COUNT(&allowed), wanted = number % (have > 0 ? have : 1);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && wanted-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(thread, sizeof one, &one);
            return;
        }
    }
}

/* Return a team, or NULL where the system has no memory or no threads for it. */
static team *team_new(int size)
{
    team *t = aligned_alloc(64, sizeof *t + (64 - sizeof *t % 64) % 64);
    if (t == NULL)
        return NULL;
    memset(t, 0, sizeof *t);
    t->size = size;
    t->threads = calloc(size, sizeof *t->threads);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    int started = 0;
    while (t->threads != NULL && started < size - 1) {
        team_member *self = malloc(sizeof *self);
        if (self == NULL)
            break;
        *self = (team_member){t, started + 1};
        if (pthread_create(&t->threads[started], NULL, team_main, self) != 0) {
            free(self);
            break;
        }
        team_pin(t->threads[started], started + 1);
        started++;
    }
    if (started == size - 1)
        return t;
    team_dissolve(t, started);
    return NULL;
}

#endif
