/* What a draw needs of long logits: the largest of them, and the sum of all exponentials. */
#ifndef TTT_TOP_K_H
#define TTT_TOP_K_H

#include <math.h>

#include "engine.h"

#define TOP_K_PARTS 2
#define CHUNK 4096 /* values whose sum is one float32; sums of chunks are added in float64 */

/* Logits that may come in parts, one behind the other. Mirrored by `structures.TopKFinder`. */
typedef struct {
    const float *parts[TOP_K_PARTS];
    int64_t widths[TOP_K_PARTS]; /* 0 where there is no such part */
    int64_t count;                  /* of the largest that are wanted; at most all there are */
    float per_unit;
    int64_t *ids;  /* [count], largest first, of equals the first */
    float *values; /* [count] */
    double *sum;   /* [1], of exp((value - largest) * per_unit) */
} ttt_top_k;

typedef struct {
    float *values; /* [count], largest first */
    int64_t *ids;
    int64_t found;
} top;

typedef struct {
    ttt_engine *engine;
    const ttt_top_k *call;
    int64_t parts;
    top *tops;   /* [parts] */
    float *sums; /* [chunks] */
} top_k_job;

static int64_t chunks_of(const ttt_top_k *s, int part)
{
    return (s->widths[part] + CHUNK - 1) / CHUNK;
}

/* Values of chunk `number`, counted through all parts; returns how many. */
static int64_t chunk_at(const ttt_top_k *s, int64_t number, const float **values, int64_t *first)
{
    int part = number < chunks_of(s, 0) ? 0 : 1;
    int64_t at = (number - (part ? chunks_of(s, 0) : 0)) * CHUNK, left = s->widths[part] - at;
    *values = s->parts[part] + at;
    *first = at + (part ? s->widths[0] : 0);
    return left < CHUNK ? left : CHUNK;
}

static void enter(top *t, int64_t count, float value, int64_t id)
{
    if (t->found == count && value <= t->values[count - 1])
        return;
    int64_t i = t->found < count ? t->found++ : count - 1;
    for (; i > 0 && t->values[i - 1] < value; i--) {
        t->values[i] = t->values[i - 1];
        t->ids[i] = t->ids[i - 1];
    }
    t->values[i] = value;
    t->ids[i] = id;
}

static void enter_all(top *t, int64_t count, const float *values, int64_t size, int64_t first)
{
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        if (t->found == count && !vf_any_above(vf_load(values + i), vf_set(t->values[count - 1])))
            continue;
        for (int lane = 0; lane < LANES; lane++)
            enter(t, count, values[i + lane], first + i + lane);
    }
    for (; i < size; i++)
        enter(t, count, values[i], first + i);
}

static float sum_of_chunk(const float *values, int64_t size, float largest, float per_unit)
{
    vf total = vf_zero(), shift = vf_set(largest), factor = vf_set(per_unit);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        total = vf_add(total, vf_exp(vf_mul(vf_sub(vf_load(values + i), shift), factor)));
    float sum = vf_sum(total);
    for (; i < size; i++)
        sum += expf((values[i] - largest) * per_unit);
    return sum;
}

/* The sections: the largest of each part of the chunks, then the chunks' sums. */
static int64_t top_k_sections(const void *job)
{
    (void)job;
    return 2;
}

static int64_t all_chunks(const ttt_top_k *s) { return chunks_of(s, 0) + chunks_of(s, 1); }

static section_size top_k_size(const void *argument, int64_t section)
{
    const top_k_job *job = argument;
    return (section_size){section == 0 ? job->parts : all_chunks(job->call), 1};
}

static void top_k_run(void *argument, int64_t section, int64_t first, int64_t last, int member)
{
    top_k_job *job = argument;
    const ttt_top_k *s = job->call;
    const float *values;
    int64_t begin;
    (void)member;
    if (section == 0) {
        for (int64_t part = first; part < last; part++) {
            int64_t chunk = share_begin(all_chunks(s), part, job->parts);
            int64_t end = share_begin(all_chunks(s), part + 1, job->parts);
            for (; chunk < end; chunk++) {
                int64_t size = chunk_at(s, chunk, &values, &begin);
                enter_all(&job->tops[part], s->count, values, size, begin);
            }
        }
        return;
    }
    float largest = -INFINITY;
    for (int64_t part = 0; part < job->parts; part++)
        if (job->tops[part].found > 0 && job->tops[part].values[0] > largest)
            largest = job->tops[part].values[0];
    for (int64_t chunk = first; chunk < last; chunk++) {
        int64_t size = chunk_at(s, chunk, &values, &begin);
        job->sums[chunk] = sum_of_chunk(values, size, largest, s->per_unit);
    }
}

static const team_work top_k_work = {
    .sections = top_k_sections, .size = top_k_size, .run = top_k_run,
};

static void lay_out_top_k(top_k_job *job, pieces *from)
{
    const ttt_top_k *s = job->call;
    int64_t parts = 2 * job->engine->team->size;
    job->parts = parts < all_chunks(s) ? parts : all_chunks(s);
    job->tops = take(from, job->parts * sizeof(top));
    job->sums = take(from, all_chunks(s) * sizeof(float));
    for (int64_t part = 0; part < job->parts; part++) {
        float *values = take(from, s->count * sizeof(float));
        int64_t *ids = take(from, s->count * sizeof(int64_t));
        if (job->tops != NULL)
            job->tops[part] = (top){values, ids, 0};
    }
}

/* 0, or -1 without memory. */
static int find_top_k(ttt_engine *e, const ttt_top_k *s)
{
    top_k_job job = {.engine = e, .call = s};
    pieces count = {NULL, 0};
    lay_out_top_k(&job, &count);
    if (!grow(e, count.taken))
        return -1;
    pieces real = {e->room, 0};
    lay_out_top_k(&job, &real);
    run_job(e, &top_k_work, &job, OTHER, 0);
    top all = {s->values, s->ids, 0};
    for (int64_t part = 0; part < job.parts; part++)
        for (int64_t i = 0; i < job.tops[part].found; i++)
            enter(&all, s->count, job.tops[part].values[i], job.tops[part].ids[i]);
    *s->sum = 0;
    for (int64_t c = 0; c < all_chunks(s); c++)
        *s->sum += job.sums[c];
    return 0;
}

#endif
