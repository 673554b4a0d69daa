/* A team of threads that work through one job together, on a machine that may have other work.
 *
 * A job is a list of sections, a section a number of units. A section begins when all units of the
 * one before are done; within it any member may compute any unit. Members take a few units at a
 * time, first of their own share (so that each reads one stream of memory), then of the others'.
 * Whoever finishes a section opens the next. So nobody waits for a member that has no CPU, but for
 * the few units that it holds just then.
 *
 * What a member touches without holding units is the team's own: a job ends when its units are
 * done, wherever its members are.
 */
#ifndef TTT_TEAM_H
#define TTT_TEAM_H

#include <pthread.h>
#include <stdlib.h>

#include "wait.h"

#define MOST_THREADS 256
/* Of a claim; the other 42 number the sections: those of 14 years, 10,000 a second. */
#define UNIT_BITS 22
#define MOST_UNITS (((int64_t)1 << UNIT_BITS) - 1)

/* Nobody waits longer than this for the others on a machine that has no other work. */
#define AWAKE_IN_JOB_NS 30000
/* Python between two forwards takes less than half of it. */
#define AWAKE_BETWEEN_NS 300000
/* While other work wants the CPUs. */
#define AWAKE_BESIDE_NS 50000

typedef struct {
    int64_t units; /* 1 .. MOST_UNITS */
    int64_t grain; /* how many are taken at a time */
} section_size;

typedef struct {
    int64_t (*sections)(const void *job);
    section_size (*size)(const void *job, int64_t section);
    void (*run)(void *job, int64_t section, int64_t first, int64_t last, int member);
    /* Where not NULL: called once by each member that has done units, when no more are left. */
    void (*rest)(void *job, int64_t section, int member);
} team_work;

/* One section as members see it before they hold any of it. */
typedef struct {
    _Atomic uint64_t number; /* counted over all jobs */
    _Atomic int64_t units;   /* 0 between jobs */
    _Atomic int64_t grain;
    _Atomic int64_t members;
} team_slot;

/* How far a member's share of a section is given out: section number, next unit. */
typedef struct {
    _Alignas(64) _Atomic uint64_t claim;
} team_share;

typedef struct {
    int size;
    _Alignas(64) atomic_uint turn; /* changes with every section; slot `turn & 1` tells of it */
    team_slot slot[2];
    _Alignas(64) _Atomic int64_t done; /* units of the section */
    atomic_int asleep; /* members that wait for the next turn and must be woken */
    _Atomic int64_t slept_ns; /* of all members, within jobs */
    _Alignas(64) atomic_uint called;   /* members that take part; the others sleep on this word */
    atomic_int stop, beside; /* `beside`: other work wants the CPUs */
    /* Of the job at hand; read by those who hold units of it. */
    const team_work *work;
    void *job;
    int64_t section, members;
    team_share *share; /* [size] */
    pthread_t *threads; /* [size - 1]; the caller is member 0 */
} team;

typedef struct {
    team *of;
    int number;
} team_member;

/* ---- sections ---- */

/* Tell everybody of the next section, or of none (`units` 0). Called by who holds the last one. */
static void team_publish(team *t, section_size of)
{
    unsigned turn = atomic_load_explicit(&t->turn, memory_order_relaxed);
    const team_slot *old = &t->slot[turn & 1];
    team_slot *new = &t->slot[(turn + 1) & 1];
    uint64_t number = atomic_load_explicit(&old->number, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->done, 0, memory_order_relaxed);
    /* Who still reads what this slot said before finds that the turn has changed. */
    atomic_store_explicit(&new->number, number, memory_order_release);
    atomic_store_explicit(&new->units, of.units, memory_order_release);
    atomic_store_explicit(&new->grain, of.grain, memory_order_release);
    atomic_store_explicit(&new->members, t->members, memory_order_release);
    /* A member counts itself asleep, then looks at the turn; here the turn comes first, the count
     * second: one of the two sees the other. */
    atomic_store(&t->turn, turn + 1);
    if (atomic_load(&t->asleep) != 0)
        wake_all(&t->turn);
}

static void team_open(team *t, int64_t section)
{
    section_size none = {0, 0};
    t->section = section;
    team_publish(t, section < t->work->sections(t->job) ? t->work->size(t->job, section) : none);
}

typedef struct {
    unsigned turn;
    uint64_t number;
    int64_t units, grain, members;
} team_view;

static team_view team_look(const team *t)
{
    team_view v;
    do {
        v.turn = atomic_load_explicit(&t->turn, memory_order_acquire);
        const team_slot *slot = &t->slot[v.turn & 1];
        v.number = atomic_load_explicit(&slot->number, memory_order_acquire);
        v.units = atomic_load_explicit(&slot->units, memory_order_acquire);
        v.grain = atomic_load_explicit(&slot->grain, memory_order_acquire);
        v.members = atomic_load_explicit(&slot->members, memory_order_acquire);
    } while (atomic_load_explicit(&t->turn, memory_order_relaxed) != v.turn);
    return v;
}

/* Take units [returned, *end) of what is left of [begin, *end); -1 if nothing is left, or if the
 * section is over. A claim that succeeds keeps its section, and so its job, from ending. */
