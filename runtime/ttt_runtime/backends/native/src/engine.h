/* A team with room for what its jobs need, made once and grown where a job needs more. */
#ifndef TTT_ENGINE_H
#define TTT_ENGINE_H

#include "pace.h"
#include "product.h"

#define ALIGNED 64

/* Kinds of jobs whose pace is kept. */
typedef enum { FORWARD_ROW, FORWARD_ROWS, CHOOSE_ROW, CHOOSE_ROWS, KINDS, OTHER = KINDS } job_kind;

typedef struct {
    team *team;
    int adapts;      /* the team's size follows the machine's other work */
    atomic_int limit; /* of the team's size */
    team_pace pace[KINDS];
    scratch *scratch; /* of each member */
    uint8_t *room;
    int64_t room_bytes;
    int64_t sections; /* of all jobs before this one */
} ttt_engine;

/* Hands out pieces of one buffer; without a buffer it only counts. */
typedef struct {
    uint8_t *at;
    int64_t taken;
} pieces;

static void *take(pieces *from, int64_t bytes)
{
    void *piece = from->at == NULL ? NULL : from->at + from->taken;
    from->taken += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return piece;
}

static rounded take_rounded(pieces *from, int64_t rows, int64_t inputs, int64_t blocks)
{
    rounded r;
    r.codes = take(from, rows * inputs);
    r.scales = take(from, rows * blocks * 4);
    r.sums = take(from, rows * blocks * 4);
    return r;
}

/* The most that any of some matrices asks for. */
typedef struct {
    int64_t inputs, blocks, block_bytes;
} widest;

static void widen(widest *most, const ttt_matrix *w)
{
    int64_t blocks = w->inputs / w->block, bytes = w->bits == 4 ? w->block * PANEL : 0;
    if (w->inputs > most->inputs)
        most->inputs = w->inputs;
    if (blocks > most->blocks)
        most->blocks = blocks;
    if (bytes > most->block_bytes)
        most->block_bytes = bytes;
}

static void take_scratch(ttt_engine *e, pieces *from, const widest *most, int64_t stride,
                         int64_t row)
{
    for (int i = 0; i < e->team->size; i++) {
        scratch *own = &e->scratch[i];
        own->sums = take(from, ROW_GROUP * PANEL * sizeof(float));
        own->codes = take(from, most->block_bytes);
        own->scores = take(from, SEEN_ROWS * stride * 4);
        own->row = take(from, row * 4);
        own->private = take_rounded(from, 1, most->inputs, most->blocks);
    }
}

/* Make room; 0 if there is no memory. */
static int grow(ttt_engine *e, int64_t bytes)
{
    if (bytes <= e->room_bytes)
        return 1;
    free(e->room);
    e->room_bytes = (bytes + 4095) / 4096 * 4096;
    e->room = aligned_alloc(4096, e->room_bytes);
    if (e->room == NULL)
        e->room_bytes = 0;
    return e->room != NULL;
}

/* Run a job; `cost` is what there is to do, in any unit that is its kind's own. */
static void run_job(ttt_engine *e, const team_work *work, void *job, job_kind kind, double cost)
{
    team *t = e->team;
    int limit = atomic_load_explicit(&e->limit, memory_order_relaxed);
    int called = (int)atomic_load_explicit(&t->called, memory_order_relaxed);
    if (kind == OTHER || !e->adapts) {
        team_call(t, e->adapts && called < limit ? called : limit);
        team_run(t, work, job);
    } else {
        team_pace *p = &e->pace[kind];
        team_call(t, pace_members(p, limit));
        int64_t begin = now_ns(), slept = atomic_load_explicit(&t->slept_ns, memory_order_relaxed);
        team_run(t, work, job);
        slept = atomic_load_explicit(&t->slept_ns, memory_order_relaxed) - slept;
        pace_note(p, limit, now_ns() - begin, slept, cost);
        atomic_store_explicit(&t->beside, p->before != 0 || p->members < limit || slept != 0,
                              memory_order_relaxed);
    }
    e->sections += work->sections(job);
}

/* Tell whether a member that holds units of a section holds its first ones; `own` is the
 * member's. */
static int begins_section(const ttt_engine *e, int64_t section, scratch *own)
{
    int64_t number = e->sections + section + 1;
    int begins = own->section != number;
    own->section = number;
    return begins;
}

#endif