static int64_t team_claim(_Atomic uint64_t *claim, const team_view *v, int64_t begin, int64_t *end)
{
    uint64_t seen = atomic_load_explicit(claim, memory_order_relaxed);
    for (;;) {
        uint64_t number = seen >> UNIT_BITS;
        int64_t at = number == v->number ? (int64_t)(seen & MOST_UNITS) : begin;
        if (number > v->number || at >= *end)
            return -1;
        int64_t next = at + v->grain < *end ? at + v->grain : *end;
        uint64_t taken = v->number << UNIT_BITS | (uint64_t)next;
        if (atomic_compare_exchange_weak_explicit(claim, &seen, taken, memory_order_acq_rel,
                                                  memory_order_relaxed)) {
            *end = next;
            return at;
        }
    }
}

/* The first unit of a member's share. */
static int64_t share_begin(int64_t units, int64_t member, int64_t members)
{
    return units * member / members;
}

/* Do what can be done of a section: the own share, then what others have left. */
static void team_work_on(team *t, const team_view *v, int self)
{
    int64_t done = 0;
    for (int64_t i = 0; i < v->members; i++) {
        int64_t owner = self + i < v->members ? self + i : self + i - v->members;
        int64_t begin = share_begin(v->units, owner, v->members), first;
        int64_t end = share_begin(v->units, owner + 1, v->members), last = end;
        while ((first = team_claim(&t->share[owner].claim, v, begin, &last)) >= 0) {
            t->work->run(t->job, t->section, first, last, self);
            done += last - first;
            last = end;
        }
    }
    if (done == 0)
        return;
    if (t->work->rest != NULL)
        t->work->rest(t->job, t->section, self);
    if (atomic_fetch_add(&t->done, done) + done == v->units)
        team_open(t, t->section + 1);
}

/* Wait until the turn is another one. Tell how long it was slept for. */
static int64_t team_wait(team *t, unsigned turn, int64_t awake_ns)
{
    if (await_awake(&t->turn, turn, awake_ns))
        return 0;
    int64_t begin = now_ns();
    atomic_fetch_add(&t->asleep, 1);
    while (atomic_load(&t->turn) == turn)
        sleep_on(&t->turn, turn);
    atomic_fetch_sub(&t->asleep, 1);
    return now_ns() - begin;
}

static void team_wait_in_job(team *t, unsigned turn)
{
    int64_t slept = team_wait(t, turn, AWAKE_IN_JOB_NS);
    if (slept != 0)
        atomic_fetch_add_explicit(&t->slept_ns, slept, memory_order_relaxed);
}

static void team_wait_between(team *t, unsigned turn)
{
    team_wait(t, turn, atomic_load(&t->beside) ? AWAKE_BESIDE_NS : AWAKE_BETWEEN_NS);
}

/* ---- members ---- */

static void *team_main(void *argument)
{
    team_member self = *(team_member *)argument;
    free(argument);
    team *t = self.of;
    for (;;) {
        unsigned called = atomic_load(&t->called);
        team_view v = team_look(t);
        if (atomic_load(&t->stop)) /* after the two: what dissolves a team changes them last */
            return NULL;
        if ((unsigned)self.number >= called) {
            sleep_on(&t->called, called);
            continue;
        }
        if (self.number < v.members && v.units != 0)
            team_work_on(t, &v, self.number);
        if (v.units != 0)
            team_wait_in_job(t, v.turn);
        else
            team_wait_between(t, v.turn);
    }
}

/* Let so many members take part from the next job on. */
static void team_call(team *t, int members)
{
    unsigned before = atomic_load_explicit(&t->called, memory_order_relaxed);
    if ((unsigned)members == before)
        return;
    atomic_store(&t->called, (unsigned)members);
    if ((unsigned)members > before)
        wake_all(&t->called);
}

/* Run a job; return when it is done. One caller at a time. */
static void team_run(team *t, const team_work *work, void *job)
{
    t->work = work;
    t->job = job;
    t->members = atomic_load_explicit(&t->called, memory_order_relaxed);
    team_open(t, 0);
    for (;;) {
        team_view v = team_look(t);
        if (v.units == 0)
            return;
        team_work_on(t, &v, 0);
        team_wait_in_job(t, v.turn);
    }
}

static void team_dissolve(team *t, int started)
{
    atomic_store(&t->stop, 1);
    team_call(t, MOST_THREADS + 1); /* a change that wakes those who were not called */
    section_size none = {0, 0};
    team_publish(t, none);
    for (int i = 0; i < started; i++)
        pthread_join(t->threads[i], NULL);
    free(t->threads);
    free(t->share);
    free(t);
}

/* Return zeroed memory in lines of its own; NULL if there is none. */
static void *new_lines(size_t bytes)
{
    size_t whole = (bytes + 63) / 64 * 64;
    void *lines = aligned_alloc(64, whole);
    if (lines != NULL)
        memset(lines, 0, whole);
    return lines;
}

/* Return a team, or NULL where the system has no memory or no threads for it. */
static team *team_new(int size)
{
    team *t = new_lines(sizeof *t);
    if (t == NULL)
        return NULL;
    t->size = size;
    atomic_init(&t->called, (unsigned)size);
    t->threads = calloc(size, sizeof *t->threads);
    t->share = new_lines(size * sizeof *t->share);
    int started = 0;
    while (t->threads != NULL && t->share != NULL && started < size - 1) {
        team_member *self = malloc(sizeof *self);
        if (self == NULL)
            break;
        *self = (team_member){t, started + 1};
        if (pthread_create(&t->threads[started], NULL, team_main, self) != 0) {
            free(self);
            break;
        }
        started++;
    }
    if (t->threads != NULL && t->share != NULL && started == size - 1)
        return t;
    team_dissolve(t, started);
    return NULL;
}

#endif
